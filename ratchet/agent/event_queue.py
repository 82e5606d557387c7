"""The queue of Events: collects changes of interfaces, drops repeats and Events over the limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from ratchet.agent.event_limits import Limiter
from ratchet.agent.events import Batch, Collector, Reason, event_message
from ratchet.agent.metrics import Metrics
from ratchet.core.pod import PodRef
from ratchet.store.announcements import MESSAGE_LENGTH

EVENTS_KEPT = 1024
EVENT_TRIES = 3


@dataclass(frozen=True, slots=True)
class QueuedEvent:
    """An Event that waits to be sent.

    `at` is the time of its newest change, `changes` the number of changes that it reports.
    """

    pod: PodRef
    reason: Reason
    message: str
    at: datetime
    changes: int
    tries: int = 0


class EventQueue:
    """At most EVENTS_KEPT Events, and the changes that are collected for `collect` seconds.

    Not thread-safe. It has no clock: the caller passes `now`, in monotonic seconds. Dropped changes are counted in
    `metrics`.
    """

    def __init__(self, collect: float, metrics: Metrics) -> None:
        self._metrics = metrics
        self._limiter = Limiter()
        self._collector = Collector(collect)
        self._events: deque[QueuedEvent] = deque()

    def __len__(self) -> int:
        """The number of Events that wait to be sent."""
        return len(self._events)

    @property
    def batch_due(self) -> float | None:
        """The value of `now` at which the next collected changes become an Event; None if there are none."""
        return self._collector.due

    def add(self, pod: PodRef, reason: Reason, text: str, interface: str, now: float, at: datetime) -> None:
        """Collect a change of an interface at the time `at`. A change without an interface is queued at once."""
        if not interface:
            self._enqueue(pod, reason, [text], at, now)
        elif not self._collector.add(pod, reason, interface, text[:MESSAGE_LENGTH], now, at):
            self._metrics.event_dropped()
        self.collect(now)

    def collect(self, now: float) -> None:
        """Queue the Events of the collected changes that are due."""
        self._enqueue_batches(self._collector.take(now), now)

    def collect_all(self, now: float) -> None:
        """Queue the Events of all collected changes."""
        self._enqueue_batches(self._collector.take_all(), now)

    def pop(self) -> QueuedEvent:
        """Remove and return the oldest Event. Raises IndexError if there is none."""
        return self._events.popleft()

    def retry(self, event: QueuedEvent) -> None:
        """Queue an Event again that could not be sent, at most EVENT_TRIES times.

        It goes behind the others, because the API may fail for one namespace alone.
        """
        if event.tries + 1 < EVENT_TRIES and len(self._events) < EVENTS_KEPT:
            self._events.append(replace(event, tries=event.tries + 1))
        else:
            self._metrics.event_dropped(event.changes)

    def _enqueue_batches(self, batches: Iterable[Batch], now: float) -> None:
        for batch in batches:
            self._enqueue(batch.pod, batch.reason, batch.texts.values(), batch.at, now)

    def _enqueue(self, pod: PodRef, reason: Reason, texts: Collection[str], at: datetime, now: float) -> None:
        """Queue one Event that lists the texts that are no repeats, if the limits and the queue allow it."""
        news = [one for one in dict.fromkeys(texts) if not self._limiter.is_repeat(pod.uid, reason, one, now)]
        dropped = len(texts)
        if news and len(self._events) < EVENTS_KEPT:
            message, listed = event_message(news, MESSAGE_LENGTH)
            if self._limiter.allows(pod.uid, reason, news[:listed], now):
                self._events.append(QueuedEvent(pod, reason, message, at, len(news)))
                dropped -= len(news)
                if reason is Reason.LINK_LOST:
                    # Otherwise the last Event of a link that is linked again would report its loss.
                    self._limiter.forget(pod.uid, Reason.LINKED)
        self._metrics.event_dropped(dropped)
