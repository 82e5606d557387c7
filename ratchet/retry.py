"""Retries with tenacity that cost nothing where the first call succeeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import tenacity

Returned = TypeVar("Returned")


def call_with_retries(
    call: Callable[[], Returned], error: type[Exception], retrying: Callable[[float], tenacity.Retrying]
) -> Returned:
    """Call a function, and after an `error` call it again as `retrying` says.

    `retrying` gets the seconds that the failed call took, which its retries count as their first attempt. Tenacity
    takes some 40 µs for each call, also for one that succeeds, and most calls do. Raises as `retrying` does.
    """
    began = time.monotonic()
    try:
        return call()
    except error as cause:
        failures = [cause]

    def call_again() -> Returned:
        if failures:
            raise failures.pop()
        return call()

    return retrying(time.monotonic() - began)(call_again)
