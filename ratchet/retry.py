"""Retries with tenacity that cost nothing where the first call succeeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tenacity

Returned = TypeVar("Returned")


def call_with_retries(
    call: Callable[[], Returned], error: type[Exception], retrying: Callable[[], tenacity.Retrying]
) -> Returned:
    """Call a function, and after an `error` call it again as `retrying` says.

    `retrying` makes the retries of one call; they count the call that failed as their first attempt. Tenacity takes
    some 40 µs for each call, also for one that succeeds, and most calls do. Raises as `retrying` does.
    """
    try:
        return call()
    except error as cause:
        failures = [cause]

    def call_again() -> Returned:
        if failures:
            raise failures.pop()
        return call()

    return retrying()(call_again)
