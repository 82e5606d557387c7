"""A thread that does the operations of one pod or of one node in order, while those of others go on."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from tests.chaos.world import World

Operation = Callable[[], None]


class Actor:
    """Does operations one after the other in a thread of its own. An operation that raises is an error of the run."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self._submitted = 0
        self._done = 0
        self._queue: SimpleQueue[Operation | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=f"chaos {name}", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation) -> None:
        """Do an operation after those before it. Call it from one thread."""
        self._submitted += 1
        self._queue.put(operation)

    @property
    def is_superseded(self) -> bool:
        """Whether another operation waits, so that the current one must not be retried."""
        return not self._queue.empty() or self.world.ended.is_set()

    @property
    def is_idle(self) -> bool:
        return self._done == self._submitted

    def close(self) -> None:
        """End the thread after the operations before. Processes that it started may end with it (prctl(2))."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (operation := self._queue.get()) is not None:
            try:
                operation()
            except Exception:  # noqa: BLE001  # reported by the run, which ends
                self.world.errors.append(f"cannot carry out a step of {self.name}: {traceback.format_exc()}")
            self._done += 1
