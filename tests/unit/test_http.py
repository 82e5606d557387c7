"""Requests on kept-alive connections have the results of urllib3, also for responses that are irregular."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial

import pytest
import trustme
import urllib3

from ratchet.store import http
from ratchet.store.paging import LargeResponses, read_body
from ratchet.store.response import Response, UnsupportedResponseError, parse_response
from tests.support.http_server import running
from tests.support.raw_http import BODY, CLOSED, IRREGULAR, REGULAR, STALLED, Server

HEADERS = {"Accept": "application/json", "User-Agent": "ratchet", "authorization": "Bearer t"}


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


def get(target: str = "/raw", seconds: float = 30.0) -> http.Request:
    return http.Request("GET", target, HEADERS, None, 30.0, seconds)


@contextmanager
def pool_of(server: Server, *, is_kept_alive: bool) -> Iterator[urllib3.HTTPConnectionPool]:
    """Connections to a server, of which one is open already if `is_kept_alive`."""
    options = {"ca_cert_data": server.authority} if server.authority else {}
    url = server.url.replace("http:", "https:") if server.authority else server.url
    with closing(urllib3.connection_from_url(url, maxsize=1, **options)) as pool:
        if is_kept_alive:
            assert isinstance(http.send(pool, get("/first")).data, bytes)
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
        http.send(pool, get()._replace(headers={"X": value}))


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
