"""List a collection, then watch it: the informer of each cache, and the same loop for bounded waits.

Failed requests are retried with exponential backoff and jitter, never earlier than `Retry-After`. A watch that answers
410 Gone is listed again, so changes in the gap are found, deletions among them. "Unknown" is a state of its own: a
collection that was never listed, or whose list fails, is not an empty one.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.store.api_errors import ExpiredError, ForbiddenError

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
Object = TypeVar("Object")
Change = TypeVar("Change")
ListedObject = TypeVar("ListedObject", contravariant=True)

# Seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
LONGEST_RETRY_AFTER = 300.0
# The shortest time between two watches that the server ends without an error.
WATCH_INTERVAL = 1.0
# Failed watches in a row after which the collection is listed: it may be out of date by then.
RELIST_AFTER = 5


def backoff(failures: int, spread: float, retry_after: float | None = None) -> float:
    """Seconds to wait after so many failures in a row.

    `spread`, from 0 to 1, is the jitter. `retry_after` is the server's own number of seconds: the pause is not shorter.
    """
    ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 20))
    pause = ceiling * (1 + spread) / 2
    if retry_after is None:
        return pause
    return max(pause, min(retry_after, LONGEST_RETRY_AFTER) + FIRST_PAUSE * spread)


def vanished(before: Mapping[Key, Object], after: Mapping[Key, Object]) -> list[Object]:
    """The objects that a new list no longer has. They were deleted between two watches."""
    return [thing for key, thing in before.items() if key not in after]


class Timing:
    """The clock, the pauses and the jitter of a list-watch."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)

    def spread(self) -> float:
        """A random number from 0 to 1."""
        return random.uniform(0.0, 1.0)  # noqa: S311

    def is_stopped(self) -> bool:
        """Whether the list-watch is to end."""
        return False


@dataclass(frozen=True, slots=True)
class Source(Generic[Object, Change]):
    """How to read a collection.

    `list` returns the objects and their resourceVersion. `watch` gets a version and a limit in seconds; it yields each
    change with its version, and None with a version for a bookmark.
    """

    name: str
    list: Callable[[], tuple[Collection[Object], str]]
    watch: Callable[[str, float], Iterator[tuple[Change | None, str]]]


@dataclass(frozen=True, slots=True)
class Listed(Generic[Object]):
    """The collection as listed. It replaces all earlier objects."""

    objects: Collection[Object]
    version: str


@dataclass(frozen=True, slots=True)
class Changed(Generic[Change]):
    """One change that the watch reported."""

    change: Change


@dataclass(frozen=True, slots=True)
class Failed:
    """A list or a watch failed and is retried after `pause` seconds.

    `unknown`: the collection must be listed.
    """

    cause: RatchetError
    pause: float
    unknown: bool

    def raise_if_fatal(self) -> None:
        """Raise the cause if a retry cannot succeed."""
        if not isinstance(self.cause, ApiUnavailableError | ForbiddenError | ExpiredError):
            raise self.cause


Event = Listed[Object] | Changed[Change] | Failed


def list_watch(
    source: Source[Object, Change],
    *,
    version: str = "",
    until: float = float("inf"),
    timing: Timing | None = None,
) -> Iterator[Event[Object, Change]]:
    """List a collection, watch it from there, and report what happens until `until` (monotonic seconds).

    With `version` the first list is left out. All errors are retried; each is reported before its pause.
    """
    timing = timing or Timing()
    failures = 0
    last_cause: type[RatchetError] | None = None
    while not timing.is_stopped() and (left := until - timing.now()) > 0:
        began = timing.now()
        try:
            if not version:
                objects, version = source.list()
                yield Listed(objects, version)
                del objects  # the watch may last for hours
                left = until - timing.now()
            for change, latest in source.watch(version, left):
                version, failures, last_cause = latest, 0, None
                if change is not None:
                    yield Changed(change)
                if timing.is_stopped():
                    return
        except RatchetError as cause:
            failures += 1
            unknown = not version or isinstance(cause, ExpiredError | ForbiddenError)
            version = "" if unknown or failures >= RELIST_AFTER else version
            pause = _pause_after(cause, failures, timing)
            _log_failure(source.name, cause, pause, repeated=type(cause) is last_cause)
            last_cause = type(cause)
            yield Failed(cause, pause, unknown)
        else:
            failures, last_cause = 0, None
            pause = began + WATCH_INTERVAL - timing.now()
        timing.pause(min(pause, until - timing.now()))


