"""The agent's HTTP server: /metrics, /livez, /readyz, and the ends of a link for `ratchet inspect`.

Everybody who reaches the port may send requests. So concurrent requests and the duration of each are bounded, and the
standard library limits their size. No request changes anything. A link is at /links/<uid>, the UID of its record. Only
who may read the record knows the UID.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Protocol, Self

from ratchet.agent.metrics import CONTENT_TYPE, Metrics
from ratchet.agent.options import host_and_port
from ratchet.errors import InvalidConfigError, RatchetError

log = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
AT_ONCE = 32
_STEP_SECONDS = 5.0
_POLL_SECONDS = 0.2
_PLAIN = "text/plain; charset=utf-8"
LINKS = "/links/"

Page = tuple[HTTPStatus, str, bytes]


class Health(Protocol):
    """The health of the agent. A reason is answered with 503."""

    def why_not_live(self) -> str | None:
        """Why the agent is not live; None if it is."""
        ...

    def why_not_ready(self) -> str | None:
        """Why the agent is not ready; None if it is."""
        ...

    def note(self) -> str:
        """What an operator of a ready agent should know; empty if nothing."""
        ...


class Links(Protocol):
    """The links of this node."""

    def look(self, uid: str) -> Mapping[str, Any] | None:
        """The observed ends of the link whose record has this UID, as JSON; None if the node has no such link."""
        ...


class HttpServer:
    """Serves metrics, health and links at "host:port", ":port" or "[address]:port" within its context.

    Port 0 is any free port. At "" nothing is served. Entering raises RatchetError if the address cannot be used.
    `request_seconds` is the limit for one request, from its connection to its answer.
    """

    def __init__(
        self,
        address: str,
        metrics: Metrics,
        health: Health,
        links: Links,
        *,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._wanted = address
        self._links = links
        self._request_seconds = request_seconds
        self._pages: Mapping[str, Callable[[], Page]] = {
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics.text()),
            "/livez": lambda: _health_page(health.why_not_live()),
            "/readyz": lambda: _health_page(health.why_not_ready(), health.note()),
        }
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """The address that is served, such as "127.0.0.1:9472" or "[::]:9472"; empty if none is."""
        if self._server is None:
            return ""
        host, port = self._server.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def __enter__(self) -> Self:
        if self._wanted:
            self._server = _Server(_listener(self._wanted), self._page, self._request_seconds)
            self._thread = threading.Thread(
                target=self._server.serve_forever, args=(_POLL_SECONDS,), name="endpoint", daemon=True
            )
            self._thread.start()
        return self

    def _page(self, path: str) -> Page:
        if path.startswith(LINKS):
            shown = self._links.look(path.removeprefix(LINKS))
            if shown is None:
                return HTTPStatus.NOT_FOUND, _PLAIN, b"no link of this node has a record of that UID\n"
            return HTTPStatus.OK, "application/json", json.dumps(shown).encode()
        if page := self._pages.get(path):
            return page()
        return (
            HTTPStatus.NOT_FOUND,
            _PLAIN,
            f"not found: the paths are {', '.join(self._pages)} and {LINKS}<uid>\n".encode(),
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    """A server with a thread per connection, at most AT_ONCE. Connections have a time limit."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, page: Callable[[str], Page], request_seconds: float) -> None:
        # The library's bind resolves the address's name by DNS, and may wait for it.
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.page = page
        self._request_seconds = request_seconds
        self._lock = threading.Lock()
        self._open: dict[Any, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            crowded = len(self._open) >= AT_ONCE
            if not crowded:
                self._open[request] = time.monotonic() + self._request_seconds
        if crowded:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections whose time is over. Called between two connections, and every _POLL_SECONDS."""
        now = time.monotonic()
        with self._lock:
            over = [request for request, until in self._open.items() if now >= until]
        for request in over:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # the name in socketserver
        log.debug("request aborted client=%s", client_address[0], exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _STEP_SECONDS

    def do_GET(self) -> None:  # the name in http.server
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def version_string(self) -> str:
        return "ratchet"

    def _answer(self, *, with_body: bool) -> None:
        status, content_type, body = self._page()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _page(self) -> Page:
        path = self.path.partition("?")[0]
        try:
            return self.server.page(path)
        except Exception as fault:
            log.exception("request failed path=%s", _without_uid(path))
            return HTTPStatus.INTERNAL_SERVER_ERROR, _PLAIN, f"internal error: {type(fault).__name__}\n".encode()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002  # the name in http.server
        log.debug(
            "request served method=%s path=%s code=%s", self.command, _without_uid(getattr(self, "path", "")), code
        )

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the name in http.server
        log.debug(format, *arguments)


def _without_uid(path: str) -> str:
    """The path without the UID of a record: more people read logs than records."""
    return LINKS if path.startswith(LINKS) else path


def _health_page(reason: str | None, note: str = "") -> Page:
    if reason is None:
        text = f"ok\n{note}\n" if note else "ok\n"
        return HTTPStatus.OK, _PLAIN, text.encode(errors="backslashreplace")
    return HTTPStatus.SERVICE_UNAVAILABLE, _PLAIN, f"{reason}\n".encode(errors="backslashreplace")


def _listener(address: str) -> socket.socket:
    try:
        host, port = host_and_port(address)
    except ValueError as expected:
        raise InvalidConfigError(f"cannot serve metrics at {address!r}: expected {expected}") from expected
    try:
        return _listening_on_all(port) if not host else _listening(host, port)
    except OSError as cause:
        reason = str(cause.strerror or cause).partition(" (while")[0]  # socket.create_server repeats the address
        raise RatchetError(
            f"cannot serve metrics at {address}: {reason}",
            details='set --metrics-addr to a free address, or to "" for none',
        ) from cause


def _listening(host: str, port: int) -> socket.socket:
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(where, family=family)


def _listening_on_all(port: int) -> socket.socket:
    """Listen on all addresses: IPv6 and IPv4, or IPv4 alone if the node has no IPv6."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as cause:
            if cause.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("0.0.0.0", port))  # noqa: S104  # ":port" means all addresses
