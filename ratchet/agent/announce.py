"""Telling of links on their pods, from a thread of its own: nothing waits for it and nothing fails with it.

Events are sent at best effort. Changes of the links of a pod are collected, so that one Event reports several of them
(`events`). Repeats and Events over the limits are dropped (`event_limits`), and Events that the API refuses. The
condition is different: of each pod the newest wish is kept, and tried again until it is written or the pod is gone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ratchet.agent.event_limits import Limiter
from ratchet.agent.events import COLLECT_SECONDS, Batch, Collector, Reason, event_message
from ratchet.agent.logs import about
from ratchet.core.model import Pod, PodRef
from ratchet.errors import ApiUnavailableError, ConflictError, RatchetError
from ratchet.store.announcements import LINKED_CONDITION, MESSAGE_LENGTH, record_event, set_condition
from ratchet.store.api_errors import ForbiddenError, NotFoundError
from ratchet.store.apiserver import ApiServer

if TYPE_CHECKING:
    from ratchet.agent.metrics import Metrics

log = logging.getLogger(__name__)

EVENTS_KEPT = 1024
EVENT_TRIES = 3
PODS_KEPT = 1024
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class _Event:
    """An event that waits to be sent, or to be sent again; `changes`: how many it reports."""

    pod: PodRef
    reason: Reason
    message: str
    at: datetime
    changes: int
    tries: int = 0


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a pod's condition is to say; `since` when, which makes no difference between two wishes."""

    pod: PodRef
    linked: bool
    reason: str
    message: str
    since: datetime = field(compare=False)


@dataclass(slots=True)
class _Told:
    """A pod's condition: what is still to be written, and not before `due`; what was written, if that is known."""

    wish: _Wish | None = None
    written: _Wish | None = None
    writing: bool = False
    due: float = 0.0


