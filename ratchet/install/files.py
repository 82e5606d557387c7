"""Installed files and symlinks: each is in place whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.node.files import replacing, write_file


def install_file(path: Path, content: bytes, mode: int) -> Path:
    """Write a file and return its path. Creates its folder if missing. Raises RatchetError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content, mode, sync=True)
    except OSError as cause:
        raise RatchetError(f"cannot write {path}: {cause.strerror}") from cause
    return path


def install_symlink(path: Path, target: Path) -> Path:
    """Make `path` a symlink to a file in its folder or below, and return `path`. Raises RatchetError."""
    try:
        with replacing(path) as partial:
            partial.symlink_to(target.relative_to(path.parent))
    except OSError as cause:
        raise RatchetError(f"cannot write {path}: {cause.strerror}") from cause
    return path


def remove(path: Path) -> None:
    """Remove a file if it exists. Raises RatchetError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as cause:
        raise RatchetError(f"cannot remove {path}: {cause.strerror}") from cause
