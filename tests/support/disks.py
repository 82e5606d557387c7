"""Disks that are full or read-only: small file systems in memory, mounted for a block."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class DiskBusyError(Exception):
    """A file system has open files for too long, as when its agent is paused."""


@contextmanager
def small_disk(folder: Path, size: str = "64k") -> Iterator[Path]:
    """Mount an empty file system at a folder within the block. `size` as in tmpfs(5)."""
    folder.mkdir(mode=0o700, exist_ok=True)
    _retry_while_busy("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "ratchet-test", str(folder))
    try:
        yield folder
    finally:
        _retry_while_busy("umount", str(folder))


def fill(folder: Path) -> Path:
    """Fill the file system of a folder, and return the file that takes the room."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


class BrokenDisk:
    """A small disk that can reject writes: `kind` is "full" or "read-only"."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._kind = kind
        self.cause = {"full": "No space left on device", "read-only": "Read-only file system"}[kind]

    def break_down(self) -> None:
        """Reject all writes from now on."""
        if self._kind == "full":
            fill(self._folder)
        else:
            _retry_while_busy("mount", "-o", "remount,ro", str(self._folder))

    def repair(self) -> None:
        """Accept writes again."""
        if self._kind == "full":
            (self._folder / "filler").unlink()
        else:
            _retry_while_busy("mount", "-o", "remount,rw", str(self._folder))


def _retry_while_busy(*command: str) -> None:
    """Retry mount(8) or umount(8) while the file system is busy: an agent may have a lock file open."""
    until = time.monotonic() + 10
    while (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        assert "busy" in done.stderr, f"{' '.join(command)}: {done.stderr.strip()}"
        if time.monotonic() > until:
            raise DiskBusyError(f"{' '.join(command)}: {done.stderr.strip()}")
        time.sleep(0.02)
