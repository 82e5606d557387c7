"""Control groups of a node: one group under each controller."""

from __future__ import annotations

import time
from pathlib import Path

from ratchet.errors import RatchetError

ROOT = Path("/sys/fs/cgroup")
EMPTY_SECONDS = 20.0
# A new group of this controller accepts no process before these are set (kernel.org, "CPUSETS").
_INHERITED = ("cpuset.cpus", "cpuset.mems")


def hierarchies() -> list[Path]:
    """The roots of the mounted hierarchies: one for cgroup v2, one for each controller for v1."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return sorted(path for path in ROOT.iterdir() if path.is_dir() and (path / "cgroup.procs").exists())


def make(name: str) -> None:
    """Create the group `name` in each hierarchy. Raises RatchetError."""
    try:
        for root in hierarchies():
            group = root / name
            group.mkdir(exist_ok=True)
            for setting in _INHERITED:
                if (root / setting).exists() and not (group / setting).read_text().strip():
                    (group / setting).write_text((root / setting).read_text())
    except OSError as cause:
        raise RatchetError(f"cannot create the control group {name}: {cause}") from cause


def remove(name: str) -> None:
    """Remove the group and the groups below it when their processes have ended. Raises RatchetError."""
    until = time.monotonic() + EMPTY_SECONDS
    for root in hierarchies():
        while (root / name).exists():
            try:
                for group in sorted((root / name).rglob("*/"), key=lambda path: -len(path.parts)):
                    if group.is_dir():
                        group.rmdir()
                (root / name).rmdir()
            except FileNotFoundError:
                continue
            except OSError as cause:  # a killed process leaves its group a moment later
                if time.monotonic() > until:
                    raise RatchetError(f"cannot remove the control group {root / name}: {cause}") from cause
                time.sleep(0.05)
