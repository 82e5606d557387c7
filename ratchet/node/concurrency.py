"""Concurrent map for work that mostly waits for the API."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Generic, TypeVar

from ratchet.node.helpers import HelperPool

Thing = TypeVar("Thing")
Result = TypeVar("Result")

HELPERS = 15
# All calls of a process share these threads, so that threads and connections do not grow with the number of calls.
_helpers = HelperPool(HELPERS)


def map_concurrently(act: Callable[[Thing], Result], things: Sequence[Thing], tenant: str = "") -> list[Result]:
    """Call `act` on each of `things` concurrently, and return the results in their order.

    The caller's thread works too, and does all the work if no helper thread is free. Helpers run in the caller's
    context, so their log lines match the caller's. Tenants, which are namespaces of pods, share the helpers in turn.

    After a failure no further call starts. Once the running calls have ended, the failure is raised; of several, that
    of the first in order.
    """
    work = Work(act, things)
    with suppress(RuntimeError):  # the system has no more threads for us
        for _ in range(min(HELPERS, len(things) - 1)):
            _helpers.submit(tenant, partial(copy_context().run, work.help))
    try:
        work.do()
    finally:
        work.end()
    return work.results()


class Work(Generic[Thing, Result]):
    """The remaining things of a map, and the results so far. A helper may start late or never."""

    def __init__(self, act: Callable[[Thing], Result], things: Sequence[Thing]) -> None:
        self._act = act
        self._left = deque(enumerate(things))
        self._results: dict[int, Result] = {}
        self._failures: dict[int, BaseException] = {}
        self._helping = 0
        self._changed = threading.Condition()

    def do(self) -> None:
        """Process the remaining things until none is left or a call has failed."""
        while (taken := self._taken()) is not None:
            self._process(*taken)

    def help(self) -> bool:
        """Process one of the remaining things on a helper thread. The caller waits for it in `end`.

        Returns False if none is left.
        """
        with self._changed:
            taken = self._taken()
            if taken is None:
                return False
            self._helping += 1
        try:
            self._process(*taken)
        finally:
            with self._changed:
                self._helping -= 1
                self._changed.notify()
        return True

    def end(self) -> None:
        """Start no further calls, and wait for the helpers."""
        with self._changed:
            self._left.clear()
            while self._helping:
                self._changed.wait()

    def results(self) -> list[Result]:
        if self._failures:
            raise self._failures[min(self._failures)]
        return [self._results[number] for number in sorted(self._results)]

    def _process(self, number: int, thing: Thing) -> None:
        try:
            self._results[number] = self._act(thing)
        except BaseException as failure:  # noqa: BLE001  # raised to the caller
            self._failures[number] = failure

    def _taken(self) -> tuple[int, Thing] | None:
        with self._changed:
            return self._left.popleft() if self._left and not self._failures else None
