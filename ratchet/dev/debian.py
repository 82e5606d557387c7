"""Debian root file systems by debootstrap(8), for images that are built without a registry."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ratchet.dev.building import Report, run
from ratchet.errors import RatchetError

_UNWANTED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "var/log",
    "dev",
)


def bootstrap(root: Path, suite: str, packages: Sequence[str], report: Report) -> None:
    """Install a minimal Debian and some packages into an empty folder. Raises RatchetError."""
    if shutil.which("debootstrap") is None:
        raise RatchetError("cannot build an image: debootstrap is missing (a Debian package of that name has it)")
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, str(root)]
    run("debootstrap", command, report)


def strip(root: Path) -> None:
    """Remove files that no container needs."""
    for unwanted in _UNWANTED:
        shutil.rmtree(root / unwanted, ignore_errors=True)
