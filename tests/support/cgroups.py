"""A memory cgroup of a test's own, of version 1 or 2 (cgroups(7)), below the group of this process or beside it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ratchet.dev.hosts import Host, command_in

_ROOT = Path("/sys/fs/cgroup")
_MIB = 1 << 20


class NoMemoryGroupError(Exception):
    """This machine lets the process make no memory cgroup."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A memory cgroup with a limit."""

    path: Path

    @property
    def processes(self) -> Path:
        return self.path / "cgroup.procs"

    @property
    def oom_kills(self) -> int:
        """The processes of the group that the kernel has killed because of the limit."""
        events = next(one for name in ("memory.events", "memory.oom_control") if (one := self.path / name).exists())
        return int(dict(line.split() for line in events.read_text().splitlines())["oom_kill"])

    @property
    def peak(self) -> float:
        """The most memory of the group in MiB, with its page cache. NaN if the kernel does not report it."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            if (file := self.path / name).exists():
                return int(file.read_text()) / _MIB
        return float("nan")


@dataclass(frozen=True, slots=True)
class LimitedHost(Host):
    """A node whose agent starts in a memory cgroup."""

    group: MemoryGroup

    def command(self, *argv: str) -> list[str]:
        join = 'echo $$ > "$0" && exec "$@"'
        return ["sh", "-c", join, str(self.group.processes), *command_in(self.netns, *argv)]


@contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup]:
    """A group that may use `limit` bytes. Raises NoMemoryGroupError."""
    group = _made(limit)
    try:
        yield group
    finally:
        until = time.monotonic() + 10
        while group.path.exists():  # a process that has just ended is still in it for a moment
            with suppress(OSError):
                group.path.rmdir()
            assert time.monotonic() < until, f"{group.path} still has processes: {group.processes.read_text()}"


def _made(limit: int) -> MemoryGroup:
    refusals = []
    for parent, file in _parents():
        path = parent / f"ratchet-test-{secrets.token_hex(3)}"
        try:
            path.mkdir()
        except OSError as cause:
            refusals.append(f"{parent}: {cause.strerror}")
            continue
        try:
            (path / file).write_text(str(limit))
        except OSError as cause:
            path.rmdir()
            refusals.append(f"{path / file}: {cause.strerror}")
            continue
        with suppress(OSError):  # there is no swap
            (path / "memory.swap.max").write_text("0")
        return MemoryGroup(path)
    raise NoMemoryGroupError("; ".join(refusals) or "no memory controller")


def _parents() -> Iterator[tuple[Path, str]]:
    """The groups in which to make one, each with the file of the limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, own = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield _ROOT / "memory" / own.lstrip("/"), "memory.limit_in_bytes"
        elif number == "0":
            group = _ROOT / own.lstrip("/")
            yield group, "memory.max"
            yield group.parent, "memory.max"  # a group with processes of its own has no memory controller below it
