"""The directory of the journal's entries: one file for each attachment."""

from __future__ import annotations

import logging
import os
from collections import deque
from contextlib import suppress
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.node.documents import Version, read_document, version_of, write_document
from ratchet.node.entries import Attachment, SandboxEntry, decode_entry, encode_entry
from ratchet.node.files import make_private_directory, unwritable

log = logging.getLogger(__name__)

UNREADABLE_MAX = 64  # files that are kept aside


class EntryFiles:
    """Reader and writer of entries.

    Each version of a file is decoded once at most, and not at all if this process wrote it. A file that cannot be
    decoded is torn, or of a newer Ratchet. It is left in place until `set_aside`, which moves it to `aside`.
    """

    def __init__(self, folder: Path, aside: Path) -> None:
        self._folder = folder
        self._aside = aside
        self._known: dict[str, tuple[Version, SandboxEntry]] = {}
        self._unreadable: dict[str, Version] = {}
        self._unsynced: deque[str] = deque()  # the files that were changed or removed since the last `sync`

    def read(self, attachment: Attachment) -> SandboxEntry | None:
        """The entry of an attachment; None if there is none or it cannot be read."""
        name = attachment.file_name
        try:
            status = (self._folder / name).stat()
        except OSError:
            return None
        return self._decoded(name, status)

    def read_all(self, start: str = "") -> list[SandboxEntry]:
        """The entries in files whose names begin with `start`. Raises RatchetError."""
        found = []
        try:
            with os.scandir(self._folder) as files:
                for file in files:
                    if not file.name.startswith(start) or file.name.startswith("."):
                        continue
                    try:
                        status = file.stat()
                    except OSError:
                        continue  # removed meanwhile
                    found.append((file.name, self._decoded(file.name, status)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as cause:
            raise RatchetError(f"cannot read {self._folder}: {cause.strerror}") from cause
        return [entry for _, entry in sorted(found, key=lambda one: one[0]) if entry is not None]

    def unreadable(self, start: str = "") -> list[str]:
        """The names of the files that were found unreadable and still are; only those that begin with `start`."""
        found = [name for name in list(self._unreadable) if name.startswith(start)]
        for name in found:
            if self.version(name) != self._unreadable.get(name):
                self._unreadable.pop(name, None)
        return sorted(name for name in found if name in self._unreadable)

    def exists(self, attachment: Attachment) -> bool:
        return (self._folder / attachment.file_name).exists()

    def has(self, name: str) -> bool:
        """Whether there is a file of this name. Raises OSError if that is unknown, also without the folder."""
        try:
            (self._folder / name).stat()
        except FileNotFoundError:
            self._folder.stat()
            return False
        return True

    def version(self, name: str) -> Version | None:
        """The version of a file; None if there is none."""
        try:
            return version_of((self._folder / name).stat())
        except OSError:
            return None

    def write(self, entry: SandboxEntry, *, exclusive: bool = False) -> None:
        """Write an entry.

        Raises RatchetError and, with `exclusive`, FileExistsError if the attachment has a file.
        """
        name = entry.attachment.file_name
        version = write_document(self._folder / name, encode_entry(entry), exclusive=exclusive)
        self._known[name] = (version, entry)
        self._unsynced.append(name)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists. Raises RatchetError."""
        path = self._folder / name
        self._known.pop(name, None)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            pass  # the directory does not exist, so there is no entry
        except OSError as cause:
            raise unwritable(path, cause) from cause
        else:
            self._unsynced.append(name)

    def sync(self) -> None:
        """Have the changes of this process survive a power loss (fsync(2)). Raises RatchetError.

        Until then a power loss can lose a change, or leave an empty file. This is not part of a write, because it takes
        several times as long as the rest of an ADD.
        """
        names = set[str]()
        while self._unsynced:
            names.add(self._unsynced.popleft())
        for path in [self._folder / name for name in sorted(names)] + [self._folder] * bool(names):
            try:
                _sync(path)
            except FileNotFoundError:
                continue  # removed meanwhile
            except OSError as cause:
                raise unwritable(path, cause) from cause

    def set_aside(self, name: str) -> None:
        """Move an unreadable file aside, where the newest UNREADABLE_MAX files are kept. Raises RatchetError."""
        path, kept = self._folder / name, self._aside / name
        try:
            make_private_directory(self._aside)
            path.replace(kept)
            for old in sorted(self._aside.iterdir(), key=lambda one: one.stat().st_mtime_ns)[:-UNREADABLE_MAX]:
                old.unlink()
                log.warning("unreadable journal file removed file=%s newer_files=%d", old, UNREADABLE_MAX)
        except FileNotFoundError:
            pass  # removed meanwhile
        except OSError as cause:
            raise unwritable(kept, cause) from cause
        else:
            log.warning("unreadable journal file set aside file=%s", kept)
        self._unreadable.pop(name, None)

    def remove_partial(self, oldest: float) -> None:
        """Remove partly written files of killed processes last changed before `oldest` (Unix time, seconds)."""
        with suppress(OSError), os.scandir(self._folder) as files:
            for file in files:
                with suppress(OSError):  # removed meanwhile, or the disk rejects writes: the next purge retries
                    if file.name.startswith(".") and file.stat().st_mtime < oldest:
                        (self._folder / file.name).unlink()

    def _decoded(self, name: str, status: os.stat_result) -> SandboxEntry | None:
        version = version_of(status)
        known = self._known.get(name)
        if known is not None and known[0] == version:
            return known[1]
        entry = decode_entry(read_document(self._folder / name))
        if entry is not None:
            self._known[name] = (version, entry)
        elif self._unreadable.get(name) != version and self.version(name) == version:
            self._unreadable[name] = version
            log.error(
                "journal file unreadable: it is torn or of a newer Ratchet; left in place file=%s", self._folder / name
            )
        return entry


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
