"""Wake threads that wait for a change of particular objects."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue


class KeyedNotifier:
    """Notifications by key. A subscriber is woken by its own keys only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, list[SimpleQueue[str]]] = {}

    def notify(self, key: str) -> None:
        """Wake all subscribers of a key."""
        with self._lock:
            queues = list(self._queues.get(key, ()))
        for queue in queues:
            queue.put(key)

    @contextmanager
    def subscribed(self, keys: Collection[str]) -> Iterator[Callable[[float], set[str]]]:
        """Subscribe to keys within the block.

        The value is a function that waits until a monotonic time at most and returns the keys that were notified.
        """
        queue: SimpleQueue[str] = SimpleQueue()
        with self._lock:
            for key in keys:
                self._queues.setdefault(key, []).append(queue)
        try:
            yield lambda until: _drained(queue, until)
        finally:
            with self._lock:
                for key in keys:
                    self._queues[key].remove(queue)
                    if not self._queues[key]:
                        del self._queues[key]


def _drained(queue: SimpleQueue[str], until: float) -> set[str]:
    keys: set[str] = set()
    try:
        keys.add(queue.get(timeout=max(0.0, until - time.monotonic())))
        while True:
            keys.add(queue.get_nowait())
    except Empty:
        return keys
