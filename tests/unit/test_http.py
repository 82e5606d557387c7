"""Requests on kept-alive connections have the results of urllib3, also for responses that are irregular."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial

import pytest
import urllib3

from ratchet.store import http
from ratchet.store.paging import LargeResponses, read_body
from ratchet.store.response import UnsupportedResponseError, parse_response
from tests.support.http_server import HttpServer, JsonHandler, running

HEADERS = {"Accept": "application/json", "User-Agent": "ratchet", "authorization": "Bearer t"}
BODY = b'{"a": 1}'
OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"Content-Type: application/json\r\n"
LENGTH = b"Content-Length: 8\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"3\r\n" + BODY[:3] + b"\r\n5\r\n" + BODY[3:] + b"\r\n0\r\n\r\n"
LARGE = b'{"a": "' + b"x" * 200_000 + b'"}'
LONG_LINE = b"X-Long: " + b"x" * 70_000 + b"\r\n"

# Responses that are parsed here.
REGULAR = {
    "length": OK + JSON + LENGTH + b"\r\n" + BODY,
    "other case": OK + b"content-LENGTH:8\r\n\r\n" + BODY,
    "no reason": b"HTTP/1.1 200\r\n" + LENGTH + b"\r\n" + BODY,
    "keep-alive": OK + b"Connection: Keep-Alive\r\n" + LENGTH + b"\r\n" + BODY,
    "empty": OK + b"Content-Length: 0\r\n\r\n",
    "chunked": OK + JSON + CHUNKED + b"\r\n" + CHUNKS,
    "error": b"HTTP/1.1 429 Too Many\r\nRetry-after:  7\r\n" + LENGTH + b"\r\n" + BODY,
    "most headers": OK + LENGTH + b"X: y\r\n" * 98 + b"\r\n" + BODY,
}
# Responses that are handed over to urllib3.
IRREGULAR = {
    "large length": OK + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE,
    "large chunk": OK + CHUNKED + b"\r\n%x\r\n" % len(LARGE) + LARGE + b"\r\n0\r\n\r\n",
    "many chunks": OK + CHUNKED + b"\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n" + b"1\r\ny\r\n" * 20_000 + b"0\r\n\r\n",
    "trailers": OK + CHUNKED + b"\r\n" + CHUNKS[:-2] + b"X-Trailer: x\r\n\r\n",
    "chunk extension": OK + CHUNKED + b"\r\n8;x=y\r\n" + BODY + b"\r\n0\r\n\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH + b"\r\n" + BODY,
    "folded": OK + b"X-Folded: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY,
    "line feeds": (OK + LENGTH + b"\r\n").replace(b"\r", b"") + BODY,
    "long line": OK + LONG_LINE + LENGTH + b"\r\n" + BODY,
    "too many headers": OK + LENGTH + b"X: y\r\n" * 99 + b"\r\n" + BODY,
    "no status line": b"<html>\r\n",
    "bad status": b"HTTP/1.1 abc OK\r\n" + LENGTH + b"\r\n" + BODY,
    "two lengths": OK + LENGTH + b"Content-Length: 9\r\n\r\n" + BODY,
    "length and chunks": OK + LENGTH + CHUNKED + b"\r\n" + CHUNKS,
    "gzip": OK
    + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(BODY))
    + gzip.compress(BODY),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\n" + LENGTH + b"\r\n",
    "bad chunk size": OK + CHUNKED + b"\r\nxyz\r\n" + BODY + b"\r\n0\r\n\r\n",
}
# Responses after which the server closes the connection.
CLOSED = {
    "nothing": b"",
    "half a status line": OK[:7],
    "half a head": OK + JSON,
    "half a body": OK + LENGTH + b"\r\n" + BODY[:4],
    "half a chunk": OK + CHUNKED + b"\r\n" + CHUNKS[:5],
    "no last chunk": OK + CHUNKED + b"\r\n" + CHUNKS[:-5],
    "bad chunk end": OK + CHUNKED + b"\r\n8\r\n" + BODY + b"0\r\n\r\n",
    "space before colon": OK + b"Content-Length : 8\r\n" + LENGTH + b"\r\n" + BODY,
    "bad length": OK + b"Content-Length: 8x\r\n\r\n" + BODY,
    "long digits": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY,
    "until the end": OK + JSON + b"\r\n" + BODY,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "close": OK + b"Connection: close\r\n" + LENGTH + b"\r\n" + BODY,
}
# Responses without an end.
STALLED = {name: CLOSED[name] for name in ("nothing", "half a head", "half a body", "half a chunk", "no last chunk")}
STALLED["half a status line"] = CLOSED["half a status line"]


class Handler(JsonHandler):
    """Answers /raw with the bytes of the server, and other paths with the request."""

    server: Server

    def get(self) -> None:
        self.server.clients.append(self.client_address)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        if self.path != "/raw":
            self.send(200, {"line": self.requestline, "headers": self.headers.items(), "body": body})
            return
        self.wfile.write(self.server.raw)
        self.close_connection = self.server.closes
        self.server.stalled.wait(30)

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client closes connections with unread bytes
            super().handle()

    def finish(self) -> None:
        super().finish()
        self.server.ended.set()

    def do_PATCH(self) -> None:  # noqa: N802  # the name that http.server calls
        self.get()


class Server(HttpServer):
    """It sends `raw`, waits for `stalled`, and closes the connection if `closes`.

    `clients` has the client of each request. `ended` is set once a connection is closed.
    """

    def __init__(self) -> None:
        super().__init__(Handler)
        self.raw = b""
        self.closes = False
        self.stalled = threading.Event()
        self.stalled.set()
        self.ended = threading.Event()
        self.clients: list[object] = []


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as made:
        yield made
        made.stalled.set()


def request(target: str = "/raw", seconds: float = 30.0) -> http.Request:
    return http.Request("GET", target, HEADERS, None, 30.0, seconds)


@contextmanager
def pool_of(server: Server, *, is_kept_alive: bool) -> Iterator[urllib3.HTTPConnectionPool]:
    """Connections to a server, of which one is open already if `is_kept_alive`."""
    with closing(urllib3.connection_from_url(server.url, maxsize=1)) as pool:
        if is_kept_alive:
            assert isinstance(http.send(pool, request("/first")).data, bytes)
        yield pool


def result(pool: urllib3.HTTPConnectionPool, sent: http.Request) -> tuple[object, ...]:
    """The status, the body and a header of a response, or the error and its message."""
    try:
        response = http.send(pool, sent)
        with LargeResponses().admitted() as admit:
            return response.status, bytes(read_body(response, admit)), response.headers.get("Retry-After")
    except urllib3.exceptions.HTTPError as error:
        return type(error), re.sub("0x[0-9a-f]+", "", str(error))


def results(server: Server, sent: http.Request) -> tuple[object, object]:
    """The results of a request on a new connection, which urllib3 sends, and on a kept-alive one.

    The kept-alive one is used again, if it may be.
    """
    with pool_of(server, is_kept_alive=False) as pool:
        by_library = result(pool, sent)
    with pool_of(server, is_kept_alive=True) as pool:
        on_kept_alive = result(pool, sent)
        server.stalled.set()
        again = json.loads(http.send(pool, request("/again")).data)
        assert again["line"] == "GET /again HTTP/1.1"
    return by_library, on_kept_alive


@pytest.mark.parametrize("name", REGULAR)
def test_a_regular_response_is_parsed_as_by_urllib3(server: Server, name: str) -> None:
    server.raw = REGULAR[name]
    expected, found = results(server, request())
    assert found == expected
    assert parse_response(server.raw)
    assert len(set(server.clients)) == 2, "both pools have kept their connection"


@pytest.mark.parametrize("name", IRREGULAR)
def test_an_irregular_response_is_handed_over_to_urllib3(server: Server, name: str) -> None:
    server.raw = IRREGULAR[name]
    expected, found = results(server, request())
    assert found == expected
    with pytest.raises(UnsupportedResponseError):
        parse_response(server.raw)


@pytest.mark.parametrize("name", CLOSED)
def test_a_connection_that_ends_in_a_response_has_the_result_of_urllib3(server: Server, name: str) -> None:
    server.raw, server.closes = CLOSED[name], True
    expected, found = results(server, request())
    assert found == expected


@pytest.mark.parametrize("name", STALLED)
def test_a_response_that_stalls_times_out_as_with_urllib3(server: Server, name: str) -> None:
    server.raw = STALLED[name]
    server.stalled.clear()
    expected, found = results(server, request(seconds=0.2))
    assert found == expected
    assert isinstance(found, tuple)
    assert found[0] is urllib3.exceptions.ReadTimeoutError


@pytest.mark.parametrize("name", REGULAR)
def test_every_beginning_of_a_regular_response_is_incomplete(name: str) -> None:
    raw = REGULAR[name]
    assert [size for size in range(len("HTTP/1.1 "), len(raw)) if parse_response(raw[:size])] == []
    found = parse_response(raw + b"HTTP/1.1 200 OK")
    assert found is not None
    assert found[1] == len(raw)


@pytest.mark.parametrize("raw", [REGULAR["length"], REGULAR["chunked"]])
def test_a_connection_with_bytes_after_the_response_is_not_used_again(server: Server, raw: bytes) -> None:
    server.raw = raw + REGULAR["length"]
    with pool_of(server, is_kept_alive=True) as pool:
        assert result(pool, request()) == (200, BODY, None)
        http.send(pool, request("/again"))
    assert len(set(server.clients)) == 2


def test_a_connection_with_an_informational_response_is_not_used_again(server: Server) -> None:
    server.raw = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    with pool_of(server, is_kept_alive=True) as pool:
        result(pool, request())
        http.send(pool, request("/again"))
    assert len(set(server.clients)) == 2


def test_a_connection_that_the_server_closed_while_idle_is_replaced(server: Server) -> None:
    server.raw, server.closes = REGULAR["length"], True
    with pool_of(server, is_kept_alive=True) as pool:
        assert result(pool, request()) == (200, BODY, None)
        assert server.ended.wait(10)
        assert json.loads(http.send(pool, request("/again")).data)["line"] == "GET /again HTTP/1.1"


@pytest.mark.parametrize(
    ("method", "target", "headers", "body"),
    [
        ("GET", "/a/b%2Fc?x=1%2C2&y=a+b", HEADERS, None),
        ("PATCH", "/a", HEADERS | {"X": "\xe9"}, b"{}"),
        ("PATCH", "/a b#c%2f%", HEADERS, b"{}"),
        ("PATCH", "/a", HEADERS, b"x" * 1_000_000),
        ("GET", "/\xe9", HEADERS | {"User-Agent": "a\r\n b"}, None),
    ],
)
def test_a_request_is_encoded_as_by_urllib3(
    server: Server, method: str, target: str, headers: dict[str, str], body: bytes | None
) -> None:
    expected, found = results(server, http.Request(method, target, headers, body, 30.0, 30.0))
    assert found == expected
    assert isinstance(found, tuple)
    assert found[0] == 200


@pytest.mark.parametrize("value", ["a\nX-Injected: b", "a\r\nX-Injected: b", "a\rb"])
def test_a_header_with_a_line_break_is_rejected(server: Server, value: str) -> None:
    with pool_of(server, is_kept_alive=True) as pool, pytest.raises(ValueError, match="Invalid header value"):
        http.send(pool, request()._replace(headers={"X": value}))


def test_an_interrupted_request_closes_its_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: bytes) -> None:
        raise KeyboardInterrupt

    with pool_of(server, is_kept_alive=True) as pool:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(http, "parse_response", interrupt)
            http.send(pool, request("/interrupted"))
        assert json.loads(http.send(pool, request("/again")).data)["line"] == "GET /again HTTP/1.1"


def test_threads_share_the_connections(server: Server) -> None:
    """Each thread gets the responses to its own requests."""

    def lines(pool: urllib3.HTTPConnectionPool, thread: int) -> list[str]:
        targets = [f"/{thread}/{number}" for number in range(50)]
        return [json.loads(http.send(pool, request(target)).data)["line"].split()[1] == target for target in targets]

    with (
        closing(urllib3.connection_from_url(server.url, maxsize=8)) as pool,
        ThreadPoolExecutor(8) as threads,
    ):
        assert all(all(found) for found in threads.map(partial(lines, pool), range(8)))
    assert len(set(server.clients)) <= 8
