"""Tombstones: the DELs of this boot, by container and interface. They tell a running ADD of its DEL.

Each tombstone is a file. An agent is not the only writer, because the plugin beside it serves a DEL that the agent does
not accept. So each query calls stat(2) on the file, which costs no open. Each version of a file is opened once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from bisect import bisect_left
from contextlib import suppress
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from ratchet.errors import RatchetError
from ratchet.node.boot import boot_id, since_boot
from ratchet.node.documents import Version, read_document, version_of, write_document
from ratchet.node.entries import Attachment
from ratchet.node.locks import KeyedLocks

log = logging.getLogger(__name__)

TOMBSTONE_SECONDS = 3600.0
# Nanoseconds. Files created within one tick of the kernel's clock may leave the directory with the same mtime, so an
# mtime younger than this does not prove that a listing is complete. Longer than a tick.
_TICK = 100_000_000


class Tombstones:
    """The tombstones in a directory. With `remembers`, a DEL that cannot be written is kept in memory."""

    def __init__(self, folder: Path, *, remembers: bool) -> None:
        self._folder = folder
        self._start = f"{folder}/"
        self._remembers = remembers
        self._lock = threading.Lock()
        self._writing = KeyedLocks()  # a lock for each tombstone between the threads that write it
        # The DEL times that the disk has rejected, with the name of the network.
        self._deferred: dict[str, tuple[float, str]] = {}
        # The DEL times read so far, in seconds since boot; minus infinity for a tombstone of another boot.
        self._read: dict[str, tuple[Version, float]] = {}
        # The directory's mtime and its sorted file names.
        self._listed: tuple[int, list[str]] = (-1, [])

    def bury(self, attachment: Attachment, at: float, *, undone: bool = True) -> bool:
        """Write a tombstone for a DEL; `at` is in seconds since boot.

        Returns True if an earlier DEL of the attachment wrote one, with `undone`. The network's name is not part of the
        key, so that an ADD under an earlier network name sees the DEL too. Raises RatchetError, unless the tombstone is
        kept in memory.
        """
        key, network = attachment.interface_key, attachment.network
        tombstone = min(at, since_boot()), network if undone else ""
        with self._writing.of(key):
            earlier = self._network_of(key)
            if self._remembers:  # threads of this process see the DEL even if the disk is full
                with self._lock:
                    self._deferred[key] = tombstone
            try:
                self._write(key, tombstone)
            except RatchetError as error:
                if not self._remembers:
                    raise
                log.error('tombstone not written, kept in the memory of this process file=%s cause="%s"', key, error)
        return earlier == network

    @property
    def deferred(self) -> int:
        """The number of tombstones that are kept in memory, because the disk has rejected them."""
        return len(self._deferred)

    def flush(self) -> None:
        """Write the deferred tombstones. Raises RatchetError at the first one that the disk still rejects."""
        for key in list(self._deferred):
            with self._writing.of(key):
                if (tombstone := self._deferred.get(key)) is not None:
                    self._write(key, tombstone)

    def _write(self, key: str, tombstone: tuple[float, str]) -> None:
        at, network = tombstone
        write_document(self._folder / key, {"boot": boot_id(), "at": at, "network": network})
        with self._lock:
            self._deferred.pop(key, None)

    def _network_of(self, key: str) -> str | None:
        """The network of the latest DEL of a container and interface; None if there was none."""
        if (deferred := self._deferred.get(key)) is not None:
            return deferred[1]
        tombstone = read_document(self._folder / key)
        return tombstone.get("network") if tombstone is not None else None

    def is_buried(self, attachment: Attachment, began: float) -> bool:
        """Whether a DEL came after `began` (seconds since boot)."""
        return self._time_of(attachment.interface_key) >= began

    def is_deleted(self, container_id: str) -> bool:
        """Whether the runtime has called DEL for any attachment of a container in this boot."""
        start = f"{container_id}+"
        with self._lock:
            deferred = any(key.startswith(start) for key in self._deferred)
        return deferred or any(self._time_of(name) > float("-inf") for name in self._names(start))

    def purge(self) -> None:
        """Remove tombstones that are older than TOMBSTONE_SECONDS."""
        now, oldest, there = since_boot(), time.time() - TOMBSTONE_SECONDS, set[str]()
        with suppress(OSError), os.scandir(self._folder) as files:
            for file in files:
                there.add(file.name)
                with suppress(OSError):  # removed meanwhile, or the disk rejects writes: the next purge retries
                    # The mtime is cheap to read, but its clock can step. The time in the file cannot.
                    if file.stat().st_mtime < oldest and _is_of_long_ago(read_document(file.path), now):
                        (self._folder / file.name).unlink()
                        there.discard(file.name)
        with self._lock:
            self._read = {key: read for key, read in self._read.items() if key in there}
            self._deferred = {key: one for key, one in self._deferred.items() if one[0] >= now - TOMBSTONE_SECONDS}

    def _time_of(self, key: str) -> float:
        """The time of the latest DEL in seconds since boot; minus infinity if there was none in this boot."""
        deferred, _ = self._deferred.get(key, (float("-inf"), ""))
        path = self._start + key
        try:
            version = version_of(os.stat(path))  # noqa: PTH116  # a Path costs more than the stat
        except OSError:
            return deferred
        known = self._read.get(key)
        if known is None or known[0] != version:
            known = version, _time_in(read_document(path))
            with self._lock:
                self._read[key] = known
        return max(deferred, known[1])

    def _names(self, start: str) -> list[str]:
        """The file names that begin with `start`. The directory is listed only if it has changed."""
        listed, names = self._listed
        try:
            changed = self._folder.stat().st_mtime_ns
            if listed != changed:
                names = sorted(os.listdir(self._folder))  # noqa: PTH208
                stable = time.time_ns() - changed > _TICK
                self._listed = (changed if stable else -1, names)
        except OSError:
            return []
        from_start = islice(names, bisect_left(names, start), None)
        return list(takewhile(lambda name: name.startswith(start), from_start))


def _time_in(tombstone: dict[str, Any] | None) -> float:
    at = tombstone.get("at") if tombstone and tombstone.get("boot") == boot_id() else None
    return at if isinstance(at, int | float) else float("-inf")


def _is_of_long_ago(tombstone: dict[str, Any] | None, now: float) -> bool:
    return _time_in(tombstone) < now - TOMBSTONE_SECONDS
