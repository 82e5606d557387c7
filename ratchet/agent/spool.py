"""The DELs that the shim has kept because no agent answered: one file each, the request's own frame (shim/ratchet.c).

The shim gives each file its name by a rename, so what has a name is whole. A name is an attachment and its network's
configuration: the same DEL again takes the place of the one before.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from ratchet.agent.frame import REQUEST_MAX, Request, decode_request
from ratchet.errors import RatchetError

log = logging.getLogger(__name__)

UNREADABLE = "unreadable"
ASIDE_MAX = 64  # files
PARTIAL_SECONDS = 3600.0  # a shim lives for minutes


class Spool:
    """The spool in a directory, which the shim makes when it first needs it; only `set_aside` makes anything here.

    Raises RatchetError where the directory or a file cannot be read or changed, and where others than this user may
    write in the directory: whatever lies there is done as this user.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._read: dict[Path, tuple[int, int]] = {}

    def waiting(self) -> list[Path]:
        """The files, the oldest first; none where there is no directory."""
        return [path for path, found in self._files() if not path.name.startswith(".") and stat.S_ISREG(found.st_mode)]

    def read(self, path: Path) -> Request:
        """The call that a file keeps. Raises FrameError where it is no request."""
        try:
            with path.open("rb") as file:
                self._read[path] = _identity(os.fstat(file.fileno()))
                content = file.read(REQUEST_MAX + 1)
        except OSError as cause:
            raise RatchetError(f"cannot read {path}: {cause.strerror}") from cause
        return decode_request(content)

    def done(self, path: Path) -> None:
        """Remove the file of a call that has been served, unless the same DEL has come again since it was read."""
        try:
            if self._read.pop(path, None) in (None, _identity(path.lstat())):
                path.unlink()
        except FileNotFoundError:
            pass
        except OSError as cause:
            raise RatchetError(f"cannot remove {path}: {cause.strerror}") from cause

    def set_aside(self, path: Path, why: str) -> None:
        """Move a file that cannot be served to where a person finds it: `unreadable`, which has room for ASIDE_MAX.

        The oldest there make room for it. What is moved and what is removed is in the log.
        """
        folder = self._directory / UNREADABLE
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            path.replace(folder / path.name)
            log.error("set aside %s: %s", folder / path.name, why)
            for old in _oldest_first(folder)[:-ASIDE_MAX]:
                old[0].unlink()
                log.warning("removed %s: %d newer ones are aside", old[0], ASIDE_MAX)
        except OSError as cause:
            raise RatchetError(f"cannot set aside {path}: {cause.strerror}") from cause
        finally:
            self._read.pop(path, None)

    def sweep(self) -> None:
        """Remove what a shim that was killed left half written: it counts toward what the shim lets the spool hold."""
        for path, found in self._files():
            if path.name.startswith(".") and found.st_mtime < time.time() - PARTIAL_SECONDS:
                with suppress(OSError):
                    path.unlink()

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        try:
            found = self._directory.lstat()
            if not stat.S_ISDIR(found.st_mode):
                raise RatchetError(f"cannot read {self._directory}: it is no directory")
            if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise RatchetError(f"cannot read {self._directory}: others may write there")
            return _oldest_first(self._directory)
        except FileNotFoundError:
            return []
        except OSError as cause:
            raise RatchetError(f"cannot read {self._directory}: {cause.strerror}") from cause


def _oldest_first(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for path in folder.iterdir():
        try:
            found.append((path, path.lstat()))
        except FileNotFoundError:  # a shim has renamed it meanwhile
            continue
    return sorted(found, key=lambda one: (one[1].st_mtime_ns, one[0].name))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_ino, found.st_mtime_ns
