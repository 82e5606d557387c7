"""Locks between installers of one node: a flock(2) on a folder. It creates no file, and ends with its process.

An installer holds two of them:

- on the folder of the executables while it installs or uninstalls, so that these never interleave;
- with `--keep`, on the folder of the network configurations for its whole life, so that two pods do not overwrite each
  other's files. The second pod waits until the first one ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.install.files import make_folder

# A bundle of Python takes some seconds to write, on a slow disk half a minute.
INSTALL_SECONDS = 60.0
POLL_SECONDS = 0.05


@dataclass(slots=True)
class FolderLock:
    """An exclusive lock on a folder, which is created if missing. Not safe between threads."""

    folder: Path
    _descriptor: int | None = field(default=None, init=False)

    def try_acquire(self) -> bool:
        """Whether this lock is held now. Does not wait. Raises RatchetError.

        A folder that was replaced since is locked again.
        """
        if self._descriptor is not None and not self._is_same_folder(self._descriptor):
            self.release()
        if self._descriptor is None:
            make_folder(self.folder)
            self._descriptor = self._lock()
        return self._descriptor is not None

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _is_same_folder(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.folder.stat())
        except FileNotFoundError:
            return False
        except OSError as cause:
            raise RatchetError(f"cannot read {self.folder}: {cause.strerror}") from cause

    def _lock(self) -> int | None:
        """The descriptor that holds the lock; None if another one holds it."""
        try:
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException:
                os.close(descriptor)
                raise
        except BlockingIOError:
            return None
        except OSError as cause:
            raise RatchetError(f"cannot lock {self.folder}: {cause.strerror}") from cause
        return descriptor


@contextmanager
def locked(folder: Path, seconds: float = INSTALL_SECONDS) -> Iterator[None]:
    """Hold the lock of a folder for the block. Raises RatchetError if another process holds it for `seconds`."""
    lock = FolderLock(folder)
    until = time.monotonic() + seconds
    while not lock.try_acquire():
        if time.monotonic() >= until:
            raise RatchetError(
                f"cannot change {folder}: another installer has been at work for {seconds:.0f} s",
                details="wait until it has ended, or end it; `fuser -v` with the folder names it",
            )
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()
