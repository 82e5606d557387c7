"""A machine: a set of namespaces. When its first process ends, the kernel ends all the others.

The first process (PID 1 of its PID namespace) waits and reaps zombies. /etc, /opt, /run, /var/lib and /var/log are
folders of the machine, at the paths that they have on a real one. All other files are the host's.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import RatchetError

START_SECONDS, STOP_SECONDS = 10.0, 20.0
OWN = ("etc", "opt", "run", "var/lib", "var/log")

# $1 is the machine's folder, $2 its name. The kernel reaps zombies because PID 1 ignores SIGCHLD.
_FIRST_PROCESS = f"""
set -eu
hostname "$2"
mount --make-rprivate /
for own in {" ".join(OWN)}; do mount --bind "$1/$own" "/$own"; done
mount -t proc proc /proc
mount --make-rshared /
ip link set lo up
: > "$1/ready"
exec env --ignore-signal=CHLD sleep infinity
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine. Its state is in its folder, so any process can manage it."""

    name: str
    folder: Path

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def is_up(self) -> bool:
        return self._first() is not None

    @property
    def pid(self) -> int:
        """The host's PID of the first process. Raises RatchetError if the machine is not up."""
        if (first := self._first()) is None:
            raise RatchetError(f"cannot enter the machine {self.name}: it is not up")
        return first

    def start(self) -> None:
        """Start the machine. Creates missing folders; /etc is a copy of the host's. Raises RatchetError."""
        for own in OWN:
            self._make(own)
        self.logs.mkdir(exist_ok=True)
        (self.folder / "ready").unlink(missing_ok=True)
        namespaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        argv = ["unshare", *namespaces, "sh", "-c", _FIRST_PROCESS, "sh", str(self.folder), self.name]
        # Not a child of this process: the machine outlives it, and another process may stop it.
        line = 'cd /; log=$1; shift; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!'
        log = self.logs / "machine.log"
        started = subprocess.run(["sh", "-c", line, "sh", str(log), *argv], check=True, capture_output=True, text=True)
        self._pid_file.write_text(started.stdout)
        unshare = Path(f"/proc/{started.stdout.strip()}")
        until = time.monotonic() + START_SECONDS
        while not (self.folder / "ready").exists():
            if not unshare.exists() or time.monotonic() > until:
                raise RatchetError(f"cannot start the machine {self.name}: {log.read_text().strip()[-1000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill all processes of the machine, as a power failure does."""
        if (first := self._first()) is not None:
            os.kill(first, signal.SIGKILL)
            _wait_for_end(lambda: not Path(f"/proc/{first}").exists(), f"the machine {self.name}")
        self._pid_file.unlink(missing_ok=True)
        for pid_file in self.folder.glob("*.daemon"):
            pid_file.unlink()

    def forget_boot(self) -> None:
        """Remove what a reboot clears."""
        shutil.rmtree(self.folder / "run")

    def command(self, *argv: str, own_files: bool = True) -> list[str]:
        """The host's command line that runs a command in the machine.

        `own_files` False: with the host's files.
        """
        namespaces = ["-n", "-p", "-u", "-i", *(["-m"] if own_files else [])]
        return ["nsenter", "-t", str(self.pid), *namespaces, "--", *argv]

    def run(self, *argv: str, stdin: Path | None = None) -> str:
        """Run a command in the machine and return its stdout. Raises RatchetError with its stderr."""
        with (stdin or Path(os.devnull)).open("rb") as given:
            done = subprocess.run(self.command(*argv), check=False, capture_output=True, text=True, stdin=given)
        if done.returncode != 0:
            printed = (done.stderr or done.stdout).strip()[-2000:]
            raise RatchetError(f"cannot run {shlex.join(argv)} on {self.name}: {printed}")
        return done.stdout

    def start_daemon(
        self,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        own_files: bool = True,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start a daemon, with its output in `log/<name>.log`. Raises RatchetError."""
        line = 'log=$1; file=$2; shift 2; setsid env "$@" >>"$log" 2>&1 </dev/null & echo $! >"$file"'
        variables = [f"{key}={value}" for key, value in (environment or {}).items()]
        shell = ["sh", "-c", line, "sh", str(self._log(name)), str(self._daemon(name)), *variables, *argv]
        try:
            subprocess.run(self.command(*shell, own_files=own_files), check=True, pass_fds=pass_fds)
        except (OSError, subprocess.CalledProcessError) as cause:
            raise RatchetError(f"cannot start {name} on {self.name}: {cause}") from cause

    def daemons(self) -> dict[str, bool]:
        """The started daemons, and whether each is running."""
        return {file.stem: self.is_running(file.stem) for file in sorted(self.folder.glob("*.daemon"))}

    def is_running(self, name: str) -> bool:
        file = self._daemon(name)
        if not file.exists() or not self.is_up:
            return False
        return (
            subprocess.run(
                self.command("kill", "-0", file.read_text().strip()), check=False, capture_output=True
            ).returncode
            == 0
        )

    def stop_daemon(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop a daemon and wait for its end."""
        if self.is_running(name):
            self.run("kill", f"-{number.value}", self._daemon(name).read_text().strip())
            _wait_for_end(lambda: not self.is_running(name), f"{name} on {self.name}")
        self._daemon(name).unlink(missing_ok=True)

    def end_of_log(self, name: str, characters: int = 3000) -> str:
        log = self._log(name)
        return log.read_text(errors="replace")[-characters:] if log.exists() else ""

    def wait_for_daemon(self, name: str, what: str, holds: Callable[[], bool], seconds: float) -> None:
        """Wait until `holds` returns True. Raises RatchetError with the end of the daemon's log."""
        until = time.monotonic() + seconds
        while not holds():
            if not self.is_running(name):
                raise RatchetError(f"cannot wait for {what}: {name} on {self.name} ended:\n{self.end_of_log(name)}")
            if time.monotonic() > until:
                raise RatchetError(
                    f"cannot wait for {what}: {name} on {self.name} took over {seconds:.0f} s:\n{self.end_of_log(name)}"
                )
            time.sleep(0.1)

    @property
    def _pid_file(self) -> Path:
        return self.folder / "pid"

    def _daemon(self, name: str) -> Path:
        return self.folder / f"{name}.daemon"

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _make(self, own: str) -> None:
        path = self.folder / own
        if path.exists():
            return
        if own == "etc":
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree("/etc", path, symlinks=True)
        else:
            path.mkdir(parents=True)

    def _first(self) -> int | None:
        """The host's PID of the first process: the child of the unshare(1) of this folder."""
        try:
            unshare = int(self._pid_file.read_text())
            if str(self.folder) not in Path(f"/proc/{unshare}/cmdline").read_text().split("\0"):
                return None
            children = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
        except (OSError, ValueError):
            return None
        return int(children[0]) if children else None


def _wait_for_end(ended: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + STOP_SECONDS
    while not ended():
        if time.monotonic() > until:
            raise RatchetError(f"cannot stop {what}: it is still there after {STOP_SECONDS:.0f} s")
        time.sleep(0.02)
