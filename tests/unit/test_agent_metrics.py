"""The agent's metrics, and the HTTP server for metrics, liveness, readiness and links."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ratchet.agent.connections import Limits
from ratchet.agent.http import PROBE_LIMITS, PUBLIC_LIMITS, HttpServer
from ratchet.agent.metrics import SERIES_MAX, Gauges, Metrics
from ratchet.agent.pages import health_pages, public_pages
from ratchet.core.model import State
from ratchet.errors import InvalidConfigError, RatchetError


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric by label values, which are ordered by the names of the labels."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.name == name
    }


Look = Callable[[str], Mapping[str, Any] | None]
Why = Callable[[], str | None]
Note = Callable[[], str]


def no_reason() -> None:
    return None


def no_note() -> str:
    return ""


@dataclass(frozen=True)
class Health:
    """The health of an agent: the reasons why it is not live or not ready, and a note."""

    why_not_live: Why = no_reason
    why_not_ready: Why = no_reason
    note: Note = no_note


@dataclass(frozen=True)
class Links:
    """The links of an agent, as a function that finds a link by UID."""

    look: Look = lambda _: None


class Proofs:
    """An agent that has proven nothing."""

    def page(self) -> Mapping[str, Any]:
        return {"node": "node-a", "proofs": {}}


def public_server(
    address: str,
    metrics: Metrics | None = None,
    health: Health | None = None,
    links: Links | None = None,
    limits: Limits = PUBLIC_LIMITS,
) -> HttpServer:
    pages = public_pages(metrics or Metrics(), health or Health(), links or Links(), Proofs())
    return HttpServer("metrics", address, pages, limits)


class TestMetrics:
    def test_calls_are_timed_by_command_and_code(self) -> None:
        metrics = Metrics()
        metrics.call("ADD", 0, 0.2)
        metrics.call("ADD", 0, 0.3)
        metrics.call("ADD", 11, 60)
        assert values(metrics, "ratchet_cni_call_seconds_count") == {("0", "ADD"): 2, ("11", "ADD"): 1}
        assert values(metrics, "ratchet_cni_call_seconds_sum") == {("0", "ADD"): 0.5, ("11", "ADD"): 60}
        assert values(metrics, "ratchet_cni_call_seconds_bucket")["0", "ADD", "0.25"] == 1

    def test_links_retries_api_requests_and_dropped_events_are_counted(self) -> None:
        metrics = Metrics()
        metrics.linked(0.02)
        metrics.retry("conflict")
        metrics.retry("conflict")
        metrics.api("GET", 200, 0.01)
        metrics.api("GET", 0, 3)
        metrics.event_dropped()
        assert values(metrics, "ratchet_link_ready_seconds_count") == {(): 1}
        assert values(metrics, "ratchet_retries_total") == {("conflict",): 2}
        assert values(metrics, "ratchet_api_requests_total") == {("0", "GET"): 1, ("200", "GET"): 1}
        assert values(metrics, "ratchet_api_request_seconds_count") == {("GET",): 2}
        assert values(metrics, "ratchet_events_dropped_total") == {(): 1}

    def test_gauges_are_collected_at_each_scrape_and_cover_every_state(self) -> None:
        metrics = Metrics()
        assert values(metrics, "ratchet_links") == {}
        now = iter([Gauges({State.LINKED: 3, State.PENDING: 1}, queue=4, calls=2, vnis=5, sandboxes=6), Gauges()])
        metrics.gauges(lambda: next(now))
        text = metrics.text().decode()
        for line in (
            'ratchet_links{state="linked"} 3.0',
            'ratchet_links{state="pending"} 1.0',
            'ratchet_links{state="pair-ready"} 0.0',
            "ratchet_queue_length 4.0",
            "ratchet_calls_in_progress 2.0",
            "ratchet_vnis_in_use 5.0",
            "ratchet_sandboxes 6.0",
        ):
            assert f"\n{line}\n" in text
        assert values(metrics, "ratchet_links")[("linked",)] == 0

    def test_a_failure_to_collect_gauges_does_not_affect_other_metrics(self, caplog: pytest.LogCaptureFixture) -> None:
        metrics = Metrics()
        metrics.gauges(lambda: Gauges(queue=1 // 0))
        metrics.linked(1)
        assert values(metrics, "ratchet_link_ready_seconds_count") == {(): 1}
        assert values(metrics, "ratchet_queue_length") == {}
        assert "cannot collect the gauges" in caplog.text

    def test_build_info_and_process_metrics_are_exported(self) -> None:
        metrics = Metrics()
        assert list(values(metrics, "ratchet_build_info").values()) == [1]
        assert values(metrics, "process_resident_memory_bytes")[()] > 0

    def test_two_metrics_objects_are_independent(self) -> None:
        one, other = Metrics(), Metrics()
        one.retry("conflict")
        assert values(other, "ratchet_retries_total") == {}

    def test_the_number_of_series_is_bounded(self) -> None:
        metrics = Metrics()
        for number in range(SERIES_MAX + 50):
            metrics.retry(f"reason {number}")
        metrics.retry("reason 7")
        counted = values(metrics, "ratchet_retries_total")
        assert len(counted) == SERIES_MAX + 1
        assert counted[("other",)] == 50
        assert counted[("reason 7",)] == 2

    def test_counts_of_several_threads_add_up(self) -> None:
        metrics = Metrics()

        def work() -> None:
            for code in range(200):
                metrics.call("ADD", code % 4, 0.1)

        with ThreadPoolExecutor(8) as threads:
            for _ in range(8):
                threads.submit(work)
        assert values(metrics, "ratchet_cni_call_seconds_count") == {(str(code), "ADD"): 400 for code in range(4)}

    @pytest.mark.parametrize("module", ["ratchet.node.plugin", "ratchet.node.dispatch", "ratchet.cli.main"])
    def test_plugin_and_cli_do_not_import_prometheus_client(self, module: str) -> None:
        code = f"import sys, {module}; sys.exit('prometheus_client' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Client:
    """An HTTP client of a server at 127.0.0.1."""

    def __init__(self, http_server: HttpServer) -> None:
        self.port = int(http_server.address.rpartition(":")[2])

    def fetch(self, path: str, method: str = "GET") -> tuple[int, str, http.client.HTTPResponse]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode(), response

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


Serve = Callable[..., Client]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start HTTP servers on free loopback ports, and return a client of each."""
    with ExitStack() as stack:

        def make(
            live: Why = no_reason,
            ready: Why = no_reason,
            metrics: Metrics | None = None,
            look: Look = lambda _: None,
            limits: Limits = PUBLIC_LIMITS,
        ) -> Client:
            server = public_server("127.0.0.1:0", metrics, Health(live, ready), Links(look), limits)
            return Client(stack.enter_context(server))

        yield make


