"""The agent's HTTP servers: one for metrics and links, and one for the kubelet's probes.

Everybody who reaches a port may send requests. So connections in all, those of one client, and the duration of each are
limited, and the standard library limits the size of requests. No request changes anything. The probes have a port of
their own, so that clients of the other one cannot keep the kubelet from an answer.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from ratchet.agent.connections import Limits, OpenConnections
from ratchet.agent.options import host_and_port
from ratchet.agent.pages import PLAIN, Page, Pages, without_uid
from ratchet.errors import InvalidConfigError, RatchetError

log = logging.getLogger(__name__)

PUBLIC_LIMITS = Limits(in_all=32, per_client=8, seconds=10.0)
# All clients of a port on loopback have one address.
PROBE_LIMITS = Limits(in_all=32, per_client=32, seconds=5.0)
_STEP_SECONDS = 5.0
_POLL_SECONDS = 0.2


class HttpServer:
    """Serves pages at "host:port", ":port" or "[address]:port" within its context.

    Port 0 is any free port. At "" nothing is served. Entering raises RatchetError if the address cannot be used.
    `purpose` is the name of the setting without `_addr`: "metrics" or "health".
    """

    def __init__(self, purpose: str, address: str, pages: Pages, limits: Limits) -> None:
        self._purpose = purpose
        self._wanted = address
        self._pages = pages
        self._limits = limits
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
            self._server = _Server(_listener(self._purpose, self._wanted), self._pages, self._limits)
            self._thread = threading.Thread(
                target=self._server.serve_forever, args=(_POLL_SECONDS,), name=f"http-{self._purpose}", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    """A server with a thread per connection, within limits."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, pages: Pages, limits: Limits) -> None:
        # The library's bind resolves the address's name by DNS, and may wait for it.
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.pages = pages
        self._connections = OpenConnections[Any](limits)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._connections.admit(request, client_address[0]):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        self._connections.forget(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections whose time is over. Called between two connections, and every _POLL_SECONDS."""
        for request in self._connections.overdue():
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
            return self.server.pages(path)
        except Exception as fault:
            log.exception("request failed path=%s", without_uid(path))
            return HTTPStatus.INTERNAL_SERVER_ERROR, PLAIN, f"internal error: {type(fault).__name__}\n".encode()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002  # the name in http.server
        log.debug(
            "request served method=%s path=%s code=%s", self.command, without_uid(getattr(self, "path", "")), code
        )

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the name in http.server
        log.debug(format, *arguments)


def _listener(purpose: str, address: str) -> socket.socket:
    try:
        host, port = host_and_port(address)
    except ValueError as expected:
        raise InvalidConfigError(f"cannot serve {purpose} at {address!r}: expected {expected}") from expected
    try:
        return _listening_on_all(port) if not host else _listening(host, port)
    except OSError as cause:
        reason = str(cause.strerror or cause).partition(" (while")[0]  # socket.create_server repeats the address
        raise RatchetError(
            f"cannot serve {purpose} at {address}: {reason}",
            details=f'set --{purpose}-addr to a free address, or to "" for none',
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
