"""The programs of shim/, which wheels bring and `make install` builds in a checkout."""

from __future__ import annotations

import os
from pathlib import Path


def find_compiled(name: str) -> Path | None:
    """A program of shim/ for this machine; None where it was not built."""
    program = Path(__file__).parents[1] / "shim" / os.uname().machine / name
    return program if program.is_file() else None
