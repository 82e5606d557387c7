"""JSON documents in files that only root can read. A write is atomic: a rename puts the file in place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ratchet.node.files import make_private_directory, unwritable, write_file

Version = tuple[int, int, int]  # of a file: inode, time of the last change in ns, size in bytes


def version_of(status: os.stat_result) -> Version:
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_document(path: Path | str) -> dict[str, Any] | None:
    """The document in a file; None if there is none or it cannot be read."""
    try:
        # Not open(): it costs much more if there is no file, which is the usual case.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            document = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def write_document(path: Path, document: dict[str, Any], *, exclusive: bool = False) -> Version:
    """Write a document atomically and return the version of its file.

    Creates the directory if missing. Raises RatchetError and, with `exclusive`, FileExistsError if the file exists.
    """
    content = json.dumps(document).encode()
    try:
        try:
            status = write_file(path, content, exclusive=exclusive)
        except FileNotFoundError:
            make_private_directory(path.parent)
            status = write_file(path, content, exclusive=exclusive)
    except OSError as cause:
        if exclusive and isinstance(cause, FileExistsError):
            raise
        raise unwritable(path, cause) from cause
    return version_of(status)
