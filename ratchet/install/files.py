"""Files that are there whole or not at all, whoever looks and whenever this ends."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ratchet.errors import RatchetError


def put(path: Path, content: bytes, mode: int) -> Path:
    """Write a file, and its folder if need be; its path. Raises RatchetError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            Path(partial).rename(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as cause:
        raise RatchetError(f"cannot write {path}: {cause.strerror}") from cause
    return path


def point(path: Path, target: Path) -> Path:
    """Make `path` a link to a file beside it or below; its path. Raises RatchetError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.unlink(missing_ok=True)
        try:
            partial.symlink_to(target.relative_to(path.parent))
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as cause:
        raise RatchetError(f"cannot write {path}: {cause.strerror}") from cause
    return path


def remove(path: Path) -> None:
    """Remove a file, if it is there. Raises RatchetError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as cause:
        raise RatchetError(f"cannot remove {path}: {cause.strerror}") from cause
