"""HTTP requests on the kept-alive connections of a urllib3 pool, with less CPU than urllib3 takes.

Each pod start sends requests, and most of a request's CPU was that of urllib3 and `http.client`. So `send` writes a
request in one piece and parses a short, regular response. urllib3 does everything else: new connections, proxies, and
responses that are long, irregular or incomplete. `_hand_over` gives it the bytes that have been read.
"""

from __future__ import annotations

import io
import re
import ssl
from functools import lru_cache
from http import HTTPStatus
from http.client import HTTPException
from http.client import HTTPResponse as LibraryResponse
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import urllib3
from urllib3.exceptions import ProtocolError, ReadTimeoutError, SSLError

from ratchet.store.response import MAX_BYTES, Response, UnsupportedResponseError, parse_response

if TYPE_CHECKING:
    from collections.abc import Mapping

AnyResponse: TypeAlias = Response | urllib3.BaseHTTPResponse
Pool: TypeAlias = urllib3.HTTPConnectionPool | urllib3.PoolManager

_HOST = re.compile(r"[A-Za-z0-9.:-]+")
# urllib3 sends these characters unchanged, and percent-encodes others.
_TARGET = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-F]{2})*")


class Request(NamedTuple):
    """A request. `target` is a path and a query, or a URL for a proxy. The times are in seconds."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None
    connect_seconds: float
    read_seconds: float


def send(pool: Pool, request: Request) -> AnyResponse:
    """Send a request. The body of the response may be unread. Raises HTTPError of urllib3."""
    if not isinstance(pool, urllib3.HTTPConnectionPool):  # with a proxy
        return send_by_library(pool, request)
    connection: Any = pool._get_conn()  # closed if it is new or the server has closed it
    encoded = None if connection.sock is None else _encode(request, connection)
    if encoded is None:
        pool._put_conn(connection)
        return send_by_library(pool, request)
    try:
        _transmit(connection.sock, request, encoded)
        response = receive(pool, connection, request)
    except BaseException:
        connection.close()
        pool._put_conn(connection)
        raise
    if isinstance(response, Response):
        pool._put_conn(connection)
    return response


def send_by_library(pool: Pool, request: Request) -> urllib3.BaseHTTPResponse:
    """Send a request with urllib3. The body of the response is unread."""
    response: urllib3.BaseHTTPResponse = pool.urlopen(
        request.method,
        request.target,
        body=request.body,
        headers=request.headers,
        timeout=urllib3.Timeout(connect=request.connect_seconds, read=request.read_seconds),
        retries=False,
        redirect=False,
        preload_content=False,
    )
    return response


def receive(pool: urllib3.HTTPConnectionPool, connection: Any, request: Request) -> AnyResponse:
    """Read the response to a request. A `urllib3.BaseHTTPResponse` returns the connection to the pool itself."""
    connection.sock.settimeout(request.read_seconds)
    received, failure = b"", None
    while True:
        try:
            chunk = connection.sock.recv(MAX_BYTES)
        except OSError as error:
            failure = error
            break
        if not chunk:
            break
        received += chunk
        try:
            found = parse_response(received)
        except UnsupportedResponseError:
            break
        if found is None:
            continue
        response, size = found
        if size < len(received):  # what follows belongs to no request
            connection.close()
        return response
    return _hand_over(pool, connection, request, _Source(connection.sock, received, failure))


def _transmit(sock: Any, request: Request, encoded: bytes) -> None:
    sock.settimeout(request.connect_seconds)
    try:
        sock.sendall(encoded)
    except (BrokenPipeError, ConnectionResetError):
        return  # the server may have responded before it closed the connection
    except ssl.SSLError as error:
        raise SSLError(error) from error
    except OSError as error:
        raise ProtocolError("Connection aborted.", error) from error


def _encode(request: Request, connection: Any) -> bytes | None:
    """A request as `http.client` encodes it; None if that needs more than what is done here."""
    method, target, headers, body, _, _ = request
    host = _host_header(connection.host, connection.port, connection.default_port)
    if not host or (body is None) != (method == "GET") or not _TARGET.fullmatch(target):
        return None
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\n".join(lines)
    if "\r" in head or head.count("\n") != len(lines) - 1:
        return None  # `http.client` rejects it
    return head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + (body or b"")


@lru_cache
def _host_header(host: str, port: int, default_port: int) -> str:
    """The header Host; "" for a host that needs to be encoded."""
    if not _HOST.fullmatch(host):
        return ""
    name = f"[{host}]" if ":" in host else host
    return name if port == default_port else f"{name}:{port}"


def _hand_over(
    pool: urllib3.HTTPConnectionPool, connection: Any, request: Request, source: _Source
) -> urllib3.HTTPResponse:
    """Have urllib3 read a response. The errors are those of `urlopen`."""
    response = LibraryResponse(source, method=request.method)  # type: ignore[arg-type]
    try:
        response.begin()
    except BaseException as error:
        response.close()
        if isinstance(error, TimeoutError):
            text = f"Read timed out. (read timeout={request.read_seconds})"
            raise ReadTimeoutError(pool, request.target, text) from error
        if isinstance(error, ssl.SSLError):
            raise SSLError(error) from error
        if isinstance(error, OSError | HTTPException):
            raise ProtocolError("Connection aborted.", error) from error
        raise
    if response.will_close or response.status < HTTPStatus.OK:  # another response may follow
        connection.close()  # the response has the socket open until it is read
    return urllib3.HTTPResponse(
        body=response,
        headers=urllib3.HTTPHeaderDict(response.headers.items()),
        status=response.status,
        version=response.version,
        reason=response.reason,
        preload_content=False,
        original_response=response,
        pool=pool,
        connection=connection,
        request_method=request.method,
        request_url=request.target,
    )


class _Source(io.RawIOBase):
    """A connection for `http.client`: first the bytes that have been read, then the failure or the socket."""

    def __init__(self, sock: Any, received: bytes, failure: OSError | None) -> None:
        self._socket = sock.makefile("rb", buffering=0)
        self._received = memoryview(received)
        self._failure = failure

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._received:
            size = min(len(buffer), len(self._received))
            buffer[:size] = self._received[:size]
            self._received = self._received[size:]
            return size
        if self._failure is not None:
            raise self._failure
        read: int | None = self._socket.readinto(buffer)
        return read

    def close(self) -> None:
        self._socket.close()
        super().close()
