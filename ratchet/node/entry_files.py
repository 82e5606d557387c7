"""The directory of the journal's entries: one file for each attachment."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.node.documents import Version, read_document, version_of, write_document
from ratchet.node.entries import Attachment, SandboxEntry, decode_entry, encode_entry
from ratchet.node.files import unwritable


class EntryFiles:
    """Reader and writer of entries.

    Each version of a file is decoded once at most, and not at all if this process wrote it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[Version, SandboxEntry]] = {}

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

    def exists(self, attachment: Attachment) -> bool:
        return (self._folder / attachment.file_name).exists()

    def write(self, entry: SandboxEntry, *, exclusive: bool = False) -> None:
        """Write an entry.

        Raises RatchetError and, with `exclusive`, FileExistsError if the attachment has a file.
        """
        name = entry.attachment.file_name
        version = write_document(self._folder / name, encode_entry(entry), exclusive=exclusive)
        self._known[name] = (version, entry)

    def remove(self, attachment: Attachment) -> None:
        """Remove an attachment's file, if it has one. Raises RatchetError."""
        path = self._folder / attachment.file_name
        self._known.pop(path.name, None)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            pass  # the directory does not exist, so there is no entry
        except OSError as cause:
            raise unwritable(path, cause) from cause

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
        return entry
