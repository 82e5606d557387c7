"""Calls of the daemonless plugin without the start of a Python: a server that has imported the plugin forks for each.

The imports take two thirds of a call's CPU, and the tests make thousands of calls. A forked call is a process of its
own, in the namespace and with the environment and standard streams of a started one, and runs the installed launcher
script. `tests/plugin/test_contract.py`, the benchmarks and the end-to-end tests start the launcher itself.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, cast

from ratchet.dev.fake_kubelet import Spawned, spawn
from ratchet.dev.hosts import Host, netns_path

SHEBANG = f"#!{sys.executable} -I\n".encode()
SERVER = Path(__file__).with_name("fork_server.py")


class ForkServer:
    """The server process, and its socket. Thread-safe."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(SERVER), str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        self._lock = threading.Lock()
        atexit.register(self.close)

    def spawn(self, script: Path, host: Host, environ: Mapping[str, str], stdin: str) -> Forked:
        request = {"script": str(script), "netns": netns_path(host.netns), "environ": dict(environ)}
        with TemporaryFile("w+") as given:
            given.write(stdin)
            given.seek(0)
            stdout, stderr = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115  # closed with the call
            ended, pipe = os.pipe()
            descriptors = [given.fileno(), stdout.fileno(), stderr.fileno(), pipe]
            try:
                with self._lock:
                    socket.send_fds(self._channel, [json.dumps(request).encode()], descriptors)
            finally:
                os.close(pipe)
        return Forked(ended, stdout, stderr)

    def close(self) -> None:
        self._channel.close()
        self._process.wait()


class Forked:
    """A forked call, with the methods of `subprocess.Popen` that tests use. Its streams are files.

    Who does not call `communicate` closes `stdout` and `stderr`.
    """

    def __init__(self, ended: int, stdout: IO[str], stderr: IO[str]) -> None:
        self._ended = os.fdopen(ended)
        self.stdin = None
        self.stdout, self.stderr = stdout, stderr
        self.pid = int(self._ended.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            with self._ended:
                self.returncode = int(self._ended.readline())
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._ended], [], [], left)[0]:
                raise subprocess.TimeoutExpired("ratchet", cast("float", timeout))
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        written = []
        for file in (self.stdout, self.stderr):
            with file:
                file.seek(0)
                written.append(file.read())
        return written[0], written[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


@cache
def _server() -> ForkServer:
    return ForkServer()


def fork_or_spawn(executable: Path, host: Host, environ: Mapping[str, str], stdin: str) -> Spawned:
    """Start a call: forked if the executable is a launcher script of this Python, else as a kubelet starts it."""
    with executable.open("rb") as opened:
        is_script = opened.read(len(SHEBANG)) == SHEBANG
    if is_script:
        return cast(Spawned, _server().spawn(executable, host, environ, stdin))
    return spawn(executable, host, environ, stdin)
