"""Locks for the links of this node: a file lock between processes, an in-memory lock between threads."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from weakref import WeakValueDictionary

from ratchet.errors import TryAgainError
from ratchet.node.files import create_private, unwritable

LOCK_SECONDS = 20.0
_FLOCK = struct.Struct("@hhqqi0q")  # struct flock: l_type, l_whence, l_start, l_len, l_pid


class KeyedLocks:
    """A lock for each key between the threads of this process. A lock exists while a thread refers to it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    def of(self, key: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())


class Locks:
    """A lock for each link between all processes of the node. The kernel frees it when its process ends.

    Each lock is one byte of a common file, at an offset derived from the link's name. So no file is created or removed
    for a lock.

    On a read-only disk the kernel grants only shared locks. They exclude the writers from before, and the threads of
    this process exclude each other in memory. A second process shares the lock: DEL needs it, and ADD fails there.
    """

    def __init__(self, path: Path, seconds: float = LOCK_SECONDS) -> None:
        self._path = path
        self._seconds = seconds
        # Threads of this process wait for each other in memory, so that they do not poll the kernel.
        self._in_process = KeyedLocks()

    @contextmanager
    def held(self, link: str) -> Iterator[None]:
        """Hold a link's lock for the block. Raises TryAgainError if another call holds it for `seconds`."""
        in_process = self._in_process.of(link)
        if not in_process.acquire(timeout=self._seconds):
            raise _held_by_another(link)
        try:
            with self._opened() as (descriptor, kind):
                self._lock(descriptor, kind, link)
                yield
        finally:
            in_process.release()

    @contextmanager
    def _opened(self) -> Iterator[tuple[int, int]]:
        """Open the file for this lock alone, and yield it with the kind of lock. Its close releases the lock."""
        descriptor, kind = self._open()
        try:
            yield descriptor, kind
        finally:
            os.close(descriptor)

    def _open(self) -> tuple[int, int]:
        try:
            return create_private(self._path, os.O_RDWR), fcntl.F_WRLCK
        except OSError as cause:
            if cause.errno == errno.EROFS:
                with suppress(OSError):  # the file does not exist
                    return os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), fcntl.F_RDLCK
            raise unwritable(self._path, cause) from cause

    def _lock(self, descriptor: int, kind: int, link: str) -> None:
        until = time.monotonic() + self._seconds
        while not _has_locked(descriptor, kind, link):
            if time.monotonic() >= until:
                raise _held_by_another(link)
            time.sleep(random.uniform(0.002, 0.02))  # noqa: S311


def _has_locked(descriptor: int, kind: int, link: str) -> bool:
    """Try to lock a link's byte; False if it is locked (fcntl(2), "Open file description locks")."""
    offset = int.from_bytes(sha256(link.encode()).digest()[:8], "big") >> 2
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _held_by_another(link: str) -> TryAgainError:
    return TryAgainError(f"cannot work on the link {link}: another call holds it")
