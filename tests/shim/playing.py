"""The shim as a runtime executes it, and a fake agent that answers with the bytes that a test sets."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ratchet.agent.frame import Reply, Request, decode_request, encode_answer, read_request

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
ATTACHMENT = {"CNI_CONTAINERID": "c0ffee", "CNI_NETNS": "/run/netns/a", "CNI_IFNAME": "eth0"}
CALL_SECONDS = 30.0
# The shim never exits with 99, so it marks a sanitiser's report. Leaks are not detected: the shim allocates nothing.
SANITISERS = {
    "ASAN_OPTIONS": "exitcode=99:detect_leaks=0:abort_on_error=0",
    "UBSAN_OPTIONS": "exitcode=99:halt_on_error=1:print_stacktrace=1",
}

ServeConnection = Callable[[socket.socket], None]


@dataclass(frozen=True, slots=True)
class CallResult:
    """The exit status and the output of one execution of the shim."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.stdout))

    @property
    def code(self) -> int:
        """The code of the printed error. Asserts that a failure prints one CNI error and nothing else."""
        assert self.status == 1
        assert set(self.json) == {"cniVersion", "code", "msg", "details"}
        return int(self.json["code"])

    @property
    def message(self) -> str:
        return str(self.json["msg"])


@dataclass(slots=True)
class Node:
    """The files of a node: the shim in `bin`, the agent's socket, the spool. `before` is a command prefix.

    The node has no patch panel unless a test sets RATCHET_PANEL.
    """

    folder: Path
    shim: Path
    before: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def socket(self) -> Path:
        return self.folder / "agent.sock"

    @property
    def spool(self) -> Path:
        return self.folder / "state" / "spool"

    @property
    def fallback(self) -> Path:
        return self.shim.parent / "ratchet-daemonless"

    def add_fallback(self, script: str, *, mode: int = 0o755) -> None:
        self.fallback.write_text(script)
        self.fallback.chmod(mode)

    def environment(self, command: str | None, **variables: str | None) -> dict[str, str]:
        """Build the environment of a call. A variable that is None is unset."""
        paths = {"RATCHET_AGENT_SOCKET": str(self.socket), "RATCHET_AGENT_SPOOL": str(self.spool), "RATCHET_PANEL": ""}
        wanted = {**paths, **self.settings, **SANITISERS, "CNI_COMMAND": command, **ATTACHMENT, **variables}
        return {name: value for name, value in wanted.items() if value is not None}

    def start(self, command: str | None, **variables: str | None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.before, str(self.shim)],
            env=self.environment(command, **variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def call(self, command: str | None, stdin: bytes = b"{}", **variables: str | None) -> CallResult:
        return finish_call(self.start(command, **variables), stdin)

    def spooled(self) -> list[Path]:
        return sorted(self.spool.iterdir()) if self.spool.is_dir() else []


def finish_call(process: subprocess.Popen[bytes], stdin: bytes = b"") -> CallResult:
    """Wait for a started shim. Assert that no sanitiser reported, and that stdout never says "not found"."""
    try:
        stdout, stderr = process.communicate(stdin, timeout=CALL_SECONDS)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert process.returncode != 99 and b"runtime error" not in stderr, stderr.decode(errors="replace")
    stdout = stdout or b""  # a test may have closed it
    assert b"not found" not in stdout.lower()
    return CallResult(process.returncode, stdout, stderr)


class AgentStub:
    """A context manager: an agent on a socket that calls `serve` with one connection after another."""

    def __init__(self, path: Path, serve: ServeConnection) -> None:
        self._path = path
        self._serve = serve
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._run)
        self._fault: BaseException | None = None
        self.calls = 0

    def __enter__(self) -> Self:
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self._path.unlink()
        if self._fault is not None and error is None:
            raise self._fault

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # shut down at the end of the test
                return
            self.calls += 1
            try:
                with connection:
                    connection.settimeout(CALL_SECONDS)
                    self._serve(connection)
            except BaseException as fault:  # noqa: BLE001  # raised when the block ends
                self._fault = fault


class Recorder:
    """A `serve` function that gives each call the same answer and records the request."""

    def __init__(self, raw: bytes = encode_answer(Reply(0, b"{}\n"))) -> None:
        self.raw = raw
        self.frames: list[bytes] = []

    def __call__(self, connection: socket.socket) -> None:
        self.frames.append(receive_request(connection))
        with suppress(BrokenPipeError, ConnectionResetError):  # the shim may close before it has read a long answer
            connection.sendall(self.raw)

    @property
    def requests(self) -> list[Request]:
        return [decode_request(frame) for frame in self.frames]


def receive_request(connection: socket.socket) -> bytes:
    """Read one request and return its bytes."""
    frame = bytearray()

    def read(size: int) -> bytes:
        piece = connection.recv(size)
        frame.extend(piece)
        return piece

    read_request(read)
    return bytes(frame)


def withhold_answer(connection: socket.socket) -> None:
    """Receive a request and never answer it."""
    receive_request(connection)
    assert connection.recv(1) == b""


def fill_accept_queue(path: Path) -> tuple[socket.socket, list[socket.socket]]:
    """Listen without accepting. Return the listener and the connections that fill its accept queue."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    waiting: list[socket.socket] = []
    while True:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.setblocking(False)
        try:
            one.connect(str(path))
        except BlockingIOError:
            one.close()
            return listener, waiting
        waiting.append(one)


def close_all(sockets: Iterable[socket.socket]) -> None:
    for one in sockets:
        one.close()
