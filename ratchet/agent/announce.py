"""The announcer: sends Events and conditions of pods from a thread of its own.

Nothing waits for them. Events are sent at best effort (`event_queue`). Of each pod's condition the newest is retried
until it is written or the pod is gone (`conditions`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from ratchet.agent.conditions import Condition, Conditions
from ratchet.agent.event_queue import EventQueue, QueuedEvent
from ratchet.agent.events import COLLECT_SECONDS, Reason
from ratchet.agent.logs import about
from ratchet.agent.metrics import Metrics
from ratchet.agent.priority import BACKGROUND_WAITS_SECONDS, ForegroundGate
from ratchet.core.pod import Pod, PodRef
from ratchet.errors import ApiUnavailableError, ConflictError, RatchetError
from ratchet.store.announcements import LINKED_CONDITION, record_event, set_condition
from ratchet.store.api_errors import AdmissionDeniedError, ForbiddenError, NamespaceTerminatingError, NotFoundError
from ratchet.store.apiserver import ApiServer

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


class Announcer:
    """Announces the state of links on the pods of `node`, by Events and by a condition.

    Thread-safe. Methods do not block, except `close`, and do not raise. Calls go first (`foreground`). `clock` returns
    monotonic seconds, `now` the wall-clock time. `pauses` are the first and the longest delay in seconds after which an
    API that did not answer is asked again. `collect`: seconds for which changes of a pod's links are collected.
    """

    def __init__(
        self,
        api: ApiServer,
        node: str,
        metrics: Metrics,
        *,
        events: bool,
        readiness: bool,
        foreground: ForegroundGate | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        pauses: tuple[float, float] = (FIRST_PAUSE, LONGEST_PAUSE),
        collect: float = COLLECT_SECONDS,
    ) -> None:
        self._api = api
        self._node = node
        self._metrics = metrics
        self._events_enabled = events
        self._conditions_enabled = readiness
        self._foreground = foreground or ForegroundGate()
        self._clock = clock
        self._now = now
        self._first_pause, self._longest_pause = pauses
        # The lock of `_changed` guards all that follows.
        self._changed = threading.Condition()
        self._events = EventQueue(collect, metrics)
        self._conditions = Conditions()
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
        if not self._events_enabled:
            return
        with self._changed:
            idle = self._events.batch_due is None
            if self._ends is None:
                self._events.add(pod, reason, text, interface, self._clock(), self._now())
            else:
                self._metrics.event_dropped()
                self._events.collect(self._clock())
            if self._events or idle:
                self._changed.notify()

    def condition(self, pod: Pod, linked: bool, reason: str, message: str) -> None:
        """Set the pod's condition if the pod has the readiness gate. It replaces one that is not written yet."""
        if not self._conditions_enabled or LINKED_CONDITION not in pod.gates:
            return
        with self._changed:
            if self._ends is None:
                self._conditions.want(pod.ref, linked, reason, message, self._now())
                self._changed.notify()

    def forget(self, uid: str) -> None:
        """Drop the condition of a pod that is gone or has no links any more."""
        with self._changed:
            self._conditions.forget(uid)

    def close(self, seconds: float) -> None:
        """Send what is left, for at most `seconds`, and accept nothing more."""
        with self._changed:
            if self._ends is None:
                self._events.collect_all(self._clock())
                self._ends = self._clock() + seconds
            self._away_until = 0.0
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            events, conditions = len(self._events), self._conditions.pending
        if events or conditions:
            log.warning("announcements dropped at shutdown events=%d conditions=%d", events, conditions)

    # The announcer's thread

    def _run(self) -> None:
        while (work := self._next()) is not None:
            if self._ends is None:
                self._foreground.yield_to_calls(BACKGROUND_WAITS_SECONDS)
            with about(pod=work.pod):
                if isinstance(work, QueuedEvent):
                    self._send(work)
                else:
                    self._write(work)

    def _next(self) -> QueuedEvent | Condition | None:
        """Wait for the next Event or condition to be sent; None at the end."""
        with self._changed:
            while True:
                now = self._clock()
                self._events.collect(now)
                due, batch_due = self._due(), self._events.batch_due
                if self._ends is not None and (due is None or due > now or now >= self._ends):
                    return None
                if due is not None and due <= now:
                    # Conditions go first, because pods wait for them.
                    return self._conditions.take(now) or self._events.pop()
                next_due = min((one for one in (due, batch_due) if one is not None), default=None)
                self._changed.wait(None if next_due is None else next_due - now)

    def _due(self) -> float | None:
        """The clock value at which there is something to send; None if there is nothing."""
        due = 0.0 if self._events else self._conditions.due
        return None if due is None else max(self._away_until, due)

    def _send(self, event: QueuedEvent) -> None:
        try:
            record_event(
                self._api, event.pod, event.reason, event.message, event.reason.type, now=event.at, host=self._node
            )
        except ApiUnavailableError as error:
            self._back_off(error)
            with self._changed:
                self._events.retry(event)
        except RatchetError as error:
            self._metrics.event_dropped(event.changes)
            self._log_rejected(error, "event", "create", "events")
        except Exception:
            self._metrics.event_dropped(event.changes)
            log.exception("Event dropped: a bug in ratchet")
        else:
            self._note_success("event")

    def _write(self, condition: Condition) -> None:
        try:
            set_condition(
                self._api, condition.pod, condition.linked, condition.reason, condition.message, condition.since
            )
        except (NotFoundError, ConflictError):
            self.forget(condition.pod.uid)
        except ApiUnavailableError as error:
            self._back_off(error)
            self._settle(condition, written=None, retry=True)
        except (ForbiddenError, AdmissionDeniedError) as error:
            self._log_rejected(error, "condition", "patch", "pods/status")
            self._settle(condition, written=None, retry=True, due=self._clock() + self._longest_pause)
        except RatchetError as error:
            self._log_rejected(error, "condition", "patch", "pods/status")
            self._settle(condition, written=None, retry=False)
        except Exception:
            log.exception("condition dropped: a bug in ratchet")
            self._settle(condition, written=None, retry=False)
        else:
            self._note_success("condition")
            self._settle(condition, written=condition, retry=False)

    def _settle(self, tried: Condition, *, written: Condition | None, retry: bool, due: float = 0.0) -> None:
        with self._changed:
            self._conditions.settle(tried, written=written, retry=retry, due=due)

    def _back_off(self, error: ApiUnavailableError) -> None:
        """Send nothing for a while, twice as long each time. The first time is logged."""
        if not self._pause:
            log.warning('announcements delayed cause="%s"', error)
        with self._changed:
            self._pause = min(self._longest_pause, self._pause * 2 or self._first_pause)
            self._away_until = self._clock() + self._pause
            if self._ends is not None:
                self._ends = self._clock()

    def _note_success(self, kind: str) -> None:
        with self._changed:
            self._pause = 0.0
            self._forbidden.discard(kind)

    def _log_rejected(self, error: RatchetError, kind: str, verb: str, resource: str) -> None:
        """Log a rejected announcement, except if the pod or its namespace is being deleted.

        A missing permission and a denial by admission are logged once until an announcement of this kind succeeds.
        """
        if isinstance(error, NotFoundError | ConflictError | NamespaceTerminatingError):
            return
        if not isinstance(error, ForbiddenError | AdmissionDeniedError):
            log.warning('%s rejected cause="%s"', kind, error)
        elif kind not in self._forbidden:
            self._forbidden.add(kind)
            if isinstance(error, ForbiddenError):
                log.warning('%s forbidden: grant the verb %s for %s cause="%s"', kind, verb, resource, error)
            else:
                log.warning('%s denied: %s cause="%s"', kind, error.details, error)
