"""What takes long to build: said while it goes on, made whole or not at all, and kept outside the checkout."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.node.files import replacing

REPOSITORY = Path(__file__).resolve().parents[2]
SAY_SECONDS = 5.0
COMPLAINT = 2000

Say = Callable[[str], None]


def cache() -> Path:
    """Where what is built is kept, whatever becomes of the checkout ($XDG_CACHE_HOME, or ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ratchet"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, which becomes `folder` if the block succeeds and is removed if not."""
    with replacing(folder) as partial:
        partial.mkdir(parents=True)
        yield partial


def run(
    what: str,
    command: Sequence[str],
    say: Say,
    environment: Mapping[str, str] | None = None,
    folder: Path = Path("/"),
) -> None:
    """Run a command in a folder to its end, saying every few seconds that it, `what` for people, goes on.

    Raises RatchetError with the end of what it printed.
    """
    with tempfile.TemporaryFile("w+") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        except OSError as cause:
            raise RatchetError(f"cannot run {what}: {cause.strerror}") from cause
        began = time.monotonic()
        try:
            while (status := _ended(process)) is None:
                say(f"  {what}: {time.monotonic() - began:.0f} s")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        if status != 0:
            raise RatchetError(f"cannot run {what}: {output.read().strip()[-COMPLAINT:]}")


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(SAY_SECONDS)
    except subprocess.TimeoutExpired:
        return None
