"""The agent's Unix socket for CNI calls, which only root may use.

A connection has one call: a request frame in, an answer frame out. A shim may also ask for the open patch panel, to
give it its name back. Each call has a thread, so calls do not wait for
each other. The number of threads is bounded; further calls wait in the socket's backlog. The thread that accepts a call
also serves it, because a handover to another thread costs much of what a call costs. A thread that gets no call for a
while ends, except for SPARE ones.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ratchet.agent.frame import FrameError, PanelRequest, Reply, Request, encode_answer, read_any_request
from ratchet.cni.answer import error_json
from ratchet.cni.versions import LATEST
from ratchet.errors import RatchetError

log = logging.getLogger(__name__)

AT_ONCE = 512
SPARE = 8  # threads that wait for calls: at the start, and the fewest that stay
IDLE_SECONDS = 60.0
BACKLOG = 1024
REQUEST_SECONDS = 10.0  # for a shim to send its request, and to take its reply
TAKE_OVER_SECONDS = 30.0
_PEER = struct.Struct("iII")  # struct ucred (unix(7), SO_PEERCRED)
_TIMEVAL = struct.Struct("ll")  # struct timeval (socket(7), SO_RCVTIMEO)

Serve = Callable[[Request], AbstractContextManager[Reply]]
PanelDescriptor = Callable[[], int | None]


class Server:
    """Serves requests at `path`, from `start` until `stop`. A context manager.

    `serve` returns the reply to a request as a context manager, within which the reply is sent. `panel` returns the
    descriptor of the open patch panel, None if there is none. Only one agent serves a path: the socket of a former
    agent is replaced, and one that still runs is waited for. `idle_seconds`: how long a thread waits for a call.
    """

    def __init__(
        self, path: str, serve: Serve, panel: PanelDescriptor = lambda: None, *, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._path = Path(path)
        self._serve = serve
        self._panel = panel
        self._idle = _TIMEVAL.pack(int(idle_seconds), int(idle_seconds % 1 * 1_000_000))
        self._allowed = {0, os.geteuid()}
        self._running = 0
        self._threads = 0
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._lock = -1

    def __enter__(self) -> Self:
        """Lock the socket for this process. Calls are served from `start` on. Raises RatchetError."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.parent.chmod(0o700)
            self._lock = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._wait_for_lock()
        except OSError as cause:
            raise RatchetError(f"cannot serve at {self._path}: {cause.strerror}") from cause
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop(0.0)
        os.close(self._lock)

    def start(self) -> None:
        """Listen, and start the first threads. Raises RatchetError."""
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            partial.unlink(missing_ok=True)
            listener.bind(str(partial))
            partial.chmod(0o600)
            listener.listen(BACKLOG)
            # Not settimeout(): it polls, and each call would wake all threads that wait. accept(2) wakes one.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, self._idle)
            partial.rename(self._path)  # the socket listens before a client can see it
        except OSError as cause:
            listener.close()
            raise RatchetError(f"cannot serve at {self._path}: {cause.strerror}") from cause
        self._listener = listener
        for _ in range(SPARE):
            self._add_thread(listener)

    def stop(self, seconds: float) -> bool:
        """Accept no more calls, and wait up to `seconds` for the running ones. Returns whether all have ended."""
        listener, self._listener = self._listener, None  # before it is closed, so that the threads know why
        if listener is not None:
            self._path.unlink(missing_ok=True)
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        until = time.monotonic() + seconds
        with self._changed:
            while self._running and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._running

    @property
    def calls(self) -> int:
        """The number of running calls."""
        return self._running

    @property
    def threads(self) -> int:
        """The number of threads that serve calls or wait for them."""
        return self._threads

    def _wait_for_lock(self) -> None:
        until = time.monotonic() + TAKE_OVER_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as held:
                if time.monotonic() > until:
                    raise RatchetError(f"cannot serve at {self._path}: another agent serves there") from held
                time.sleep(0.1)
            else:
                return

    def _add_thread(self, listener: socket.socket) -> None:
        with self._changed:
            self._threads += 1
            name = f"call-{self._threads}"
        try:
            threading.Thread(target=self._take_calls, args=(listener,), name=name, daemon=True).start()
        except RuntimeError as cause:  # the system has no more threads: the running ones continue
            with self._changed:
                self._threads -= 1
            log.error('cannot start a thread for calls cause="%s"', cause)

    def _take_calls(self, listener: socket.socket) -> None:
        while self._listener is listener:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                if self._is_surplus():
                    return
                continue
            except OSError as cause:
                if self._listener is listener:
                    log.error('cannot accept calls cause="%s"', cause.strerror)
                    time.sleep(1.0)
                continue
            with self._changed:
                self._running += 1
                last = self._running == self._threads < AT_ONCE
            if last:  # no thread waits for the next call
                self._add_thread(listener)
            self._handle(connection)

    def _is_surplus(self) -> bool:
        """Whether enough other threads wait for calls. The calling thread must then end."""
        with self._changed:
            surplus = self._threads - self._running > SPARE
            self._threads -= surplus
        return surplus

    def _handle(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(REQUEST_SECONDS)
                self._require_root(connection)
                self._answer(connection)
        except PermissionError as error:
            log.error('call rejected cause="%s"', error)
        except OSError as cause:
            log.warning('caller disconnected cause="%s"', cause)
        except Exception:
            log.exception("call failed: a bug in ratchet")
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _answer(self, connection: socket.socket) -> None:
        try:
            request = read_any_request(connection.recv)
        except FrameError as error:
            log.error('request rejected cause="%s"', error)
            connection.sendall(encode_answer(Reply(1, json.dumps(error_json(error, LATEST)).encode() + b"\n")))
            return
        if isinstance(request, PanelRequest):
            self._send_panel(connection)
            return
        connection.settimeout(None)
        with self._serve(request) as reply:
            connection.settimeout(REQUEST_SECONDS)
            connection.sendall(encode_answer(reply))

    def _send_panel(self, connection: socket.socket) -> None:
        panel = self._panel()
        socket.send_fds(connection, [encode_answer(Reply(0, b""))], [] if panel is None else [panel])

    def _require_root(self, connection: socket.socket) -> None:
        pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid not in self._allowed:
            raise PermissionError(f"process {pid} of user {uid} may not call: only root may")
