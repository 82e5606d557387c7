"""What a plain installation is without: the packages of an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ratchet.errors import RatchetError


@contextmanager
def of_extra(extra: str) -> Iterator[None]:
    """Raise RatchetError that says what to install where an import within fails."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise RatchetError(
            f"cannot import {missing.name}", details=f"pip install 'ratchet-cni[{extra}]' brings it"
        ) from missing
