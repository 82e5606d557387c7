"""The compiled programs of shim/: wheels contain them, and `make install` builds them in a checkout."""

from __future__ import annotations

import os
from pathlib import Path


def find_compiled(name: str) -> Path | None:
    """The path of a program of shim/ for this machine; None if it was not built."""
    program = Path(__file__).parents[1] / "shim" / os.uname().machine / name
    return program if program.is_file() else None
