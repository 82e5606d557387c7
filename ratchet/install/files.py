"""Installed files and symlinks: each is in place whole or not at all."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.node.files import replacing, write_file

# The names that ratchet.node.files gives to files until they are in place.
_PARTIAL = re.compile(r"\.\d+\.[0-9a-f]{8}")
_NOT_PERMITTED = "run this as root, and check SELinux, AppArmor and the attributes of the folder (lsattr)"
_REMEDIES = {
    errno.EROFS: "make the folder writable, or use another folder, for Ratchet and for the container runtime",
    errno.ENOSPC: "free space and inodes on the file system of the folder; what was installed before is unchanged",
    errno.EDQUOT: "raise the quota of the folder, or free space; what was installed before is unchanged",
    errno.EACCES: _NOT_PERMITTED,
    errno.EPERM: _NOT_PERMITTED,
    errno.EISDIR: "remove the folder that has the name of the file",
    errno.ENOTDIR: "remove the file that has the name of a folder on this path",
    errno.EEXIST: "remove the file that has the name of a folder on this path",
}


def unwritable(path: Path, cause: OSError) -> RatchetError:
    """The error of a path that cannot be written, with what to do about it."""
    return RatchetError(f"cannot write {path}: {cause.strerror or cause}", details=_remedy(cause))


def install_file(path: Path, content: bytes, mode: int) -> Path:
    """Write a file and return its path. Creates its folder if missing. Raises RatchetError."""
    make_folder(path.parent)
    try:
        write_file(path, content, mode, sync=True)
    except OSError as cause:
        raise unwritable(path, cause) from cause
    return path


def make_folder(path: Path) -> None:
    """Create a folder and its parents if missing. Raises RatchetError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise unwritable(path, cause) from cause


def install_symlink(path: Path, target: Path) -> Path:
    """Make `path` a symlink to a file in its folder or below, and return `path`. Raises RatchetError."""
    try:
        with replacing(path) as partial:
            partial.symlink_to(target.relative_to(path.parent))
    except OSError as cause:
        raise unwritable(path, cause) from cause
    return path


def exists(path: Path) -> bool:
    """Whether a path leads to a file or folder. Raises RatchetError if that is unknown."""
    try:
        return path.exists()
    except OSError as cause:
        raise RatchetError(f"cannot read {path}: {cause.strerror}") from cause


def read_file(path: Path) -> bytes | None:
    """The content of a file; None if it does not exist. Raises RatchetError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise RatchetError(f"cannot read {path}: {cause.strerror}") from cause


def list_folder(path: Path) -> list[Path]:
    """The paths in a folder, sorted by name; empty if the folder does not exist. Raises RatchetError."""
    try:
        return sorted(path.iterdir())
    except FileNotFoundError:
        return []
    except OSError as cause:
        raise RatchetError(f"cannot read {path}: {cause.strerror}") from cause


def remove(path: Path) -> None:
    """Remove a file if it exists. Raises RatchetError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as cause:
        raise RatchetError(f"cannot remove {path}: {cause.strerror}", details=_remedy(cause)) from cause


def remove_folder(path: Path) -> None:
    """Remove a folder with its content. Raises RatchetError."""
    try:
        shutil.rmtree(path)
    except OSError as cause:
        raise RatchetError(f"cannot remove {path}: {cause.strerror}", details=_remedy(cause)) from cause


def remove_partial(folder: Path) -> None:
    """Remove what killed installers left half written in a folder. No other installer may be at work there."""
    for path in list_folder(folder):
        if not _PARTIAL.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            remove_folder(path)
        else:
            remove(path)


def _remedy(cause: OSError) -> str:
    return _REMEDIES.get(cause.errno or 0, "")