class TestHttpServer:
    def test_metrics_are_served_in_the_text_format(self, serve: Serve) -> None:
        metrics = Metrics()
        metrics.retry("conflict")
        status, text, response = serve(metrics=metrics).fetch("/metrics?x=y")
        assert (status, response.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert '\nratchet_retries_total{reason="conflict"} 1.0\n' in text
        assert response.headers["Server"] == "ratchet"

    def test_livez_and_readyz_return_200_or_503_with_the_reason(self, serve: Serve) -> None:
        reason: list[str | None] = [None]
        http_client = serve(live=lambda: reason[0], ready=lambda: "the API is away, é\udc80")
        assert http_client.fetch("/livez")[:2] == (200, "ok\n")
        assert http_client.fetch("/readyz")[:2] == (503, "the API is away, é\\udc80\n")
        reason[0] = "a worker hangs"
        assert http_client.fetch("/livez")[:2] == (503, "a worker hangs\n")

    def test_a_link_is_served_only_at_the_uid_of_its_record(self, serve: Serve) -> None:
        http_client = serve(look=lambda uid: {"link": "é"} if uid == "known" else None)
        status, text, response = http_client.fetch("/links/known?x=y")
        assert (status, json.loads(text)) == (200, {"link": "é"})
        assert response.headers["Content-Type"] == "application/json"
        for path in ("/links/unknown", "/links/", "/links/known/more", "/links/%6bnown"):
            assert http_client.fetch(path)[:2] == (404, "no link of this node has a record of that UID\n")
        assert http_client.fetch("/links")[0] == 404

    def test_logs_do_not_contain_the_uid(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        def faulty(uid: str) -> None:
            raise RuntimeError("a fault")

        caplog.set_level(logging.DEBUG)
        assert serve(look=faulty).fetch("/links/secret")[0] == 500
        assert "request failed path=/links/" in caplog.text
        assert "request served method=GET path=/links/ code=500" in caplog.text
        assert "secret" not in caplog.text

    def test_head_is_get_without_a_body(self, serve: Serve) -> None:
        http_client = serve()
        status, text, response = http_client.fetch("/livez", "HEAD")
        assert (status, text, response.headers["Content-Length"]) == (200, "", "3")
        assert http_client.fetch("/readyz", "HEAD")[:2] == (200, "")

    def test_unknown_paths_return_404_and_post_returns_501(self, serve: Serve) -> None:
        http_client = serve()
        assert http_client.fetch("/")[0] == 404
        assert http_client.fetch("/metrics/../livez")[0] == 404
        assert http_client.fetch("/livez", "POST")[0] == 501

    def test_an_internal_error_returns_500_and_the_server_keeps_running(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        def faulty() -> str | None:
            raise RuntimeError("secret")

        http_client = serve(ready=faulty)
        assert http_client.fetch("/readyz")[:2] == (500, "internal error: RuntimeError\n")
        assert "request failed path=/readyz" in caplog.text
        assert http_client.fetch("/livez")[0] == 200

    def test_the_server_prints_nothing(self, serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
        http_client = serve()
        http_client.fetch("/metrics")
        http_client.fetch("/nowhere")
        with http_client.connect() as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            while connection.recv(1000):
                pass
        assert capfd.readouterr() == ("", "")

    def test_a_slow_client_is_disconnected(self, serve: Serve) -> None:
        http_client = serve(limits=Limits(in_all=1, per_client=1, seconds=0.1))
        with http_client.connect() as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
            assert connection.recv(1000) == b""

    def test_the_number_of_concurrent_connections_of_a_client_is_limited(self, serve: Serve) -> None:
        http_client = serve()
        with ExitStack() as stack:
            for _ in range(PUBLIC_LIMITS.per_client):
                stack.enter_context(http_client.connect())
            with http_client.connect() as connection:
                assert connection.recv(1000) == b""
        # Closed connections free their slots only when the server notices the close.
        connected = threading.Event()

        def retry_until_served() -> None:
            while not connected.is_set():
                try:
                    if http_client.fetch("/livez")[0] == 200:
                        connected.set()
                except (ConnectionError, http.client.HTTPException):
                    pass

        retrying = threading.Thread(target=retry_until_served, daemon=True)
        retrying.start()
        assert connected.wait(10)

    def test_the_probes_are_answered_while_clients_occupy_the_public_port(self) -> None:
        """96 connections that send nothing but a byte now and then kept the kubelet from an answer of /livez."""
        health = Health()
        probes = HttpServer("health", "127.0.0.1:0", health_pages(health), PROBE_LIMITS)
        with public_server("127.0.0.1:0", health=health) as public, probes, ExitStack() as stack:
            dripping = [stack.enter_context(Client(public).connect()) for _ in range(96)]
            for connection in dripping[: PUBLIC_LIMITS.per_client]:
                connection.sendall(b"G")
            assert Client(probes).fetch("/livez")[:2] == (200, "ok\n")
            assert Client(probes).fetch("/readyz")[:2] == (200, "ok\n")

    def test_the_port_of_the_probes_has_no_other_pages(self) -> None:
        with HttpServer("health", "127.0.0.1:0", health_pages(Health()), PROBE_LIMITS) as probes:
            for path in ("/metrics", "/links/known"):
                assert Client(probes).fetch(path)[:2] == (404, "not found: the paths are /livez, /readyz\n")

    @pytest.mark.parametrize("address", [":0", "127.0.0.1:0", "localhost:0", "[::1]:0"])
    def test_address_is_set_while_the_server_runs(self, address: str) -> None:
        http_server = public_server(address)
        assert http_server.address == ""
        try:
            with http_server:
                host, _, port = http_server.address.rpartition(":")
                assert int(port) > 0
                assert (
                    host
                    in {
                        ":0": ("[::]", "0.0.0.0"),
                        "127.0.0.1:0": ("127.0.0.1",),
                        "localhost:0": ("127.0.0.1", "[::1]"),
                        "[::1]:0": ("[::1]",),
                    }[address]
                )
                family = "::1" if host == "[::1]" else "127.0.0.1"
                socket.create_connection((family, int(port)), timeout=10).close()
        except RatchetError as error:
            if address != "[::1]:0":
                raise
            pytest.skip(f"no IPv6 here: {error}")
        assert http_server.address == ""

    def test_an_empty_address_disables_the_server(self) -> None:
        with public_server("") as http_server:
            assert http_server.address == ""

    def test_exit_releases_the_port_and_ends_the_thread(self) -> None:
        before = threading.active_count()
        with public_server("127.0.0.1:0") as http_server:
            address = http_server.address
        assert threading.active_count() <= before
        with public_server(address) as http_server:
            assert http_server.address == address

    def test_an_address_in_use_is_reported(self) -> None:
        with public_server("127.0.0.1:0") as first:
            second = public_server(first.address)
            with pytest.raises(RatchetError) as caught, second:
                pass
            assert str(caught.value) == f"cannot serve metrics at {first.address}: Address already in use"

    @pytest.mark.parametrize("address", ["9472", "x", "::1:80", ":65536"])
    def test_an_invalid_address_is_rejected(self, address: str) -> None:
        http_server = public_server(address)
        with pytest.raises(InvalidConfigError, match=f"cannot serve metrics at '{address}': expected "), http_server:
            pass
