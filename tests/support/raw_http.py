"""An HTTP server that sends responses byte for byte, such responses, and connections to the server."""

from __future__ import annotations

import gzip
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import urllib3

from ratchet.store import http
from ratchet.store.paging import LargeResponses, read_body
from tests.support.http_server import HttpServer, JsonHandler

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
        if not self.server.reads:
            self.server.stalled.wait(30)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        if self.path != "/raw":
            self.send(200, {"line": self.requestline, "headers": self.headers.items(), "body": body})
            return
        if self.server.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()
            raise ConnectionError
        self.wfile.write(self.server.raw)
        self.close_connection = self.server.closes
        self.server.stalled.wait(30)

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client closes connections with unread bytes
            super().handle()

    def do_PATCH(self) -> None:  # noqa: N802  # the name that http.server calls
        self.get()


class Server(HttpServer):
    """It sends `raw`, waits for `stalled`, and closes the connection if `closes`. Or it resets it if `resets`.

    Unless `reads`, it reads the body of no request before `stalled`.
    `clients` has the client of each request. `ended` is set once a connection is closed.
    """

    def __init__(self) -> None:
        super().__init__(Handler)
        self.authority = ""
        self.raw = b""
        self.closes = self.resets = False
        self.reads = True
        self.stalled = threading.Event()
        self.stalled.set()
        self.ended = threading.Event()
        self.clients: list[object] = []

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.ended.set()


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


class FailingSocket:
    """A socket one of whose methods fails. `sendall` sends its data before."""

    def __init__(self, sock: Any, method: str, error: OSError) -> None:
        self._socket, self._method, self._error = sock, method, error

    def sendall(self, data: bytes) -> None:
        self._socket.sendall(data)
        if self._method == "sendall":
            raise self._error

    def recv(self, size: int) -> Any:
        if self._method == "recv":
            raise self._error
        return self._socket.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def fail(pool: urllib3.HTTPConnectionPool, method: str, error: OSError) -> None:
    """Let a method of the socket of the kept-alive connection fail."""
    connection: Any = pool._get_conn()
    connection.sock = FailingSocket(connection.sock, method, error)
    pool._put_conn(connection)
