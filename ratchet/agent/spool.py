"""The spool: DELs that the shim (shim/ratchet.c) wrote to files because no agent answered.

There are two directories: one on disk, and one in memory, beside the agent's socket, for a disk that is full or
read-only. A file has a request frame. The shim renames a file into place, so a file with a final name is complete. The
name is derived from the attachment and the network configuration, so a repeated DEL replaces the earlier file.
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

VOLATILE = "spool"  # the directory's name beside the socket, as in the shim
UNREADABLE = "unreadable"
ASIDE_MAX = 64  # files
PARTIAL_SECONDS = 3600.0  # a shim lives for minutes


def spool_directories(spool_dir: str, socket: str) -> list[str]:
    """The directories of a node's spool: the one on disk, then the one in memory."""
    return list(dict.fromkeys((spool_dir, str(Path(socket).with_name(VOLATILE)))))


class Spool:
    """The spool in a directory, which the shim creates when it first needs it.

    Methods raise RatchetError if the directory or a file cannot be read or changed. They also raise it if another user
    may write to the directory, because the calls in it are served as this user.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._read: dict[Path, tuple[int, int]] = {}

    def waiting(self) -> list[Path]:
        """The files, the oldest first; none if there is no directory."""
        return [path for path, found in self._files() if not path.name.startswith(".") and stat.S_ISREG(found.st_mode)]

    def read(self, path: Path) -> Request:
        """Read the call in a file. Raises FrameError if the file has no request."""
        try:
            with path.open("rb") as file:
                self._read[path] = _identity(os.fstat(file.fileno()))
                content = file.read(REQUEST_MAX + 1)
        except OSError as cause:
            raise RatchetError(f"cannot read {path}: {cause.strerror}") from cause
        return decode_request(content)

    def done(self, path: Path) -> None:
        """Remove the file of a served call, unless the shim has replaced it since it was read."""
        try:
            if self._read.pop(path, None) in (None, _identity(path.lstat())):
                path.unlink()
        except FileNotFoundError:
            pass
        except OSError as cause:
            raise RatchetError(f"cannot remove {path}: {cause.strerror}") from cause

    def set_aside(self, path: Path, why: str) -> None:
        """Move a file that cannot be served to `unreadable`, which keeps the newest ASIDE_MAX files.

        Moved and removed files are logged.
        """
        folder = self._directory / UNREADABLE
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            path.replace(folder / path.name)
            log.error('spool file set aside file=%s cause="%s"', folder / path.name, why)
            for old in _oldest_first(folder)[:-ASIDE_MAX]:
                old[0].unlink()
                log.warning("spool file removed file=%s newer_files=%d", old[0], ASIDE_MAX)
        except OSError as cause:
            raise RatchetError(f"cannot set aside {path}: {cause.strerror}") from cause
        finally:
            self._read.pop(path, None)

    def sweep(self) -> None:
        """Remove incomplete files of killed shims, which count toward the shim's limit of the spool."""
        for path, found in self._files():
            if path.name.startswith(".") and found.st_mtime < time.time() - PARTIAL_SECONDS:
                with suppress(OSError):
                    path.unlink()

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        try:
            found = self._directory.lstat()
            if not stat.S_ISDIR(found.st_mode):
                raise RatchetError(f"cannot read {self._directory}: it is not a directory")
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
