"""Helper threads, which the calls of all namespaces share in turn."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ratchet.core.fair_fifo import FairFifo, share_of_one

log = logging.getLogger(__name__)

# A task does one step of some work. It returns whether more steps may be left.
Task = Callable[[], bool]


class HelperPool:
    """At most `size` threads that run tasks; thread-safe. A thread starts only when there is a task for it.

    Tenants take turns after each step of a task, and one tenant leaves a quarter of the threads to the others. So a pod
    with a thousand links delays the links of another namespace by one step.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._changed = threading.Condition()
        self._tasks: FairFifo[str, Task] = FairFifo(share_of_one(size))
        self._threads = self._idle = 0

    def submit(self, tenant: str, task: Task) -> None:
        """Run a task's steps, as soon as threads are free. Raises RuntimeError if no thread can start."""
        with self._changed:
            self._tasks.push(tenant, task)
            if not self._wake_one() and self._threads < self._size:
                threading.Thread(target=self._run, name=f"helper_{self._threads}", daemon=True).start()
                self._threads += 1

    def _run(self) -> None:
        while True:
            tenant, task = self._taken()
            more = False
            try:
                more = task()
            except Exception:
                log.exception("helper task failed: a bug in ratchet")
            with self._changed:
                if self._tasks.release(tenant):
                    self._wake_one()
                if more:
                    self._tasks.push(tenant, task)

    def _taken(self) -> tuple[str, Task]:
        with self._changed:
            while (taken := self._tasks.pop()) is None:
                self._idle += 1
                self._changed.wait()
            return taken

    def _wake_one(self) -> bool:
        """Wake an idle thread. Returns False if there is none. A thread that is woken is not idle any more."""
        if not self._idle:
            return False
        self._idle -= 1
        self._changed.notify()
        return True
