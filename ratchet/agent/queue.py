"""What is to be looked after, by key: each key in one pair of hands at a time, and none forgotten.

As client-go's workqueue: a key that is added while it is worked on is worked on once more afterwards; one that failed
comes again after a pause that grows.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0


class WorkQueue(Generic[Key]):
    """Keys for several workers. `clock` gives monotonic seconds; `jitter` a factor around one for each pause."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._changed = threading.Condition()
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._worked_on: set[Key] = set()
        self._again: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._counter = 0
        self._closed = False

    def add(self, key: Key, after: float = 0.0) -> None:
        """Have the key worked on, now or `after` so many seconds at latest; once, however often it is added."""
        with self._changed:
            if after > 0:
                self._schedule(key, self._clock() + after)
                self._changed.notify()
            else:
                self._add(key)

    def take(self) -> Key | None:
        """The next key, waited for; None once the queue is closed. Whoever takes it says `done` or `failed`."""
        with self._changed:
            while not self._closed:
                self._add_due()
                if self._ready:
                    key = self._ready.popleft()
                    self._waiting.discard(key)
                    self._worked_on.add(key)
                    return key
                self._changed.wait(self._later[0][0] - self._clock() if self._later else None)
            return None

    def done(self, key: Key) -> None:
        with self._changed:
            self._failures.pop(key, None)
            self._release(key)

    def failed(self, key: Key) -> float:
        """Have the key worked on again, after so many seconds."""
        with self._changed:
            times = self._failures[key] = self._failures.get(key, 0) + 1
            pause: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(times - 1, 20)) * self._jitter()
            self._schedule(key, self._clock() + pause)
            self._release(key)
            return pause

    def close(self) -> None:
        """Give nothing out any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        """How many keys wait for a worker."""
        return len(self._ready)

    def is_idle(self) -> bool:
        """Whether nothing is waiting or worked on; what comes later does not count."""
        with self._changed:
            self._add_due()
            return not self._ready and not self._worked_on

    def _add(self, key: Key) -> None:
        if key in self._worked_on:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._changed.notify()

    def _schedule(self, key: Key, due: float) -> None:
        """Have a key added when it is due, unless it will be sooner."""
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._counter += 1
            heapq.heappush(self._later, (due, self._counter, key))

    def _add_due(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key)

    def _release(self, key: Key) -> None:
        self._worked_on.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._add(key)
