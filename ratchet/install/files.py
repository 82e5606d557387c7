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
        raise RatchetError(f"cannot remove {path}: {cause.strerror}") from cause
