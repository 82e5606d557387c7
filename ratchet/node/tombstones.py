"""Tombstones: the DELs of this boot, by container and interface, so that an ADD that still runs learns of its DEL.

Each is a file. An agent is not the only writer: the plugin beside it serves a DEL that the agent does not take. So each
question looks at the file's status, which costs no open; a file is opened once for each version of it.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from contextlib import suppress
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from ratchet.node.boot import boot_id, since_boot
from ratchet.node.documents import Version, read_document, version_of, write_document
from ratchet.node.entries import Attachment

TOMBSTONE_SECONDS = 3600.0
# A file that is made within one tick of the kernel's clock does not change the folder's time again: ns, and generous.
_TICK = 100_000_000


class Tombstones:
    """The tombstones in a folder. With `remembers`, a DEL whose file cannot be written is kept in memory."""

    def __init__(self, folder: Path, *, remembers: bool) -> None:
        self._folder = folder
        self._start = f"{folder}/"
        self._remembers = remembers
        self._lock = threading.Lock()
        self._unwritten: dict[str, float] = {}
        # The times of those that were asked for, in seconds of this boot; of another boot, minus infinity.
        self._read: dict[str, tuple[Version, float]] = {}
        # The folder's time of change, and the names of its files in order.
        self._listed: tuple[int, list[str]] = (-1, [])

    def bury(self, attachment: Attachment, at: float) -> bool:
        """Note a DEL, of seconds since boot. True if an earlier DEL of the attachment was noted. Raises RatchetError.

        The network's name is no part of the key: an ADD that runs under an earlier name has to see the DEL too.
        """
        key, at = attachment.interface_key, min(at, since_boot())
        earlier = read_document(self._folder / key)
        if self._remembers:  # the threads of this process learn of it even if the disk takes nothing more
            with self._lock:
                self._unwritten[key] = at
        write_document(self._folder / key, {"boot": boot_id(), "at": at, "network": attachment.network})
        with self._lock:
            if self._unwritten.get(key) == at:
                del self._unwritten[key]
        return earlier is not None and earlier.get("network") == attachment.network

    def is_buried(self, attachment: Attachment, began: float) -> bool:
        """Whether a DEL came after `began` (seconds since boot)."""
        return self._time_of(attachment.interface_key) >= began

    def is_deleted(self, container_id: str) -> bool:
        """Whether a DEL came, since this boot, for any attachment of a container."""
        start = f"{container_id}+"
        with self._lock:
            unwritten = any(key.startswith(start) for key in self._unwritten)
        return unwritten or any(self._time_of(name) > float("-inf") for name in self._names(start))

    def purge(self) -> None:
        """Remove tombstones that are older than TOMBSTONE_SECONDS."""
        now, oldest, there = since_boot(), time.time() - TOMBSTONE_SECONDS, set[str]()
        with suppress(OSError), os.scandir(self._folder) as files:
            for file in files:
                there.add(file.name)
                with suppress(OSError):  # gone already, or on a disk that takes nothing: it is tried again
                    # The file's time is cheap to ask for, but by a clock that steps; what it holds is not.
                    if file.stat().st_mtime < oldest and _is_of_long_ago(read_document(file.path), now):
                        (self._folder / file.name).unlink()
                        there.discard(file.name)
        with self._lock:
            self._read = {key: read for key, read in self._read.items() if key in there}
            self._unwritten = {key: at for key, at in self._unwritten.items() if at >= now - TOMBSTONE_SECONDS}

    def _time_of(self, key: str) -> float:
        """When the latest DEL came, in seconds of this boot; minus infinity if none did."""
        unwritten = self._unwritten.get(key, float("-inf"))
        path = self._start + key
        try:
            version = version_of(os.stat(path))  # noqa: PTH116  # a Path costs more than the question
        except OSError:
            return unwritten
        known = self._read.get(key)
        if known is None or known[0] != version:
            known = version, _time_in(read_document(path))
            with self._lock:
                self._read[key] = known
        return max(unwritten, known[1])

    def _names(self, start: str) -> list[str]:
        """The names of the files that begin with `start`. The folder is listed only if it has changed."""
        listed, names = self._listed
        try:
            changed = self._folder.stat().st_mtime_ns
            if listed != changed:
                names = sorted(os.listdir(self._folder))  # noqa: PTH208
                settled = time.time_ns() - changed > _TICK
                self._listed = (changed if settled else -1, names)
        except OSError:
            return []
        from_start = islice(names, bisect_left(names, start), None)
        return list(takewhile(lambda name: name.startswith(start), from_start))


def _time_in(tombstone: dict[str, Any] | None) -> float:
    at = tombstone.get("at") if tombstone and tombstone.get("boot") == boot_id() else None
    return at if isinstance(at, int | float) else float("-inf")


def _is_of_long_ago(tombstone: dict[str, Any] | None, now: float) -> bool:
    return _time_in(tombstone) < now - TOMBSTONE_SECONDS
