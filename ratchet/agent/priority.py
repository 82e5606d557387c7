"""The priority of CNI calls over background work.

All threads share one interpreter, in which one thread runs at a time. Calls are short and the runtime waits for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds that calls in a row may delay an Event, a condition or an inspection.
BACKGROUND_WAITS_SECONDS = 1.0


class ForegroundGate:
    """Counts the calls that work, as opposed to calls that wait for a peer. Thread-safe.

    `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._busy = 0
        self._since = 0.0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count a call that works, for a block."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a call that works as waiting, for a block."""
        self._count(-1)
        try:
            yield
        finally:
            self._count(1)

    def yield_to_calls(self, seconds: float) -> None:
        """Wait until no call works, or until calls in a row have worked for `seconds`."""
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
