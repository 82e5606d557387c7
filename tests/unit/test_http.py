"""Requests on kept-alive connections have the results of urllib3, also for responses that are irregular."""

from __future__ import annotations

import errno
import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any

import pytest
import trustme
import urllib3

from ratchet.store import http
from ratchet.store.response import Response, UnsupportedResponseError, parse_response
from tests.support.http_server import running
from tests.support.raw_http import (
    BODY,
    CLOSED,
    HEADERS,
    IRREGULAR,
    REGULAR,
    STALLED,
    Server,
    fail,
    get,
    pool_of,
    result,
)


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as made:
        yield made
        made.stalled.set()


@pytest.fixture
def tls_server(server: Server) -> Server:
    """A server with TLS, whose certificate `pool_of` trusts."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.authority = authority.cert_pem.bytes().decode()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def results(server: Server, sent: http.Request) -> tuple[object, object]:
    """The results of a request on a new connection, which urllib3 sends, and on a kept-alive one.

    The kept-alive one is used again, if it may be.
    """
    with pool_of(server, is_kept_alive=False) as pool:
        by_library = result(pool, sent)
    with pool_of(server, is_kept_alive=True) as pool:
        on_kept_alive = result(pool, sent)
        server.stalled.set()
        again = json.loads(http.send(pool, get("/again")).data)
        assert again["line"] == "GET /again HTTP/1.1"
    return by_library, on_kept_alive


@pytest.mark.parametrize("name", REGULAR)
def test_a_regular_response_is_parsed_as_by_urllib3(server: Server, name: str) -> None:
    server.raw = REGULAR[name]
    expected, found = results(server, get())
    assert found == expected
    assert parse_response(server.raw)
    assert len(set(server.clients)) == 2, "both pools have kept their connection"


@pytest.mark.parametrize("fixture", ["server", "tls_server"])
def test_a_kept_alive_connection_is_used_without_urllib3(request: pytest.FixtureRequest, fixture: str) -> None:
    with pool_of(request.getfixturevalue(fixture), is_kept_alive=True) as pool:
        assert isinstance(http.send(pool, get("/second")), Response)


@pytest.mark.parametrize("name", IRREGULAR)
def test_an_irregular_response_is_handed_over_to_urllib3(server: Server, name: str) -> None:
    server.raw = IRREGULAR[name]
    expected, found = results(server, get())
    assert found == expected
    with pytest.raises(UnsupportedResponseError):
        parse_response(server.raw)


@pytest.mark.parametrize("name", CLOSED)
def test_a_connection_that_ends_in_a_response_has_the_result_of_urllib3(server: Server, name: str) -> None:
    server.raw, server.closes = CLOSED[name], True
    expected, found = results(server, get())
    assert found == expected


def test_a_reset_connection_has_the_error_of_urllib3(server: Server) -> None:
    server.resets = True
    expected, found = results(server, get())
    assert found == expected
    assert "ConnectionResetError" in str(found)


@pytest.mark.parametrize("name", STALLED)
def test_a_response_that_stalls_times_out_as_with_urllib3(server: Server, name: str) -> None:
    server.raw = STALLED[name]
    server.stalled.clear()
    expected, found = results(server, get(seconds=0.2))
    assert found == expected
    assert isinstance(found, tuple)
    assert found[0] is urllib3.exceptions.ReadTimeoutError


def test_a_request_that_the_server_does_not_read_times_out_as_with_urllib3(server: Server) -> None:
    server.stalled.clear()
    with pool_of(server, is_kept_alive=True) as pool:
        server.reads = False
        sent = http.Request("PATCH", "/unread", HEADERS, b"x" * 30_000_000, 0.2, 30.0)
        assert "timed out" in str(result(pool, sent))


@pytest.mark.parametrize("name", ["length", "chunked", "large length", "many chunks", "trailers"])
def test_responses_over_tls_are_read_as_by_urllib3(tls_server: Server, name: str) -> None:
    tls_server.raw = (REGULAR | IRREGULAR)[name]
    expected, found = results(tls_server, get())
    assert found == expected
    assert isinstance(found, tuple)
    assert found[0] == 200
    assert len(set(tls_server.clients)) == 2, "both pools have kept their connection"


@pytest.mark.parametrize("name", ["half a head", "half a body"])
def test_a_response_over_tls_that_stalls_times_out_as_with_urllib3(tls_server: Server, name: str) -> None:
    tls_server.raw = STALLED[name]
    tls_server.stalled.clear()
    expected, found = results(tls_server, get(seconds=0.2))
    assert found == expected
    assert isinstance(found, tuple)
    assert found[0] is urllib3.exceptions.ReadTimeoutError


@pytest.mark.parametrize("name", ["nothing", "half a head", "half a body", "until the end"])
def test_a_connection_over_tls_that_ends_in_a_response_has_the_result_of_urllib3(tls_server: Server, name: str) -> None:
    tls_server.raw, tls_server.closes = CLOSED[name], True
    expected, found = results(tls_server, get())
    assert found == expected


@pytest.mark.parametrize(
    "raw",
    [
        IRREGULAR["large length"][:100],
        IRREGULAR["large chunk"][:100],
        b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n",
    ],
)
def test_a_large_response_is_handed_over_before_it_is_read(raw: bytes) -> None:
    with pytest.raises(UnsupportedResponseError):
        parse_response(raw)


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
        assert result(pool, get()) == (200, BODY, None)
        http.send(pool, get("/again"))
    assert len(set(server.clients)) == 2


@pytest.mark.parametrize("raw", [b"HTTP/1.1 103 Early Hints\r\n\r\n", CLOSED["close"]])
def test_a_connection_that_the_server_will_close_or_write_to_is_not_used_again(server: Server, raw: bytes) -> None:
    server.raw = raw
    with pool_of(server, is_kept_alive=True) as pool:
        result(pool, get())
        http.send(pool, get("/again"))
    assert len(set(server.clients)) == 2


def test_a_connection_that_the_server_closed_while_idle_is_replaced(server: Server) -> None:
    server.raw, server.closes = REGULAR["length"], True
    with pool_of(server, is_kept_alive=True) as pool:
        assert result(pool, get()) == (200, BODY, None)
        assert server.ended.wait(10)
        assert json.loads(http.send(pool, get("/again")).data)["line"] == "GET /again HTTP/1.1"


@pytest.mark.parametrize(
    ("method", "target", "headers", "body"),
    [
        ("GET", "/a/b%2Fc?x=1%2C2&y=a+b", HEADERS, None),
        ("PATCH", "/a", HEADERS | {"X": "\xe9"}, b"{}"),
        ("PATCH", "/a b#c%2f%", HEADERS, b"{}"),
        ("PATCH", "/a", HEADERS, b"x" * 1_000_000),
        ("PATCH", "/a", HEADERS, None),
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


@pytest.mark.parametrize(
    ("host", "port"), [("api", 80), ("api.example.", 6443), ("192.0.2.1", 8080), ("2001:db8::1", 443)]
)
def test_the_header_host_is_that_of_urllib3(host: str, port: int) -> None:
    connection: Any = urllib3.connection.HTTPConnection(host, port)
    connection.putrequest("GET", "/")
    found = http._host_header(connection.host, connection.port, connection.default_port)
    assert f"Host: {found}".encode() in connection._buffer


@pytest.mark.parametrize("host", ["fe80::1%eth0", "münchen.example"])
def test_an_irregular_host_is_left_to_urllib3(host: str) -> None:
    assert not http._host_header(host, 80, 80)


def test_urllib3_sends_requests_to_an_irregular_host(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_host_header", lambda *_: "")
    with pool_of(server, is_kept_alive=True) as pool:
        assert not isinstance(http.send(pool, get("/second")), Response)


@pytest.mark.parametrize("value", ["a\nX-Injected: b", "a\r\nX-Injected: b", "a\rb"])
def test_a_header_with_a_line_break_is_rejected(server: Server, value: str) -> None:
    with pool_of(server, is_kept_alive=True) as pool, pytest.raises(ValueError, match="Invalid header value"):
        http.send(pool, get()._replace(headers={"X": value}))


@pytest.mark.parametrize("error", [BrokenPipeError(), ConnectionResetError()])
def test_the_response_of_a_server_that_has_stopped_reading_is_read(server: Server, error: OSError) -> None:
    server.raw = REGULAR["error"]
    with pool_of(server, is_kept_alive=True) as pool:
        fail(pool, "sendall", error)
        assert result(pool, get()) == (429, BODY, "7")


@pytest.mark.parametrize(
    ("method", "error", "raised"),
    [
        ("sendall", TimeoutError("timed out"), urllib3.exceptions.ProtocolError),
        ("sendall", OSError(errno.EHOSTUNREACH, "no route"), urllib3.exceptions.ProtocolError),
        ("sendall", ssl.SSLError("bad record"), urllib3.exceptions.SSLError),
        ("recv", OSError(errno.EHOSTUNREACH, "no route"), urllib3.exceptions.ProtocolError),
        ("recv", ssl.SSLError("bad record"), urllib3.exceptions.SSLError),
    ],
)
def test_a_socket_that_fails_has_an_error_of_urllib3(
    server: Server, method: str, error: OSError, raised: type[Exception]
) -> None:
    with pool_of(server, is_kept_alive=True) as pool:
        fail(pool, method, error)
        with pytest.raises(raised):
            http.send(pool, get())
        http.send(pool, get("/again"))
    assert len(set(server.clients)) == 2


def test_an_interrupted_request_closes_its_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: bytes) -> None:
        raise KeyboardInterrupt

    with pool_of(server, is_kept_alive=True) as pool:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(http, "parse_response", interrupt)
            http.send(pool, get("/interrupted"))
        http.send(pool, get("/again"))
    assert len(set(server.clients)) == 2


def test_threads_share_the_connections(server: Server) -> None:
    """Each thread gets the responses to its own requests."""

    def lines(pool: urllib3.HTTPConnectionPool, thread: int) -> list[str]:
        targets = [f"/{thread}/{number}" for number in range(50)]
        return [json.loads(http.send(pool, get(target)).data)["line"].split()[1] == target for target in targets]

    with (
        closing(urllib3.connection_from_url(server.url, maxsize=8)) as pool,
        ThreadPoolExecutor(8) as threads,
    ):
        assert all(all(found) for found in threads.map(partial(lines, pool), range(8)))
    assert len(set(server.clients)) <= 8
