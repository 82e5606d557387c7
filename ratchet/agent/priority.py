"""The priority of CNI calls over background work.

All threads share one interpreter, in which one thread runs at a time. Calls are short and the runtime waits for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ratchet.node.wait_group import WaitGroup

# Seconds that calls in a row may delay an Event, a condition or an inspection.
BACKGROUND_WAITS_SECONDS = 1.0


class ForegroundGate:
    """Counts the calls that work, as opposed to calls that wait for a peer. Thread-safe.

    `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._working = WaitGroup(clock)
        self._thread = threading.local()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count a call that works, for a block in its thread."""
        with self._counting(True), self._working.included():
            yield

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a call that works as waiting, for a block in its thread.

        Threads that are not counted wait in the same places: workers, helpers of a call. They change nothing.
        """
        if not getattr(self._thread, "counted", False):
            yield
            return
        with self._counting(False), self._working.excluded():
            yield

    def yield_to_calls(self, seconds: float) -> None:
        """Wait until no call works, or until calls in a row have worked for `seconds`."""
        if self._working.count:
            self._working.wait(lambda: self._working.since + seconds)

    @contextmanager
    def _counting(self, counted: bool) -> Iterator[None]:
        """Note for a block whether the thread's call is counted as working."""
        before = getattr(self._thread, "counted", False)
        self._thread.counted = counted
        try:
            yield
        finally:
            self._thread.counted = before
