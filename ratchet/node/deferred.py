"""Changes of the journal's entries that the disk rejects: they are kept in memory until the disk accepts them."""

from __future__ import annotations

import logging

from ratchet.errors import RatchetError
from ratchet.node.documents import Version
from ratchet.node.entries import Attachment, SandboxEntry
from ratchet.node.entry_files import EntryFiles
from ratchet.node.locks import KeyedLocks

log = logging.getLogger(__name__)

# An entry to write, or the version of the file to remove. Another process may have written a newer version since.
_Change = SandboxEntry | Version


class DeferredEntries:
    """The entries in files, with the changes that were deferred. Thread-safe.

    A deferred change counts as made within this process. `flush` writes it.
    """

    def __init__(self, files: EntryFiles) -> None:
        self._files = files
        self._deferred: dict[str, _Change] = {}
        self._locks = KeyedLocks()  # a lock for each file between the threads that change it

    def __len__(self) -> int:
        """The number of deferred changes."""
        return len(self._deferred)

    def read(self, attachment: Attachment) -> SandboxEntry | None:
        """The entry of an attachment; None if there is none or it cannot be read."""
        change = self._deferred.get(attachment.file_name)
        if isinstance(change, SandboxEntry):
            return change
        return None if self._is_removed(attachment.file_name, change) else self._files.read(attachment)

    def read_all(self, start: str = "") -> list[SandboxEntry]:
        """The entries in files whose names begin with `start`. Raises RatchetError."""
        read = self._files.read_all(start)
        if not self._deferred:
            return read
        found = {entry.attachment.file_name: entry for entry in read}
        for name, change in list(self._deferred.items()):
            if isinstance(change, SandboxEntry):
                if name.startswith(start):
                    found[name] = change
            elif self._is_removed(name, change):
                found.pop(name, None)
        return [found[name] for name in sorted(found)]

    def exists(self, attachment: Attachment) -> bool:
        change = self._deferred.get(attachment.file_name)
        if isinstance(change, SandboxEntry):
            return True
        return self._files.exists(attachment) and not self._is_removed(attachment.file_name, change)

    def write(self, entry: SandboxEntry, *, exclusive: bool = False, may_defer: bool = False) -> None:
        """Write an entry. With `may_defer` it is kept in memory if the disk rejects it.

        Raises RatchetError unless `may_defer`. Raises FileExistsError with `exclusive` if the attachment has an entry.
        """
        name = entry.attachment.file_name
        with self._locks.of(name):
            change = self._deferred.get(name)
            if exclusive and isinstance(change, SandboxEntry):
                raise FileExistsError(name)
            try:
                if self._is_removed(name, change):
                    self._files.remove(name)
                self._files.write(entry, exclusive=exclusive)
            except RatchetError as error:
                if not may_defer:
                    raise
                self._defer(name, entry, error)
            else:
                self._deferred.pop(name, None)

    def remove(self, attachment: Attachment) -> None:
        """Remove an attachment's file, if it has one. The removal is deferred if the disk rejects it."""
        name = attachment.file_name
        with self._locks.of(name):
            self._deferred.pop(name, None)
            try:
                self._files.remove(name)
            except RatchetError as error:
                if (version := self._files.version(name)) is not None:
                    self._defer(name, version, error)

    def flush(self) -> None:
        """Write the deferred changes. Raises RatchetError at the first one that the disk still rejects."""
        for name in list(self._deferred):
            with self._locks.of(name):
                change = self._deferred.get(name)
                if isinstance(change, SandboxEntry):
                    self._files.write(change)
                elif self._is_removed(name, change):
                    self._files.remove(name)
                self._deferred.pop(name, None)

    def _is_removed(self, name: str, change: _Change | None) -> bool:
        """Whether a deferred removal applies to the file as it is now."""
        return change is not None and self._files.version(name) == change

    def _defer(self, name: str, change: _Change, cause: RatchetError) -> None:
        self._deferred[name] = change
        log.error('journal change not written, kept in the memory of this process file=%s cause="%s"', name, cause)