def _pause_after(cause: RatchetError, failures: int, timing: Timing) -> float:
    if isinstance(cause, ExpiredError):  # the list that follows is no retry; one after another is
        return backoff(failures - 1, timing.spread()) if failures > 1 else 0.0
    retry_after = cause.retry_after if isinstance(cause, ApiUnavailableError) else None
    return backoff(failures, timing.spread(), retry_after)


def _log_failure(name: str, cause: RatchetError, pause: float, *, repeated: bool) -> None:
    level = logging.DEBUG if repeated or isinstance(cause, ExpiredError) else logging.WARNING
    log.log(level, 'list-watch failed collection="%s" retry_in=%.1fs cause="%s"', name, pause, cause)


class SyncState:
    """Whether a collection is known: synced, or unknown with the cause (None before the first list)."""

    def __init__(self) -> None:
        self._synced = self._listed = False
        self._cause: RatchetError | None = None

    @property
    def is_synced(self) -> bool:
        return self._synced

    @property
    def was_listed(self) -> bool:
        """Whether the collection was ever listed, though it may be unknown again."""
        return self._listed

    @property
    def cause(self) -> RatchetError | None:
        """Why the collection is unknown."""
        return self._cause

    def set_synced(self) -> None:
        self._synced, self._listed, self._cause = True, True, None

    def set_unknown(self, cause: RatchetError) -> None:
        self._synced, self._cause = False, cause


class Cache(Protocol[ListedObject, Change]):
    """The cache that an informer keeps up to date."""

    state: SyncState

    def replace(self, objects: Collection[ListedObject], version: str) -> Sequence[Change]:
        """Hold these objects and no others. Returns the deletions that no watch reported."""

    def apply(self, change: Change) -> bool:
        """Apply one change. Returns whether it changed anything."""


class Informer(Generic[Object, Change]):
    """Keeps a cache equal to a collection, in a thread of its own, until it is stopped.

    `notify` is called after each list, with the deletions that it revealed, and after each change that made a
    difference.
    """

    def __init__(
        self,
        source: Source[Object, Change],
        cache: Cache[Object, Change],
        notify: Callable[[Sequence[Change]], None] = lambda _: None,
        timing: Callable[[threading.Event], Timing] | None = None,
    ) -> None:
        self._source = source
        self._cache = cache
        self._notify = notify
        self._stopping = threading.Event()
        self._timing = (timing or _Stoppable)(self._stopping)

    @property
    def state(self) -> SyncState:
        return self._cache.state

    def start(self) -> None:
        """Run in a daemon thread. Raises RuntimeError if the system has no more threads."""
        threading.Thread(target=self.run, name=f"informer-{self._source.name}", daemon=True).start()

    def stop(self) -> None:
        """End the thread. What arrives later is not applied; a quiet watch ends when the server closes it."""
        self._stopping.set()

    def run(self) -> None:
        """List and watch until stopped. A fault of a handler is logged, and the collection is listed again."""
        while not self._stopping.is_set():
            try:
                for event in list_watch(self._source, timing=self._timing):
                    if self._stopping.is_set():
                        return
                    self._handle(event)
                    del event  # a list would stay in memory until the next change
            except Exception:
                log.exception('informer failed collection="%s"', self._source.name)
                self._timing.pause(LONGEST_PAUSE)

    def _handle(self, event: Event[Object, Change]) -> None:
        match event:
            case Failed(cause, _, unknown):
                if unknown:
                    self._cache.state.set_unknown(cause)
            case Listed(objects, version):
                deleted = self._cache.replace(objects, version)
                self._cache.state.set_synced()
                self._notify(deleted)
            case Changed(change):
                if self._cache.apply(change):
                    self._notify([change])


class _Stoppable(Timing):
    """Real time, with pauses that end when the event is set."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping

    def pause(self, seconds: float) -> None:
        if seconds > 0:
            self._stopping.wait(seconds)

    def is_stopped(self) -> bool:
        return self._stopping.is_set()
