"""Rounds over many keys at a bounded rate, so that periodic checks never become a burst."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

# The longest span, in seconds, whose share is given at once: after a stall there is no burst.
CATCH_UP_SECONDS = 10.0


class Rounds(Generic[Key]):
    """Gives each key once per round.

    It has no clock: `now` is the caller's, in seconds, and never goes back. A round takes at least `seconds`; it takes
    longer if there are more than `seconds * rate` keys. `began`: when the first round's span starts, at whose end the
    first keys are due. Not safe between threads.
    """

    def __init__(self, seconds: float, rate: float, began: float) -> None:
        self._seconds = seconds
        self._rate = rate
        self._next_round = began + seconds
        self._asked = began
        self._share = 0.0
        self._left: deque[Key] = deque()

    def due(self, keys: Callable[[], Iterable[Key]], now: float) -> list[Key]:
        """The keys that are due since the last question; `keys` is called when a round begins."""
        self._share = min(self._share, 1.0) + min(now - self._asked, CATCH_UP_SECONDS) * self._rate
        self._asked = now
        if not self._left and now >= self._next_round:
            self._left.extend(keys())
            self._next_round = now + self._seconds
        found = list[Key]()
        while self._left and self._share >= 1.0:
            found.append(self._left.popleft())
            self._share -= 1.0
        return found
