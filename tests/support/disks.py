"""State directories on small file systems, which can be full or read-only."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ratchet.dev.fake_kubelet import Kubelet


@contextmanager
def small_disk(node: Kubelet, size: str = "64k") -> Iterator[Path]:
    """Mount an empty file system at the node's state directory within the block. `size` as in tmpfs(5)."""
    folder = str(node.state_dir)
    node.state_dir.mkdir(mode=0o700, exist_ok=True)
    retry_while_busy("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "ratchet-test", folder)
    try:
        yield node.state_dir
    finally:
        retry_while_busy("umount", folder)


def retry_while_busy(*command: str) -> None:
    """Retry mount(8) or umount(8) while the file system is busy: the agent may have a lock file open."""
    assert succeeds_once_idle(*command), f"{' '.join(command)}: the file system is busy"


def succeeds_once_idle(*command: str, seconds: float = 10.0) -> bool:
    """Run mount(8) or umount(8) until the file system is not busy, for so many seconds. Return whether it succeeded."""
    until = time.monotonic() + seconds
    while (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        assert "busy" in done.stderr, f"{' '.join(command)}: {done.stderr.strip()}"
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def fill(folder: Path) -> Path:
    """Fill the file system of a folder, and return the file that takes the room."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler
