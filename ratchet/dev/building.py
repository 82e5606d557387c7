"""Long builds: they report progress, are complete or absent, and are kept outside the checkout."""

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
REPORT_SECONDS = 5.0
OUTPUT_MAX = 2000

Report = Callable[[str], None]


def cache_folder() -> Path:
    """The folder that keeps builds: $XDG_CACHE_HOME/ratchet, or ~/.cache/ratchet."""
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
    report: Report,
    environment: Mapping[str, str] | None = None,
    folder: Path = Path("/"),
) -> None:
    """Run a command in a folder, and report its duration every few seconds.

    `what`: the command's name for people. Raises RatchetError with the end of its output.
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
            while (status := _wait_briefly(process)) is None:
                report(f"  {what}: {time.monotonic() - began:.0f} s")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        if status != 0:
            raise RatchetError(f"cannot run {what}: {output.read().strip()[-OUTPUT_MAX:]}")


def _wait_briefly(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(REPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return None
