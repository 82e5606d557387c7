"""Files and folders for root alone."""

from __future__ import annotations

import os
from pathlib import Path

from ratchet.errors import RatchetError


def create_private(path: Path, flags: int) -> int:
    """A descriptor of a file for us alone, made where it is missing, as is its folder; never of what a link leads to.

    Raises OSError.
    """
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, flags, 0o600)


def unwritable(path: Path, cause: OSError) -> RatchetError:
    return RatchetError(
        f"cannot write {path}: {cause.strerror}", details="the plugin's state_dir must be writable and have room"
    )
