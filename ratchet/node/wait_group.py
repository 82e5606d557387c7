"""A count of what runs now, and threads that wait until nothing does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class WaitGroup:
    """Counts what runs now. Thread-safe; `count` and `since` may be read without the lock, as by a signal handler.

    `clock` returns monotonic seconds. `since` is the time of the last change from 0.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self.count = 0
        self.since = 0.0

    @contextmanager
    def included(self) -> Iterator[None]:
        """Count the caller for a block."""
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """Do not count the caller for a block within `included`."""
        self._add(-1)
        try:
            yield
        finally:
            self._add(1)

    def wait(self, deadline: Callable[[], float]) -> bool:
        """Wait until nothing runs, or until the deadline. Returns whether nothing runs.

        `deadline` returns monotonic seconds. It is called again when a thread wakes up.
        """
        with self._changed:
            while self.count > 0 and (left := deadline() - self._clock()) > 0:
                self._changed.wait(left)
            return self.count <= 0

    def _add(self, change: int) -> None:
        with self._changed:
            if not self.count:
                self.since = self._clock()
            self.count += change
            if self.count <= 0:
                self._changed.notify_all()
