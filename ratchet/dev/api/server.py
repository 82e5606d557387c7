"""Run the API server: in a background thread for tests, or in the foreground until a signal."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme
import yaml
from aiohttp import web
from aiohttp.typedefs import Middleware

from ratchet.dev.api.app import make_app
from ratchet.dev.api.storage import Storage
from ratchet.node.files import write_file

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_HANDLER_SECONDS = 1.0


@dataclass(frozen=True)
class ApiOptions:
    """Options of the API; see ``make_app``."""

    middlewares: Sequence[Middleware] = ()
    graceful_pods: bool = False
    scheduler: bool = False
    bookmark_seconds: float = 60.0

    def app(self, storage: Storage) -> web.Application:
        """The application on ``storage`` with these options."""
        return make_app(
            storage,
            self.middlewares,
            graceful_pods=self.graceful_pods,
            scheduler=self.scheduler,
            bookmark_seconds=self.bookmark_seconds,
        )


@dataclass(frozen=True)
class ApiAddress:
    """The address of a server: ``url``, and with TLS the CA certificate (PEM)."""

    url: str
    ca_pem: bytes | None = None

    def kubeconfig(self) -> dict[str, Any]:
        """A kubeconfig for the address. The server ignores its token, which some clients require."""
        cluster: dict[str, Any] = {"server": self.url}
        if self.ca_pem is not None:
            cluster["certificate-authority-data"] = base64.b64encode(self.ca_pem).decode()
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "ratchet-dev", "cluster": cluster}],
            "users": [{"name": "ratchet-dev", "user": {"token": "ratchet-dev"}}],
            "contexts": [{"name": "ratchet-dev", "context": {"cluster": "ratchet-dev", "user": "ratchet-dev"}}],
            "current-context": "ratchet-dev",
        }

    def write_kubeconfig(self, path: str | os.PathLike[str]) -> Path:
        """Write the kubeconfig to ``path`` atomically, readable by its owner only."""
        target = Path(path)
        write_file(target, yaml.safe_dump(self.kubeconfig(), sort_keys=False).encode())
        return target


@dataclass
class _Listener:
    """A bound socket, and its address for clients."""

    host: str
    port: int
    tls: bool
    socket: socket.socket = field(init=False)
    address: ApiAddress = field(init=False)
    context: ssl.SSLContext | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.socket = socket.create_server((self.host, self.port), family=family, backlog=128)
        reached = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        ca_pem = self._prepare_tls(reached) if self.tls else None
        shown = f"[{reached}]" if ":" in reached else reached
        port = self.socket.getsockname()[1]
        self.address = ApiAddress(f"{'https' if self.tls else 'http'}://{shown}:{port}", ca_pem)

    def _prepare_tls(self, reached: str) -> bytes:
        authority = trustme.CA()
        names = dict.fromkeys([reached, "127.0.0.1", "::1", "localhost"])
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(self.context)
        pem: bytes = authority.cert_pem.bytes()
        return pem


@contextlib.asynccontextmanager
async def _running(app: web.Application, listener: _Listener, also: Sequence[socket.socket] = ()) -> Any:
    runner = web.AppRunner(
        app, handle_signals=False, handler_cancellation=True, access_log=None, shutdown_timeout=_HANDLER_SECONDS
    )
    await runner.setup()
    try:
        for one in (listener.socket, *also):
            await web.SockSite(runner, one, ssl_context=listener.context).start()
        yield
    finally:
        transports = [connection.transport for connection in runner.server.connections] if runner.server else []
        await runner.cleanup()
        await _abort(transports)


async def _abort(transports: Sequence[asyncio.Transport | None]) -> None:
    """Close connections at once. A closing TLS transport would wait for a peer that may be gone."""
    for transport in transports:
        if transport is not None:
            transport.abort()
    for _ in range(3):  # the loop closes sockets one iteration later
        await asyncio.sleep(0)


class EmbeddedApi:
    """The API in a background thread, as a context manager.

    Leaving the context, or ``stop``, ends watches, closes connections and joins the thread. The storage
    remains: another ``EmbeddedApi`` on it continues like a restarted server with the same etcd.

    Args:
        storage: the state to serve; a new one by default.
        host: address to bind.
        port: port to bind; 0 for a free one, which ``url`` has.
        tls: serve HTTPS with a certificate of a new CA, which the kubeconfig contains.
        also: more listening sockets, which may be in other network namespaces.
        middlewares, graceful_pods, scheduler, bookmark_seconds: see ``make_app``.
    """

    def __init__(
        self,
        storage: Storage | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: bool = False,
        also: Sequence[socket.socket] = (),
        middlewares: Sequence[Middleware] = (),
        graceful_pods: bool = False,
        scheduler: bool = False,
        bookmark_seconds: float = 60.0,
    ) -> None:
        self.storage = storage if storage is not None else Storage()
        self._options = ApiOptions(middlewares, graceful_pods, scheduler, bookmark_seconds)
        self._bind_address = (host, port, tls)
        self._also = also
        self._running_address: ApiAddress | None = None
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], None] = lambda: None

    @property
    def address(self) -> ApiAddress:
        """The address of the server. Raises RuntimeError before the start."""
        if self._running_address is None:
            raise RuntimeError("cannot read the address of the embedded API: it is not started")
        return self._running_address

    @property
    def url(self) -> str:
        """The base URL, such as ``http://127.0.0.1:40001``."""
        return self.address.url

    def write_kubeconfig(self, path: str | os.PathLike[str]) -> Path:
        """Write a kubeconfig for the running server to ``path`` and return the path."""
        return self.address.write_kubeconfig(path)

    def start(self) -> Self:
        """Start the server and return once it accepts connections.

        Raises:
            OSError: the address cannot be bound.
            RuntimeError: the server is already running, or does not start.
        """
        if self._thread is not None:
            raise RuntimeError("cannot start the embedded API: it is running")
        listener = _Listener(*self._bind_address)
        started = threading.Event()
        failures: list[BaseException] = []
        self._thread = threading.Thread(
            target=self._serve, args=(listener, started, failures), name="embedded-api", daemon=True
        )
        self._thread.start()
        if not started.wait(_START_SECONDS) or failures:
            self.stop()
            listener.socket.close()
            cause = failures[0] if failures else f"no answer within {_START_SECONDS:.0f}s"
            raise RuntimeError(f"cannot start the embedded API: {cause}")
        self._running_address = listener.address
        return self

    def _serve(self, listener: _Listener, started: threading.Event, failures: list[BaseException]) -> None:
        async def run() -> None:
            stopping = asyncio.Event()
            loop = asyncio.get_running_loop()
            self._stop = lambda: _call_soon(loop, stopping.set)
            async with _running(self._options.app(self.storage), listener, self._also):
                started.set()
                await stopping.wait()

        try:
            asyncio.run(run())
        except BaseException as failure:  # noqa: BLE001 - start() reports it in the starting thread
            failures.append(failure)
        finally:
            started.set()

    def stop(self) -> None:
        """Stop the server and join its thread. Does nothing if the server is not running."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop()
        thread.join(_STOP_SECONDS)
        if thread.is_alive():
            raise RuntimeError(f"cannot stop the embedded API: still running after {_STOP_SECONDS:.0f}s")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


def serve(
    kubeconfig: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 0,
    tls: bool = False,
    *,
    scheduler: bool = False,
    graceful_pods: bool = False,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM. Must be called in the main thread.

    Args:
        kubeconfig: file to write when the server accepts connections.
        host, port, tls, scheduler, graceful_pods: see ``EmbeddedApi``.
        on_ready: called with the base URL when the kubeconfig is written.

    Raises:
        OSError: the address cannot be bound, or the file cannot be written.
    """
    listener = _Listener(host, port, tls)
    # The state is lost with the process. Versions start above those of an earlier run, so that its watches get 410.
    storage = Storage(first_version=int(time.time()))
    options = ApiOptions(scheduler=scheduler, graceful_pods=graceful_pods)

    async def run() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        async with _running(options.app(storage), listener):
            listener.address.write_kubeconfig(kubeconfig)
            if on_ready is not None:
                on_ready(listener.address.url)
            await stopping.wait()

    try:
        asyncio.run(run())
    finally:
        listener.socket.close()
