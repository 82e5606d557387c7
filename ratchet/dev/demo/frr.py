"""FRR in a pod of the demo, if FRR is installed: zebra, staticd, ospfd (docs.frrouting.org)."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from ratchet.dev.hosts import command_in
from ratchet.dev.testbed import wait_for
from ratchet.errors import RatchetError

DAEMONS = Path("/usr/lib/frr")
STOP_SECONDS = 10.0
# The groups that FRR's daemons require. All are root's: the demo runs as root, and the daemons keep its rights.
_GROUPS = "root:x:0:root\nfrr:x:0:root\nfrrvty:x:0:root\n"
_ALL_USERS = "4294967295"
# With /var/tmp in their own folder, which is removed with them.
_START = 'mount --bind "$0/group" /etc/group && mount --bind "$0" /var/tmp && exec setpriv --pdeathsig KILL "$@"'


def is_usable() -> bool:
    """Whether the daemons are installed and this process is root, but not of a user namespace.

    There the daemons cannot get the groups that they require (user_namespaces(7)).
    """
    installed = all((DAEMONS / name).exists() for name in ("zebra", "staticd", "ospfd")) and shutil.which("vtysh")
    return bool(installed) and Path("/proc/self/uid_map").read_text().split() == ["0", "0", _ALL_USERS]


@dataclass(slots=True)
class Frr:
    """The router of one pod. It ends with the thread that starts it.

    `netns`: the pod's network namespace. `folder`: its sockets and logs. `config`: the content of frr.conf.
    """

    netns: str
    folder: Path
    config: str
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start and configure the daemons. Raises RatchetError with the end of their logs."""
        self.folder.mkdir(mode=0o700)
        (self.folder / "frr.conf").write_text(self.config)
        (self.folder / "vtysh.conf").touch()
        (self.folder / "group").write_text(_GROUPS)
        self._run("zebra")
        self._run("staticd")
        if "router ospf" in self.config:
            self._run("ospfd")
        done = subprocess.run(self.vtysh("-b"), check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RatchetError(f"cannot configure FRR in {self.netns}: {done.stdout}{done.stderr}")

    def stop(self) -> None:
        """Stop the daemons in reverse order."""
        while self._processes:
            process = self._processes.pop()
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def vtysh(self, *arguments: str) -> list[str]:
        """The command line of vtysh for these daemons."""
        return ["vtysh", "--vty_socket", str(self.folder), "--config_dir", str(self.folder), *arguments]

    def _run(self, daemon: str) -> None:
        where = ["-z", str(self.folder / "zserv.api"), "--vty_socket", str(self.folder), "-P", "0"]
        command = [str(DAEMONS / daemon), "-u", "root", "-g", "root", "-f", os.devnull, *where]
        command += ["-i", str(self.folder / f"{daemon}.pid"), "--log", "stdout"]
        apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _START, str(self.folder)]
        log = self.folder / f"{daemon}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command_in(self.netns, *apart, *command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._processes.append(process)
        ready = self.folder / ("zserv.api" if daemon == "zebra" else f"{daemon}.vty")
        wait_for(f"{daemon} in {self.netns}", lambda: ready.exists() or process.poll() is not None)
        if process.poll() is not None:
            raise RatchetError(f"cannot start {daemon} in {self.netns}:\n{log.read_text()[-2000:]}")