class Announcer:
    """Tells of links on the pods of `node`: by events, and by the condition that their readiness gates wait for.

    Safe to use from every thread; nothing blocks and nothing raises. `clock` gives monotonic seconds, `now` the time of
    day; `pauses` are the first and the longest wait in seconds before the API is asked again that did not answer.
    `collect`: for how many seconds changes of a pod's links are collected.
    """

    def __init__(
        self,
        api: ApiServer,
        node: str,
        metrics: Metrics,
        *,
        events: bool,
        readiness: bool,
        yield_to_calls: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        pauses: tuple[float, float] = (FIRST_PAUSE, LONGEST_PAUSE),
        collect: float = COLLECT_SECONDS,
    ) -> None:
        self._api = api
        self._node = node
        self._metrics = metrics
        self._events_wanted = events
        self._conditions_wanted = readiness
        self._give_way = yield_to_calls
        self._clock = clock
        self._now = now
        self._first_pause, self._longest_pause = pauses
        # All below is guarded by the lock of `_changed`.
        self._changed = threading.Condition()
        self._limiter = Limiter()
        self._collector = Collector(collect)
        self._events: deque[_Event] = deque()
        self._pods: dict[str, _Told] = {}
        self._pause = 0.0
        self._away_until = 0.0
        self._forbidden: set[str] = set()
        self._ends: float | None = None
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    def event(self, pod: PodRef, reason: Reason, text: str, interface: str = "") -> None:
        """Report a change of a pod, or of the link of one of its interfaces, with an Event.

        Changes of interfaces are collected, and one Event reports those of a pod with the same reason. A change without
        an interface has an Event of its own, which is sent at once. Repeats and Events over the limits are dropped.
        """
        if not self._events_wanted:
            return
        with self._changed:
            now, idle = self._clock(), self._collector.due is None
            if self._ends is not None:
                self._metrics.event_dropped()
            elif not interface:
                self._enqueue(pod, reason, [text], self._now(), now)
            elif not self._collector.add(pod, reason, interface, text[:MESSAGE_LENGTH], now, self._now()):
                self._metrics.event_dropped()
            self._enqueue_batches(self._collector.take(now), now)
            if self._events or idle:
                self._changed.notify()

    def condition(self, pod: Pod, linked: bool, reason: str, message: str) -> None:
        """Have the pod's condition say this, if it has the readiness gate; it takes the place of an earlier wish."""
        if not self._conditions_wanted or LINKED_CONDITION not in pod.gates:
            return
        with self._changed:
            told = self._told_of(pod.ref)
            if told is None or self._ends is not None:
                return
            last = told.wish or told.written
            since = last.since if last is not None and last.linked == linked else self._now()
            wish = _Wish(pod.ref, linked, reason, message[:MESSAGE_LENGTH], since)
            told.wish = wish if wish != told.written or told.writing else None
            self._changed.notify()

    def forget(self, uid: str) -> None:
        """Want nothing more of the condition of the pod with this UID: it is gone, or has no links any more."""
        with self._changed:
            self._pods.pop(uid, None)

    def close(self, seconds: float) -> None:
        """Say what is left to be said, for at most so many seconds, and nothing after it."""
        with self._changed:
            if self._ends is None:
                self._enqueue_batches(self._collector.take_all(), self._clock())
                self._ends = self._clock() + seconds
            self._away_until = 0.0
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            left = len(self._events) + sum(told.wish is not None for told in self._pods.values())
        if left:
            log.warning("cannot announce %d more: it is time to end", left)

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
                self._events.append(_Event(pod, reason, message, at, len(news)))
                dropped -= len(news)
                if reason is Reason.LINK_LOST:
                    # Otherwise the last Event of a link that is linked again would report its loss.
                    self._limiter.forget(pod.uid, Reason.LINKED)
        self._metrics.event_dropped(dropped)

    def _told_of(self, pod: PodRef) -> _Told | None:
        """What is known of a pod's condition; None where there are too many pods to keep it."""
        if pod.uid not in self._pods and len(self._pods) >= PODS_KEPT:
            settled = next((uid for uid, told in self._pods.items() if told.wish is None), None)
            if settled is None:
                log.warning("cannot set %s of %s: %d pods wait for theirs", LINKED_CONDITION, pod, PODS_KEPT)
                return None
            del self._pods[settled]
        return self._pods.setdefault(pod.uid, _Told())

    # The thread's own

    def _run(self) -> None:
        while (work := self._next()) is not None:
            if self._ends is None:
                self._give_way()
            with about(pod=work.pod):
                if isinstance(work, _Event):
                    self._send(work)
                else:
                    self._write(work)

    def _next(self) -> _Event | _Wish | None:
        """What is to be said next, waited for; None at the end."""
        with self._changed:
            while True:
                now = self._clock()
                self._enqueue_batches(self._collector.take(now), now)
                due, collected = self._due(), self._collector.due
                if self._ends is not None and (due is None or due > now or now >= self._ends):
                    return None
                if due is not None and due <= now:
                    return self._taken(now)
                next_due = min((one for one in (due, collected) if one is not None), default=None)
                self._changed.wait(None if next_due is None else next_due - now)

    def _due(self) -> float | None:
        """The clock's value at which there is something to say; None while there is nothing."""
        dues = [told.due for told in self._pods.values() if told.wish is not None]
        if self._events:
            dues.append(0.0)
        return max(self._away_until, min(dues)) if dues else None

    def _taken(self, now: float) -> _Event | _Wish:
        """A condition before an event: a pod waits for it."""
        for told in self._pods.values():
            if told.wish is not None and told.due <= now:
                told.writing = True
                return told.wish
        return self._events.popleft()

    def _send(self, event: _Event) -> None:
        try:
            record_event(
                self._api, event.pod, event.reason, event.message, event.reason.type, now=event.at, host=self._node
            )
        except ApiUnavailableError as error:
            self._stay_away(error)
            self._send_again(event)
        except RatchetError as error:
            self._metrics.event_dropped(event.changes)
            self._refused(error, "event", "create", "events")
        except Exception:
            self._metrics.event_dropped(event.changes)
            log.exception("a fault in an event")
        else:
            self._answered("event")

    def _send_again(self, event: _Event) -> None:
        """Behind the others: where the API fails for one namespace alone, the rest go on."""
        with self._changed:
            if event.tries + 1 < EVENT_TRIES and len(self._events) < EVENTS_KEPT:
                self._events.append(replace(event, tries=event.tries + 1))
            else:
                self._metrics.event_dropped(event.changes)

    def _write(self, wish: _Wish) -> None:
        try:
            set_condition(self._api, wish.pod, wish.linked, wish.reason, wish.message, wish.since)
        except (NotFoundError, ConflictError):
            self.forget(wish.pod.uid)
        except ApiUnavailableError as error:
            self._stay_away(error)
            self._settle(wish, written=None, over=False)
        except ForbiddenError as error:
            self._refused(error, "condition", "patch", "pods/status")
            self._settle(wish, written=None, over=False, again_at=self._clock() + self._longest_pause)
        except RatchetError as error:
            self._refused(error, "condition", "patch", "pods/status")
            self._settle(wish, written=None, over=True)
        except Exception:
            log.exception("a fault in a condition")
            self._settle(wish, written=None, over=True)
        else:
            self._answered("condition")
            self._settle(wish, written=wish, over=True)

    def _settle(self, wish: _Wish, *, written: _Wish | None, over: bool, again_at: float = 0.0) -> None:
        """Note what is known of a condition after a try, and put it behind the others; a newer wish stays one.

        `over`: this wish is not tried again.
        """
        with self._changed:
            told = self._pods.pop(wish.pod.uid, None)
            if told is None:
                return  # forgotten meanwhile
            told.writing, told.written, told.due = False, written, again_at
            if over and told.wish == wish:
                told.wish = None
            self._pods[wish.pod.uid] = told

    def _stay_away(self, error: ApiUnavailableError) -> None:
        """The API is away: ask it nothing for a while, twice as long each time, and say so once."""
        if not self._pause:
            log.warning("cannot announce: %s; it is tried again", error)
        with self._changed:
            self._pause = min(self._longest_pause, self._pause * 2 or self._first_pause)
            self._away_until = self._clock() + self._pause
            if self._ends is not None:
                self._ends = self._clock()

    def _answered(self, what: str) -> None:
        with self._changed:
            self._pause = 0.0
            self._forbidden.discard(what)

    def _refused(self, error: RatchetError, what: str, verb: str, resource: str) -> None:
        """Log why something is not said, but where nobody needs to know: the pod or its namespace is going."""
        if isinstance(error, NotFoundError | ConflictError) or "being terminated" in str(error):
            return
        if not isinstance(error, ForbiddenError):
            log.warning("%s", error)
        elif what not in self._forbidden:
            self._forbidden.add(what)
            log.warning("%s (the account needs the verb %s for %s)", error, verb, resource)
