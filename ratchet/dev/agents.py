"""The agent of a testbed's node: a process in the node's namespace, as with hostNetwork."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ratchet.dev.hosts import Host, netns_path
from ratchet.errors import RatchetError

START_SECONDS = 30.0
STOP_SECONDS = 30.0

Process = subprocess.Popen[bytes]


def spawn(agent: AgentProcess, config: Path) -> Process:
    """Start the command `ratchet agent` in the agent's node, with its output appended to the log."""
    # The kernel kills the agent when its parent ends, even by SIGKILL (prctl(2), PR_SET_PDEATHSIG).
    bound = ["setpriv", "--pdeathsig", "KILL"]
    if agent.capabilities is not None:  # a program of root gets those of the bounding set (capabilities(7))
        kept = (f"+{name.lower()}" for name in sorted(agent.capabilities))
        bound += ["--inh-caps=-all", f"--bounding-set={','.join(('-all', *kept))}"]
    program = [*bound, sys.executable, "-m", "ratchet.cli.main", "agent", "--config", str(config)]
    with agent.log.open("ab") as log:
        return subprocess.Popen(
            agent.host.command(*program),
            env={**os.environ, **agent.variables},
            cwd=agent.source,  # `-m` looks for the package there first
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@dataclass(slots=True)
class AgentProcess:
    """The agent of one node. It ends with the thread that starts it.

    `options`: settings by their names in the configuration file. `source`: a folder with another version of the package
    to run; None for this version. `variables`: environment variables that it has besides this process's. `spawn` starts
    the process. `capabilities`: the names of those that it has, such as NET_ADMIN; None for those of this process.
    """

    host: Host
    kubeconfig: Path
    folder: Path
    state_dir: Path
    options: Mapping[str, object] = field(default_factory=dict)
    source: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    capabilities: Collection[str] | None = None
    spawn: Callable[[AgentProcess, Path], Process] = spawn
    _process: Process | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "agent.sock"

    @property
    def spool(self) -> Path:
        return self.state_dir / "spool"

    @property
    def panel(self) -> str:
        """The path of the node's patch panel, which a shim makes."""
        return netns_path(self.host.panel)

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables by which a shim finds this agent, and the node's patch panel."""
        paths = {"RATCHET_AGENT_SOCKET": str(self.socket), "RATCHET_AGENT_SPOOL": str(self.spool)}
        return {**paths, "RATCHET_PANEL": self.panel}

    @property
    def pid(self) -> int:
        process = self._process  # another thread may end the agent meanwhile
        if process is None:
            raise RatchetError(f"cannot name the agent of {self.host.name}: it is not running")
        return process.pid

    @property
    def running(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    def start(self) -> None:
        """Start the agent and wait until it serves. Raises RatchetError with the end of its log."""
        self.launch()
        self.wait_until_serving()

    def launch(self) -> None:
        """Start the agent without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "node_name": self.host.name,
            "kubeconfig": str(self.kubeconfig),
            "socket": str(self.socket),
            "state_dir": str(self.state_dir),
            "metrics_addr": "127.0.0.1:9472",
            **({} if self.source else {"panel": self.panel}),  # an earlier version does not have it
            **self.options,
        }
        config = self.folder / "agent.json"
        config.write_text(json.dumps(settings))
        self._process = self.spawn(self, config)

    def wait_until_serving(self) -> None:
        until = time.monotonic() + START_SECONDS
        while not self.socket.exists():
            if not self.running or time.monotonic() > until:
                raise RatchetError(f"cannot start the agent of {self.host.name}:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Send SIGTERM and wait for the end. Kills the agent after STOP_SECONDS."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Send SIGSTOP: the process exists and does nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        self._signal(number)
        self._signal(signal.SIGCONT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None
        if number is signal.SIGKILL:  # which an agent that ends by itself removes
            self.socket.unlink(missing_ok=True)
