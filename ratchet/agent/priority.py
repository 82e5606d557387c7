"""Who goes first: the runtime's calls are short and somebody waits for them; what runs in the background can wait.

Both share one interpreter, in which one thread runs at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ForegroundGate:
    """Knows which calls are at work, as opposed to waiting for a peer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._busy = 0
        self._since = 0.0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within the block a call is at work."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within the block a call that is at work only waits."""
        self._count(-1)
        try:
            yield
        finally:
            self._count(1)

    def yield_to_calls(self, seconds: float) -> None:
        """Return once no call is at work, or once there has been one at any time for so many seconds."""
        if not self._busy:
            return
        with self._changed:
            while self._busy > 0 and (left := self._since + seconds - self._clock()) > 0:
                self._changed.wait(left)

    def _count(self, change: int) -> None:
        with self._changed:
            if not self._busy:
                self._since = self._clock()
            self._busy += change
            if self._busy <= 0:
                self._changed.notify_all()
