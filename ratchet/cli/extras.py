"""Imports of a command that a plain installation may lack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ratchet.errors import RatchetError


@contextmanager
def optional_imports(command: str, extra: str) -> Iterator[None]:
    """Turn a failed import in the block into an error that says what to install.

    `command`: as the user types it, such as "dev api". `extra`: the extra of ratchet-cni that has the packages. Raises
    RatchetError.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        install = f"pip install 'ratchet-cni[{extra}]'"
        if missing.name == "ratchet.dev":
            raise RatchetError(
                f"cannot run {command}: this installation does not include it",
                details=f"Ratchet's image and the nodes lack ratchet.dev; run it on your machine: {install}",
            ) from missing
        raise RatchetError(
            f"cannot run {command}: the Python package {missing.name} is missing", details=install
        ) from missing
