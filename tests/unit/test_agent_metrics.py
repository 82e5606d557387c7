"""The agent's metrics, and the endpoint that serves them with whether it lives and is ready."""

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

from ratchet.agent.http import AT_ONCE, HttpServer
from ratchet.agent.metrics import SERIES_MAX, Gauges, Metrics
from ratchet.core.model import State
from ratchet.errors import InvalidConfigError, RatchetError


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of this name by the values of their labels, in the order of the labels' names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.name == name
    }


Look = Callable[[str], Mapping[str, Any] | None]
Why = Callable[[], str | None]


def no_reason() -> None:
    return None


@dataclass(frozen=True)
class Health:
    """The health of an agent: the reasons why it is not live or not ready."""

    why_not_live: Why = no_reason
    why_not_ready: Why = no_reason


@dataclass(frozen=True)
class Links:
    """The links of an agent."""

    look: Look = lambda _: None


class TestMetrics:
    def test_calls_are_timed_by_command_and_code(self) -> None:
        metrics = Metrics()
        metrics.call("ADD", 0, 0.2)
        metrics.call("ADD", 0, 0.3)
        metrics.call("ADD", 11, 60)
        assert values(metrics, "ratchet_cni_call_seconds_count") == {("0", "ADD"): 2, ("11", "ADD"): 1}
        assert values(metrics, "ratchet_cni_call_seconds_sum") == {("0", "ADD"): 0.5, ("11", "ADD"): 60}
        assert values(metrics, "ratchet_cni_call_seconds_bucket")["0", "ADD", "0.25"] == 1

    def test_links_retries_requests_and_dropped_events(self) -> None:
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

    def test_gauges_are_asked_for_at_each_scrape_and_every_state_is_there(self) -> None:
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

    def test_gauges_that_cannot_be_had_cost_only_themselves(self, caplog: pytest.LogCaptureFixture) -> None:
        metrics = Metrics()
        metrics.gauges(lambda: Gauges(queue=1 // 0))
        metrics.linked(1)
        assert values(metrics, "ratchet_link_ready_seconds_count") == {(): 1}
        assert values(metrics, "ratchet_queue_length") == {}
        assert "cannot collect the gauges" in caplog.text

    def test_the_version_that_runs_and_the_process(self) -> None:
        metrics = Metrics()
        assert list(values(metrics, "ratchet_build_info").values()) == [1]
        assert values(metrics, "process_resident_memory_bytes")[()] > 0

    def test_two_of_them_do_not_add_up(self) -> None:
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

    def test_threads_count_together(self) -> None:
        metrics = Metrics()

        def work() -> None:
            for code in range(200):
                metrics.call("ADD", code % 4, 0.1)

        with ThreadPoolExecutor(8) as threads:
            for _ in range(8):
                threads.submit(work)
        assert values(metrics, "ratchet_cni_call_seconds_count") == {(str(code), "ADD"): 400 for code in range(4)}

    @pytest.mark.parametrize("module", ["ratchet.node.plugin", "ratchet.node.dispatch", "ratchet.cli.main"])
    def test_the_plugin_does_without_the_library(self, module: str) -> None:
        code = f"import sys, {module}; sys.exit('prometheus_client' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Asker:
    """A person who asks an endpoint at 127.0.0.1."""

    def __init__(self, endpoint: HttpServer) -> None:
        self.port = int(endpoint.address.rpartition(":")[2])

    def ask(self, path: str, method: str = "GET") -> tuple[int, str, http.client.HTTPResponse]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode(), response

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


Serve = Callable[..., Asker]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves what it is given, at a free port of this machine alone."""
    with ExitStack() as stack:

        def make(
            live: Why = no_reason,
            ready: Why = no_reason,
            metrics: Metrics | None = None,
            look: Look = lambda _: None,
            request_seconds: float = 10.0,
        ) -> Asker:
            health, links = Health(live, ready), Links(look)
            server = HttpServer("127.0.0.1:0", metrics or Metrics(), health, links, request_seconds=request_seconds)
            return Asker(stack.enter_context(server))

        yield make


class TestEndpoint:
    def test_metrics(self, serve: Serve) -> None:
        metrics = Metrics()
        metrics.retry("conflict")
        status, text, response = serve(metrics=metrics).ask("/metrics?x=y")
        assert (status, response.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert '\nratchet_retries_total{reason="conflict"} 1.0\n' in text
        assert response.headers["Server"] == "ratchet"

    def test_alive_and_ready_or_why_not(self, serve: Serve) -> None:
        reason: list[str | None] = [None]
        asker = serve(live=lambda: reason[0], ready=lambda: "the API is away, é\udc80")
        assert asker.ask("/livez")[:2] == (200, "ok\n")
        assert asker.ask("/readyz")[:2] == (503, "the API is away, é\\udc80\n")
        reason[0] = "a worker hangs"
        assert asker.ask("/livez")[:2] == (503, "a worker hangs\n")

    def test_a_link_is_shown_to_who_knows_its_uid(self, serve: Serve) -> None:
        asker = serve(look=lambda uid: {"link": "é"} if uid == "known" else None)
        status, text, response = asker.ask("/links/known?x=y")
        assert (status, json.loads(text)) == (200, {"link": "é"})
        assert response.headers["Content-Type"] == "application/json"
        for path in ("/links/unknown", "/links/", "/links/known/more", "/links/%6bnown"):
            assert asker.ask(path)[:2] == (404, "no link of this node has a record of that UID\n")
        assert asker.ask("/links")[0] == 404

    def test_no_log_has_the_uid(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        def faulty(uid: str) -> None:
            raise RuntimeError("a fault")

        caplog.set_level(logging.DEBUG)
        assert serve(look=faulty).ask("/links/secret")[0] == 500
        assert "request failed path=/links/" in caplog.text
        assert "request served method=GET path=/links/ code=500" in caplog.text
        assert "secret" not in caplog.text

    def test_head_is_get_without_a_body(self, serve: Serve) -> None:
        asker = serve()
        status, text, response = asker.ask("/livez", "HEAD")
        assert (status, text, response.headers["Content-Length"]) == (200, "", "3")
        assert asker.ask("/readyz", "HEAD")[:2] == (200, "")

    def test_nothing_else_is_there_and_nothing_can_be_written(self, serve: Serve) -> None:
        asker = serve()
        assert asker.ask("/")[0] == 404
        assert asker.ask("/metrics/../livez")[0] == 404
        assert asker.ask("/livez", "POST")[0] == 501

    def test_a_fault_is_said_and_serving_goes_on(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        def faulty() -> str | None:
            raise RuntimeError("secret")

        asker = serve(ready=faulty)
        assert asker.ask("/readyz")[:2] == (500, "internal error: RuntimeError\n")
        assert "request failed path=/readyz" in caplog.text
        assert asker.ask("/livez")[0] == 200

    def test_nothing_is_printed(self, serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
        asker = serve()
        asker.ask("/metrics")
        asker.ask("/nowhere")
        with asker.connect() as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            while connection.recv(1000):
                pass
        assert capfd.readouterr() == ("", "")

    def test_who_is_slow_is_cut_off(self, serve: Serve) -> None:
        asker = serve(request_seconds=0.1)
        with asker.connect() as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
            assert connection.recv(1000) == b""

    def test_no_more_than_some_are_served_at_once(self, serve: Serve) -> None:
        asker = serve()
        with ExitStack() as stack:
            for _ in range(AT_ONCE):
                stack.enter_context(asker.connect())
            with asker.connect() as connection:
                assert connection.recv(1000) == b""
        # Those who went have made room, as soon as the server has seen them go.
        connected = threading.Event()

        def answered() -> None:
            while not connected.is_set():
                try:
                    if asker.ask("/livez")[0] == 200:
                        connected.set()
                except (ConnectionError, http.client.HTTPException):
                    pass

        patient = threading.Thread(target=answered, daemon=True)
        patient.start()
        assert connected.wait(10)

    @pytest.mark.parametrize("address", [":0", "127.0.0.1:0", "localhost:0", "[::1]:0"])
    def test_where_it_is(self, address: str) -> None:
        endpoint = HttpServer(address, Metrics(), Health(), Links())
        assert endpoint.address == ""
        try:
            with endpoint:
                host, _, port = endpoint.address.rpartition(":")
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
        assert endpoint.address == ""

    def test_nowhere(self) -> None:
        with HttpServer("", Metrics(), Health(), Links()) as endpoint:
            assert endpoint.address == ""

    def test_its_port_is_free_again_and_its_thread_gone(self) -> None:
        before = threading.active_count()
        with HttpServer("127.0.0.1:0", Metrics(), Health(), Links()) as endpoint:
            address = endpoint.address
        assert threading.active_count() <= before
        with HttpServer(address, Metrics(), Health(), Links()) as endpoint:
            assert endpoint.address == address

    def test_an_address_that_cannot_be_had(self) -> None:
        with HttpServer("127.0.0.1:0", Metrics(), Health(), Links()) as first:
            second = HttpServer(first.address, Metrics(), Health(), Links())
            with pytest.raises(RatchetError) as caught, second:
                pass
            assert str(caught.value) == f"cannot serve metrics at {first.address}: Address already in use"

    @pytest.mark.parametrize("address", ["9472", "x", "::1:80", ":65536"])
    def test_an_address_that_is_none(self, address: str) -> None:
        endpoint = HttpServer(address, Metrics(), Health(), Links())
        with pytest.raises(InvalidConfigError, match=f"cannot serve metrics at '{address}': expected "), endpoint:
            pass
