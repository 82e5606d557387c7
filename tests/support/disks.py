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
    until = time.monotonic() + 10
    while (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        assert "busy" in done.stderr and time.monotonic() < until, f"{' '.join(command)}: {done.stderr.strip()}"
        time.sleep(0.02)


def fill(folder: Path) -> Path:
    """Fill the file system of a folder, and return the file that takes the room."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler
