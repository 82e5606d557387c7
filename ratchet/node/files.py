"""Files: written atomically, and accessible to root alone."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ratchet.errors import RatchetError


def write_file(
    path: Path, content: bytes, mode: int = 0o600, *, sync: bool = False, exclusive: bool = False
) -> os.stat_result:
    """Write a file atomically and return its status: a rename puts it in place.

    `sync`: the content is on the disk before the file is in place. `exclusive`: the file must not exist. The directory
    must exist. Raises OSError; FileExistsError with `exclusive`.
    """
    partial = _temporary_path(path)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(partial, flags, 0o600)
        try:
            status = _fill(descriptor, content, mode, sync=sync)
        finally:
            os.close(descriptor)
        if exclusive:
            os.link(partial, path)
            partial.unlink()
        else:
            partial.rename(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return status


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path for the block to create. It becomes `path`, or is removed if the block fails.

    For what `write_file` does not write: directories and symlinks. A directory replaces an empty one only.
    """
    partial = _temporary_path(path)
    try:
        yield partial
        partial.rename(path)
    except BaseException:
        _remove(partial)
        raise


def create_private(path: Path, flags: int) -> int:
    """Open a file that only root can access, and return its descriptor.

    Creates the file and its directory if missing. Does not follow a symlink. Raises OSError.
    """
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        make_private_directory(path.parent)
        return os.open(path, flags, 0o600)


def make_private_directory(path: Path) -> None:
    """Create a directory that only root can access, with its parents, if missing. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def unwritable(path: Path, cause: OSError) -> RatchetError:
    return RatchetError(
        f"cannot write {path}: {cause.strerror}", details="the plugin's state_dir must be writable and have room"
    )


def _temporary_path(path: Path) -> Path:
    """A unique path in the same directory. Its name does not grow with the file's name."""
    return path.with_name(f".{os.getpid()}.{random.getrandbits(32):08x}")


def _fill(descriptor: int, content: bytes, mode: int, *, sync: bool) -> os.stat_result:
    while content:
        content = content[os.write(descriptor, content) :]
    if mode != 0o600:
        os.fchmod(descriptor, mode)
    if sync:
        os.fsync(descriptor)
    return os.fstat(descriptor)


def _remove(path: Path) -> None:
    import shutil  # not at the top: the plugin, which does not need it, would start slower

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
