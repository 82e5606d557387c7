"""A small HTTP server for those who look after the agent: /metrics, /livez and /readyz, and a link's ends.

Whoever can reach the port may ask it, so what an asker can hold is bounded: how many are served at once, how long each,
and how much of a request is read (the standard library's limits). Nothing that is asked changes anything. What is a
link's alone is at /links/<uid>, the UID of its record, which nobody can guess: who may read the record knows it.
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
from typing import Any, Self

from ratchet.agent.metrics import CONTENT_TYPE, Metrics
from ratchet.agent.options import host_and_port
from ratchet.errors import InvalidConfigError, RatchetError

log = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
AT_ONCE = 32
_STEP_SECONDS = 5.0
_LOOK_SECONDS = 0.2
_PLAIN = "text/plain; charset=utf-8"
LINKS = "/links/"

Why = Callable[[], str | None]
Look = Callable[[str], Mapping[str, Any] | None]
Page = tuple[HTTPStatus, str, bytes]


class HttpServer:
    """Serves `metrics` at "host:port", ":port" or "[address]:port" (port 0: any free one) within its context.

    `live` and `ready` give None, or the reason why the agent is not, which is answered with 503. `look` gives what
    there is of a link by the UID of its record, or None. At "" nothing is served. Entering raises RatchetError where
    the address cannot be had. `request_seconds` is how long one request may take in all, from its connection to its
    answer.
    """

    def __init__(
        self,
        address: str,
        metrics: Metrics,
        *,
        live: Why,
        ready: Why,
        look: Look = lambda _: None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._wanted = address
        self._look = look
        self._request_seconds = request_seconds
        self._pages: Mapping[str, Callable[[], Page]] = {
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics.text()),
            "/livez": lambda: _told(live()),
            "/readyz": lambda: _told(ready()),
        }
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where it is served, as "127.0.0.1:9472" or "[::]:9472"; empty where it is not."""
        if self._server is None:
            return ""
        host, port = self._server.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def __enter__(self) -> Self:
        if self._wanted:
            self._server = _Server(_listener(self._wanted), self._page, self._request_seconds)
            self._thread = threading.Thread(
                target=self._server.serve_forever, args=(_LOOK_SECONDS,), name="endpoint", daemon=True
            )
            self._thread.start()
        return self

    def _page(self, path: str) -> Page:
        if path.startswith(LINKS):
            shown = self._look(path.removeprefix(LINKS))
            if shown is None:
                return HTTPStatus.NOT_FOUND, _PLAIN, b"no link of this node has a record of that UID\n"
            return HTTPStatus.OK, "application/json", json.dumps(shown).encode()
        if page := self._pages.get(path):
            return page()
        return HTTPStatus.NOT_FOUND, _PLAIN, f"there are {', '.join(self._pages)} and {LINKS}<uid>\n".encode()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    """A thread for each connection, no more than AT_ONCE, each cut off when its time is over."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, page: Callable[[str], Page], request_seconds: float) -> None:
        # The library's own way to bind asks the DNS for the address's name, and may wait for it.
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
        """Cut off whose time is over; called between two connections, and every _LOOK_SECONDS."""
        now = time.monotonic()
        with self._lock:
            over = [request for request, until in self._open.items() if now >= until]
        for request in over:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # as socketserver has it
        log.debug("a request from %s broke off", client_address[0], exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _STEP_SECONDS

    def do_GET(self) -> None:  # as http.server has it
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
            log.exception("cannot serve %s", _without_uid(path))
            return HTTPStatus.INTERNAL_SERVER_ERROR, _PLAIN, f"a fault: {type(fault).__name__}\n".encode()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002  # as http.server has it
        log.debug("%s %s: %s", self.command, _without_uid(getattr(self, "path", "")), code)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # as http.server has it
        log.debug(format, *arguments)


def _without_uid(path: str) -> str:
    """A path as it may be logged: more people read logs than records."""
    return LINKS if path.startswith(LINKS) else path


def _told(reason: str | None) -> Page:
    if reason is None:
        return HTTPStatus.OK, _PLAIN, b"ok\n"
    return HTTPStatus.SERVICE_UNAVAILABLE, _PLAIN, f"{reason}\n".encode(errors="backslashreplace")


def _listener(address: str) -> socket.socket:
    try:
        host, port = host_and_port(address)
    except ValueError as wanted:
        raise InvalidConfigError(f"cannot serve metrics at {address!r}: it must be {wanted}") from wanted
    try:
        return _listening_on_all(port) if not host else _listening(host, port)
    except OSError as cause:
        said = str(cause.strerror or cause).partition(" (while")[0]  # socket.create_server says the address again
        raise RatchetError(
            f"cannot serve metrics at {address}: {said}",
            details="--metrics-addr names another place, or none with an empty one",
        ) from cause


def _listening(host: str, port: int) -> socket.socket:
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(where, family=family)


def _listening_on_all(port: int) -> socket.socket:
    """For IPv6 and IPv4 at once, or IPv4 alone where the node has no IPv6."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as cause:
            if cause.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("0.0.0.0", port))  # noqa: S104  # all addresses is what was asked for
