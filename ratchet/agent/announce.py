"""Telling of links on their pods, from a thread of its own: nothing waits for it and nothing fails with it.

Not guaranteed: that an event is ever seen. It is left out where it was said already, where a pod or the node says too
much, and where it is refused. The condition is different: of each pod the newest wish is kept, and tried again until it
is written or the pod is gone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from ratchet.agent.logs import about
from ratchet.core.model import Pod, PodRef
from ratchet.errors import AddressFamilyError, ApiUnavailableError, ConflictError, InvalidIntentError, RatchetError
from ratchet.store.announcements import LINKED_CONDITION, MESSAGE_LENGTH, EventType, record_event, set_condition
from ratchet.store.apiserver import ApiServer, ForbiddenError, NotFoundError

if TYPE_CHECKING:
    from ratchet.agent.metrics import Metrics

log = logging.getLogger(__name__)

EVENTS_KEPT = 1024
EVENT_TRIES = 3
PODS_KEPT = 1024
REPEAT_SECONDS = 300.0
POD_BURST, POD_RATE = 20, 1 / 30
NODE_BURST, NODE_RATE = 50, 50.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0

_REMEMBERED = 8192

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Reason(StrEnum):
    """Why an event is sent: what it says in one word."""

    LINKED = "Linked"
    WAITING_FOR_PEER = "WaitingForPeer"
    LINK_LOST = "LinkLost"
    INVALID_INTENT = "InvalidIntent"
    NO_COMMON_ADDRESS_FAMILY = "NoCommonAddressFamily"
    WANTS_RESTART = "WantsRestart"

    @classmethod
    def of(cls, error: AddressFamilyError | InvalidIntentError) -> Reason:
        """The reason for an Event about a link that cannot be made."""
        return cls.NO_COMMON_ADDRESS_FAMILY if isinstance(error, AddressFamilyError) else cls.INVALID_INTENT

    @property
    def type(self) -> EventType:
        return EventType.NORMAL if self in _USUAL else EventType.WARNING


_USUAL = (Reason.LINKED, Reason.WAITING_FOR_PEER, Reason.WANTS_RESTART)


@dataclass(slots=True)
class _Bucket:
    """Tokens that come back with time: `tokens` there were at `at`, the clock's value in seconds."""

    size: int
    rate: float
    tokens: float
    at: float

    def holds_one(self, now: float) -> bool:
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        return self.tokens >= 1.0

    def take(self) -> None:
        self.tokens -= 1.0

    @property
    def full_at(self) -> float:
        """When it will be as if it had never been used."""
        return self.at + (self.size - self.tokens) / self.rate


class Limiter:
    """Which events are sent: none twice within five minutes, and not too many of one pod or of this node.

    A pod has a burst of POD_BURST and then one in 30 s, the node NODE_BURST and then NODE_RATE a second. It has no
    clock: `now` is the caller's, in seconds, and never goes back. What it remembers is bounded; where that is too
    little, it lets through more than it should.
    """

    def __init__(self) -> None:
        self._said: OrderedDict[tuple[str, str, int], float] = OrderedDict()
        self._pods: OrderedDict[str, _Bucket] = OrderedDict()
        self._node = _Bucket(NODE_BURST, NODE_RATE, NODE_BURST, 0.0)

    def allows(self, uid: str, reason: str, message: str, now: float) -> bool:
        """Whether this event of the pod with this UID is to be sent now; if so, it counts as sent."""
        self._forget_the_past(now)
        # The hash in the text's place: messages are long, and one taken for another costs no more than an event.
        event = (uid, reason, hash(message))
        pod = self._pods.get(uid) or _Bucket(POD_BURST, POD_RATE, POD_BURST, now)
        if event in self._said or not pod.holds_one(now) or not self._node.holds_one(now):
            return False
        pod.take()
        self._node.take()
        self._said[event] = now
        self._pods[uid] = pod
        self._pods.move_to_end(uid)
        return True

    def _forget_the_past(self, now: float) -> None:
        """Drop what no longer makes a difference; both are in the order of their last use."""
        while self._said and (self._first(self._said) + REPEAT_SECONDS <= now or len(self._said) >= _REMEMBERED):
            self._said.popitem(last=False)
        while self._pods and (self._first(self._pods).full_at <= now or len(self._pods) >= _REMEMBERED):
            self._pods.popitem(last=False)

    @staticmethod
    def _first(entries: OrderedDict[_Key, _Value]) -> _Value:
        return next(iter(entries.values()))


@dataclass(frozen=True, slots=True)
class _Event:
    """An event that waits to be sent, or to be sent again."""

    pod: PodRef
    reason: Reason
    message: str
    at: datetime
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
    """

    def __init__(
        self,
        api: ApiServer,
        node: str,
        metrics: Metrics,
        *,
        events: bool,
        readiness: bool,
        give_way: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        pauses: tuple[float, float] = (FIRST_PAUSE, LONGEST_PAUSE),
    ) -> None:
        self._api = api
        self._node = node
        self._metrics = metrics
        self._events_wanted = events
        self._conditions_wanted = readiness
        self._give_way = give_way
        self._clock = clock
        self._now = now
        self._first_pause, self._longest_pause = pauses
        # All below is guarded by the lock of `_changed`.
        self._changed = threading.Condition()
        self._limiter = Limiter()
        self._events: deque[_Event] = deque()
        self._pods: dict[str, _Told] = {}
        self._pause = 0.0
        self._away_until = 0.0
        self._forbidden: set[str] = set()
        self._ends: float | None = None
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    def event(self, pod: PodRef, reason: Reason, message: str) -> None:
        """Tell what happened to a pod, unless it was told just now or too much is being told."""
        if not self._events_wanted:
            return
        with self._changed:
            room = self._ends is None and len(self._events) < EVENTS_KEPT
            if room and self._limiter.allows(pod.uid, reason, message, self._clock()):
                self._events.append(_Event(pod, reason, message[:MESSAGE_LENGTH], self._now()))
                self._changed.notify()
            else:
                self._metrics.event_dropped()

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
                self._ends = self._clock() + seconds
            self._away_until = 0.0
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            left = len(self._events) + sum(told.wish is not None for told in self._pods.values())
        if left:
            log.warning("cannot announce %d more: it is time to end", left)

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
                now, due = self._clock(), self._due()
                if self._ends is not None and (due is None or due > now or now >= self._ends):
                    return None
                if due is not None and due <= now:
                    return self._taken(now)
                self._changed.wait(None if due is None else due - now)

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
            self._metrics.event_dropped()
            self._refused(error, "event", "create", "events")
        except Exception:
            self._metrics.event_dropped()
            log.exception("a fault in an event")
        else:
            self._answered("event")

    def _send_again(self, event: _Event) -> None:
        """Behind the others: where the API fails for one namespace alone, the rest go on."""
        with self._changed:
            if event.tries + 1 < EVENT_TRIES and len(self._events) < EVENTS_KEPT:
                self._events.append(replace(event, tries=event.tries + 1))
            else:
                self._metrics.event_dropped()

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
