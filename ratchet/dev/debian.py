"""A Debian in a folder, as debootstrap(8) makes it: what an image is made of where no registry is asked."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ratchet.dev.building import Say, run
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


def bootstrap(root: Path, suite: str, packages: Sequence[str], say: Say) -> None:
    """Make the smallest Debian of a suite in an empty folder, with some packages. Raises RatchetError."""
    if shutil.which("debootstrap") is None:
        raise RatchetError("cannot make an image: debootstrap is missing (Debian's name of the package, too)")
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, str(root)]
    run("debootstrap", command, say)


def strip(root: Path) -> None:
    """Take away what no container needs."""
    for unwanted in _UNWANTED:
        shutil.rmtree(root / unwanted, ignore_errors=True)
