"""Who works on which link of this node: a lock on a file between processes, and one in memory between threads."""

from __future__ import annotations

import fcntl
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from weakref import WeakValueDictionary

from ratchet.errors import TryAgainError
from ratchet.node.private import make_private, open_private, unwritable

LOCK_SECONDS = 20.0


class KeyedLocks:
    """A lock between the threads of this process for each key, for as long as anybody has it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    def of(self, key: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())


class Locks:
    """A lock for each link, among all processes of the node; the kernel frees it with the process that holds it."""

    def __init__(self, folder: Path, seconds: float = LOCK_SECONDS) -> None:
        self._folder = folder
        self._seconds = seconds
        # A thread of this process waits for another without asking the kernel over and over.
        self._in_process = KeyedLocks()

    @contextmanager
    def held(self, link: str) -> Iterator[None]:
        """Hold a link's lock for the block. Raises TryAgainError where another holds it for too long."""
        path = self._folder / sha256(link.encode()).hexdigest()[:32]
        in_process = self._in_process.of(link)
        if not in_process.acquire(timeout=self._seconds):
            raise _held_by_another(link)
        try:
            descriptor = self._locked(path, link)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                os.close(descriptor)
        finally:
            in_process.release()

    def sweep(self) -> None:
        """Remove the files of locks that nobody holds any more: somebody was killed who held them."""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            with suppress(OSError):  # held, or freed just now
                descriptor = open_private(str(path), os.O_RDWR)
                try:
                    if _has_locked(descriptor, path):
                        path.unlink()
                finally:
                    os.close(descriptor)

    def _locked(self, path: Path, link: str) -> int:
        """A descriptor that holds the lock at `path`, of the file that is there and not of one that was."""
        until = time.monotonic() + self._seconds
        while True:
            make_private(path.parent)
            try:
                descriptor = open_private(str(path), os.O_CREAT | os.O_RDWR)
            except OSError as cause:
                raise unwritable(path, cause) from cause
            try:
                if _has_locked(descriptor, path):
                    return descriptor
                os.close(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                if time.monotonic() >= until:
                    raise _held_by_another(link) from None
                time.sleep(random.uniform(0.002, 0.02))  # noqa: S311


def _has_locked(descriptor: int, path: Path) -> bool:
    """Lock an open file, unless it is no longer the one at `path`. Raises BlockingIOError where another has it."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with suppress(FileNotFoundError):
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    return False


def _held_by_another(link: str) -> TryAgainError:
    return TryAgainError(f"cannot work on the link {link}: another call holds it")
