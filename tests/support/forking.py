"""Daemonless plugins and agents without the start of a Python: a server that has imported both forks for each.

The imports take two thirds of the CPU of a call, and four fifths of an agent's start. Tests make thousands of calls
and start hundreds of agents. A forked process is one of its own, in the namespace and with the environment and standard
streams of a started one. A plugin runs the installed launcher script, an agent the command `ratchet agent`.

Tests marked `executed`, the benchmarks and the end-to-end tests start the launcher itself. `make demo`,
`tests/agent/test_testbeds.py`, the benchmarks and the end-to-end tests start the agent's command.
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
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, cast

from ratchet.dev import agents, fake_kubelet
from ratchet.dev.agents import AgentProcess
from ratchet.dev.fake_kubelet import Spawned
from ratchet.dev.hosts import Host, netns_path
from tests.support.capabilities import NUMBERS

SHEBANG = f"#!{sys.executable} -I\n".encode()
SERVER = Path(__file__).with_name("fork_server.py")
AGENT = Path(__file__).with_name("forked_agent.py")


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

    def fork(
        self,
        script: Path,
        arguments: Sequence[str],
        netns: str | None,
        environ: Mapping[str, str],
        streams: Sequence[IO[str]],
    ) -> int:
        """Run a script in a process of its own. Returns a pipe that has its pid and, when it ends, its exit status.

        `netns`: the path of the process's network namespace; None for this process's.
        """
        request = {
            "script": str(script),
            "arguments": list(arguments),
            "netns": netns,
            "environ": dict(environ),
        }
        ended, pipe = os.pipe()
        try:
            with self._lock:
                socket.send_fds(
                    self._channel, [json.dumps(request).encode()], [*(one.fileno() for one in streams), pipe]
                )
        finally:
            os.close(pipe)
        return ended

    def close(self) -> None:
        self._channel.close()
        self._process.wait()


class Forked:
    """A forked process, with the methods of `subprocess.Popen` that tests use. Thread-safe.

    The streams of a call are files. Who does not call `communicate` closes `stdout` and `stderr`.
    """

    def __init__(self, ended: int, stdout: IO[str] | None = None, stderr: IO[str] | None = None) -> None:
        self._ended = os.fdopen(ended)
        weakref.finalize(self, self._ended.close)
        self._lock = threading.Lock()
        self.stdin = None
        self.stdout, self.stderr = stdout, stderr
        self.pid = int(self._ended.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
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
            assert file is not None
            with file:
                file.seek(0)
                written.append(file.read())
        return written[0], written[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended
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
        return cast(Spawned, fork_plugin(executable, netns_path(host.netns), environ, stdin))
    return fake_kubelet.spawn(executable, host, environ, stdin)


def fork_plugin(launcher: Path, netns: str | None, environ: Mapping[str, str], stdin: str) -> Forked:
    """Start a call of a launcher script in a network namespace, or in this process's."""
    stdout, stderr = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115  # closed with the call
    with TemporaryFile("w+") as given:
        given.write(stdin)
        given.seek(0)
        ended = _server().fork(launcher, (), netns, environ, (given, stdout, stderr))
    return Forked(ended, stdout, stderr)


def fork_agent(agent: AgentProcess, config: Path) -> agents.Process:
    """Start an agent: forked, unless it has another version of the package or environment variables of its own."""
    if agent.source is not None or agent.variables:
        return agents.spawn(agent, config)
    with Path(os.devnull).open() as nothing, agent.log.open("a") as log:
        streams = (nothing, log, log)
        kept = None if agent.capabilities is None else sorted(NUMBERS[name] for name in agent.capabilities)
        arguments = (json.dumps(kept), "--config", str(config))
        ended = _server().fork(AGENT, arguments, netns_path(agent.host.netns), os.environ, streams)
    return cast(agents.Process, Forked(ended))
