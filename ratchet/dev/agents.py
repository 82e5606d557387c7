"""An agent on a node of the bed: a process in the node's namespace, as a DaemonSet with hostNetwork would run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ratchet.dev.hosts import Host
from ratchet.errors import RatchetError

START_SECONDS = 30.0
STOP_SECONDS = 30.0


@dataclass(slots=True)
class AgentProcess:
    """One node's agent. `options` are further options, by their names in the configuration file.

    `source` is a folder with another version of the package, to run that version; None runs this one. The agent ends
    with the thread that starts it.
    """

    host: Host
    kubeconfig: Path
    folder: Path
    state_dir: Path
    options: Mapping[str, object] = field(default_factory=dict)
    source: Path | None = None
    _process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "agent.sock"

    @property
    def spool(self) -> Path:
        return self.state_dir / "spool"

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"

    @property
    def environment(self) -> dict[str, str]:
        """What a shim needs to know to reach this agent, and no other."""
        return {"RATCHET_AGENT_SOCKET": str(self.socket), "RATCHET_AGENT_SPOOL": str(self.spool)}

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RatchetError(f"cannot name the agent of {self.host.name}: it does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it serves. Raises RatchetError with the end of its log."""
        self.launch()
        self.wait_until_serving()

    def launch(self) -> None:
        """Start it, and do not wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "node_name": self.host.name,
            "kubeconfig": str(self.kubeconfig),
            "socket": str(self.socket),
            "state_dir": str(self.state_dir),
            "metrics_addr": "127.0.0.1:9472",
            **self.options,
        }
        config = self.folder / "agent.json"
        config.write_text(json.dumps(settings))
        # Whatever becomes of whoever started it, SIGKILL too, it does not go on alone (prctl(2), PR_SET_PDEATHSIG).
        tied = ["setpriv", "--pdeathsig", "KILL"]
        program = [*tied, sys.executable, "-m", "ratchet.cli.main", "agent", "--config", str(config)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.host.command(*program),
                cwd=self.source,  # `-m` looks for the package there first
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_serving(self) -> None:
        until = time.monotonic() + START_SECONDS
        while not self.socket.exists():
            if not self.running or time.monotonic() > until:
                raise RatchetError(f"cannot start the agent of {self.host.name}:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM, and wait for its end; one that does not come is made to."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: it is there and does nothing."""
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
        if number is signal.SIGKILL:  # what a process that ends by itself takes away
            self.socket.unlink(missing_ok=True)
