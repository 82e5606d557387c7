"""The priority of CNI calls over background work.

All threads share one interpreter, in which one thread runs at a time. Calls are short and the runtime waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from ratchet.node.wait_group import WaitGroup

# Seconds that calls in a row may delay an Event, a condition or an inspection.
BACKGROUND_WAITS_SECONDS = 1.0


class ForegroundGate:
    """Counts the calls that work, as opposed to calls that wait for a peer. Thread-safe.

    `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._working = WaitGroup(clock)

    def at_work(self) -> AbstractContextManager[None]:
        """Count a call that works, for a block."""
        return self._working.included()

    def waiting(self) -> AbstractContextManager[None]:
        """Count a call that works as waiting, for a block."""
        return self._working.excluded()

    def yield_to_calls(self, seconds: float) -> None:
        """Wait until no call works, or until calls in a row have worked for `seconds`."""
        if self._working.count:
            self._working.wait(lambda: self._working.since + seconds)
