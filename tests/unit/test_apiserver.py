"""Requests to an API server: their URLs, connections, proxies and retries."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from kubernetes.client import Configuration

from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.store.api_errors import NotFoundError
from ratchet.store.apiserver import ApiServer
from ratchet.store.connection import library_connection, static_connection
from ratchet.store.kubeconfig import StaticAccess
from tests.support.http_server import HttpServer, JsonHandler, running

STATUS = '{"kind": "Status", "reason": "NotFound", "message": "pods \\"x\\" not found"}'
ANSWERS = {
    "/unknown": (520, "{}"),
    "/list": (200, "[1]"),
    "/page": (200, "<html>Welcome</html>"),
    "/missing": (404, STATUS),
    "/html": (404, "<html>not found</html>"),
    "/json": (404, '{"message": "no such route"}'),
    "/other-status": (404, STATUS.replace("NotFound", "Unknown")),
    "/pods/agent/proxy/links/x": (404, "no such link"),
    "/namespaces/proxy/pods/x": (404, "no such route"),
}


class Handler(JsonHandler):
    """Echoes the path and the user agent, redirects /moved, and answers the paths of ANSWERS as given there."""

    server: Server

    def get(self) -> None:
        self.server.connections.add(self.client_address)
        if self.path.endswith("/slow"):
            self.server.answer_slow.wait()
        echo = json.dumps({"target": self.path, "agent": self.headers["User-Agent"]})
        if self.path.endswith("/moved"):
            self.send(307, echo, {"Location": "/elsewhere"})
        else:
            self.send(*ANSWERS.get(self.path, (200, echo)))

    def finish(self) -> None:
        super().finish()
        self.server.ended.set()


class Server(HttpServer):
    """`ended` is set once a connection is closed. /slow is answered once `answer_slow` is set."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.connections: set[object] = set()
        self.ended = threading.Event()
        self.answer_slow = threading.Event()


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as made:
        yield made
        made.answer_slow.set()


def api_at(host: str, proxy: str | None = None) -> ApiServer:
    if proxy is None:
        return ApiServer(lambda: static_connection(StaticAccess(host)), patience=0.2)
    configuration = Configuration(host=host)
    configuration.proxy, configuration.no_proxy, configuration.retries = proxy, None, False
    return ApiServer(lambda: library_connection(configuration), patience=0.2)


def test_path_and_query_are_appended_to_the_path_of_the_servers_url(server: Server) -> None:
    api = api_at(f"{server.url}/k8s/clusters/c-1")
    assert api.get("/api/v1/pods?limit=1")["target"] == "/k8s/clusters/c-1/api/v1/pods?limit=1"


def test_a_proxy_gets_the_whole_url(server: Server) -> None:
    api = api_at("http://api.invalid:6443/base", proxy=server.url)
    assert api.get("/version")["target"] == "http://api.invalid:6443/base/version"


def test_a_redirect_is_not_followed(server: Server) -> None:
    statuses: list[int] = []
    api = api_at(server.url)
    api._observer = lambda _method, _path, status, _seconds: statuses.append(status)
    api.get("/moved")
    assert statuses == [307]


def test_an_undefined_http_status_is_an_error_that_names_it(server: Server) -> None:
    """Proxies in front of an API server return statuses of their own."""
    with pytest.raises(RatchetError, match=r"cannot GET /unknown: HTTP status 520"):
        api_at(server.url).get("/unknown")


@pytest.mark.parametrize("path", ["/missing", "/pods/agent/proxy/links/x"])
def test_a_404_of_the_api_server_means_that_the_object_is_missing(server: Server, path: str) -> None:
    with pytest.raises(NotFoundError):
        api_at(server.url).get(path)


@pytest.mark.parametrize("path", ["/html", "/json", "/other-status", "/namespaces/proxy/pods/x"])
def test_a_404_without_a_kubernetes_status_does_not_mean_that_the_object_is_missing(server: Server, path: str) -> None:
    with pytest.raises(ApiUnavailableError, match=f"cannot GET {path}: HTTP status 404 without a Kubernetes Status"):
        api_at(server.url).get(path)


@pytest.mark.parametrize("path", ["/list", "/page"])
def test_a_response_that_is_no_json_object_is_an_error(server: Server, path: str) -> None:
    with pytest.raises(ApiUnavailableError, match=f"cannot GET {path}: incomplete response: "):
        api_at(server.url).get(path)


def test_requests_share_one_connection_until_it_is_closed(server: Server) -> None:
    api = api_at(server.url)
    api.get("/one")
    api.get("/two")
    assert len(server.connections) == 1
    assert not server.ended.is_set()
    api.close()
    assert server.ended.wait(10.0)


def test_reconnect_opens_a_new_connection(server: Server) -> None:
    api = api_at(server.url)
    api.get("/one")
    api.reconnect()
    api.get("/two")
    assert len(server.connections) == 2


def test_a_timeout_may_be_longer_than_the_patience(server: Server) -> None:
    api = api_at(server.url)
    with pytest.raises(ApiUnavailableError, match="timed out"):
        api.get("/slow")
    answering = threading.Timer(5 * api.patience, server.answer_slow.set)
    answering.start()
    try:
        assert api.with_timeout(60.0).get("/slow")["target"] == "/slow"
    finally:
        answering.cancel()


def test_a_request_is_retried_no_longer_than_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The duration of the first try counts against the patience."""
    clock = SimpleNamespace(now=0.0)
    tries: list[float] = []
    api = api_at("http://127.0.0.1:1")
    api.patience = 15.0

    def fail(*_: object) -> None:
        tries.append(clock.now)
        clock.now += 10.0
        raise ApiUnavailableError("cannot reach it")

    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))
    monkeypatch.setattr(api, "_once", fail)
    with pytest.raises(RatchetError):
        api.get("/version")
    assert len(tries) == 2
