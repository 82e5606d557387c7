"""Parameters of a test, of which `make check` leaves out the slow ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def with_thorough(names: Iterable[str], slow: Collection[str]) -> list[Any]:
    """The parameters `names`, with those in `slow` marked `thorough`.

    Raises ValueError if `slow` has other names, or all of them.
    """
    names = list(names)
    if unknown := set(slow).difference(names):
        raise ValueError(f"cannot mark parameters: not among the parameters: {', '.join(sorted(unknown))}")
    if set(names) <= set(slow):
        raise ValueError("cannot mark parameters: none is left for make check")
    return [pytest.param(name, marks=pytest.mark.thorough) if name in slow else name for name in names]
