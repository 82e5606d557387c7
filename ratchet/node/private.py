"""Files and folders for root alone."""

from __future__ import annotations

import os
from pathlib import Path

from ratchet.errors import RatchetError


def make_private(directory: Path) -> None:
    """Have a folder there. Raises RatchetError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as cause:
        raise unwritable(directory, cause) from cause


def open_private(path: str, flags: int) -> int:
    """A descriptor of a file that is made for us alone; never of what a link leads to. Raises OSError."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def unwritable(path: Path, cause: OSError) -> RatchetError:
    return RatchetError(
        f"cannot write {path}: {cause.strerror}", details="the plugin's state_dir must be writable and have room"
    )
