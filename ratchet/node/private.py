"""Files and directories that only root can access."""

from __future__ import annotations

import os
from pathlib import Path

from ratchet.errors import RatchetError


def create_private(path: Path, flags: int) -> int:
    """Open a file that only root can access, and return its descriptor.

    Creates the file and its directory if missing. Does not follow a symlink. Raises OSError.
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
