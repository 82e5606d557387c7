"""The work queue: one worker at a time has a key, and failed keys are retried after a growing delay.

It works like client-go's workqueue: a key that is added while a worker has it is taken once more afterwards. Tenants
take turns, and a part of the workers is kept from each tenant (`fair_fifo`).
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable, Hashable
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from ratchet.core.fair_fifo import FairFifo, share_of_one
from ratchet.core.naming import namespace_part

Key = TypeVar("Key", bound=Hashable)

# Seconds before a failed key is retried.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
# Seconds before a pod is reconciled, so that several changes are one reconciliation.
POD_SECONDS = 0.2


class WorkQueue(Generic[Key]):
    """A queue of keys for several workers. Thread-safe.

    `clock` returns monotonic seconds, `jitter` a factor around one for each delay. Tenants take turns; `tenant_of` is
    the tenant of a key.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311
        tenant_of: Callable[[Key], Hashable] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._tenant_of = tenant_of
        self._changed = threading.Condition()
        self._ready: FairFifo[Hashable, Key] = FairFifo()
        self._worked_on: dict[Key, float] = {}  # when a worker took each key; in the order of these times
        self._again: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._counter = 0
        self._closed = False

    def add(self, key: Key, after: float = 0.0) -> None:
        """Queue a key, now or after `after` seconds.

        A key that waits already is queued once, at the earlier time.
        """
        with self._changed:
            if after > 0:
                self._schedule(key, self._clock() + after)
                self._changed.notify()
            else:
                self._add(key)

    def take(self) -> Key | None:
        """Wait for the next key; None once the queue is closed. The worker then calls `done` or `failed`."""
        with self._changed:
            while not self._closed:
                self._add_due()
                if (taken := self._ready.pop()) is not None:
                    _, key = taken
                    self._worked_on[key] = self._clock()
                    return key
                self._changed.wait(self._later[0][0] - self._clock() if self._later else None)
            return None

    def done(self, key: Key) -> None:
        """Return a key whose work has succeeded."""
        with self._changed:
            self._failures.pop(key, None)
            self._release(key)

    def failed(self, key: Key) -> float:
        """Return a key whose work has failed. It is queued again after the returned delay in seconds."""
        with self._changed:
            times = self._failures[key] = self._failures.get(key, 0) + 1
            pause: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(times - 1, 20)) * self._jitter()
            self._schedule(key, self._clock() + pause)
            self._release(key)
            return pause

    def limit_tenants(self, workers: int) -> None:
        """Keep some of `workers` from each tenant, so that slow keys of one tenant do not occupy all of them."""
        with self._changed:
            self._ready.limit = share_of_one(workers)

    def close(self) -> None:
        """Close the queue: `take` returns None from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        """The number of keys that wait for a worker."""
        return len(self._ready)

    def is_idle(self) -> bool:
        """Whether no key waits for a worker or is with one. Keys that are due later do not count."""
        with self._changed:
            self._add_due()
            return not self._ready and not self._worked_on

    def longest_work(self) -> tuple[Key, float] | None:
        """The key that is with a worker for the longest time, and the time in seconds. None if no worker has a key."""
        with self._changed:
            for key, taken in self._worked_on.items():
                return key, self._clock() - taken
            return None

    def _add(self, key: Key) -> None:
        if key in self._worked_on:
            self._again.add(key)
        elif self._ready.push(self._tenant_of(key), key):
            self._changed.notify()

    def _schedule(self, key: Key, due: float) -> None:
        """Queue a key at `due`, unless it is due earlier."""
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
        self._worked_on.pop(key, None)
        if self._ready.release(self._tenant_of(key)):
            self._changed.notify()
        if key in self._again:
            self._again.discard(key)
            self._add(key)


class ReconcileKind(StrEnum):
    """The kinds of objects that workers reconcile."""

    LINK = "link"
    POD = "pod"


class ReconcileKey(NamedTuple):
    """A link, or a pod whose membership in links is reconciled.

    `namespace` is that of a pod. It is "" for a link.
    """

    kind: ReconcileKind
    namespace: str
    name: str

    @property
    def tenant(self) -> str:
        """The namespace of the pods (`namespace_part`)."""
        return self.namespace or namespace_part(self.name)


class ReconcileQueue(WorkQueue[ReconcileKey]):
    """The work queue of an agent. Namespaces take turns."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311
    ) -> None:
        super().__init__(clock, jitter, lambda key: key.tenant)

    def enqueue_link(self, link: str) -> None:
        """Reconcile a link, by the name of its record."""
        self.add(ReconcileKey(ReconcileKind.LINK, "", link))

    def enqueue_pod(self, namespace: str, name: str) -> None:
        """Reconcile the links of a pod's sandboxes after POD_SECONDS."""
        self.add(ReconcileKey(ReconcileKind.POD, namespace, name), after=POD_SECONDS)
