"""Events of pods: reasons, and the collector that combines changes of a pod's links into one Event.

A `Collector` has no clock and does no I/O: the caller passes `now`, in seconds, which never goes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import accumulate, chain, takewhile

from ratchet.core.pod import PodRef
from ratchet.errors import AddressFamilyError, InvalidIntentError, RatchetError
from ratchet.store.announcements import EventType

COLLECT_SECONDS = 1.0
CHANGES_KEPT = 1024
_SEPARATOR = "; "


class Reason(StrEnum):
    """The reason of an Event, one word in CamelCase (core/v1, Event.reason)."""

    LINKED = "Linked"
    WAITING_FOR_PEER = "WaitingForPeer"
    LINK_LOST = "LinkLost"
    LINK_FAILED = "LinkFailed"
    TUNNEL_RESET = "TunnelReset"
    INVALID_INTENT = "InvalidIntent"
    NO_COMMON_ADDRESS_FAMILY = "NoCommonAddressFamily"
    WANTS_RESTART = "WantsRestart"
    NAME_TAKEN = "NameTaken"
    DATAGRAMS_DROPPED = "DatagramsDropped"
    OPERATION_STARTED = "OperationStarted"
    OPERATION_ENDED = "OperationEnded"
    OPERATION_REFUSED = "OperationRefused"

    @classmethod
    def of(cls, error: RatchetError) -> Reason:
        """The reason of an Event about a link that cannot be created."""
        if isinstance(error, AddressFamilyError):
            return cls.NO_COMMON_ADDRESS_FAMILY
        return cls.INVALID_INTENT if isinstance(error, InvalidIntentError) else cls.LINK_FAILED

    @property
    def type(self) -> EventType:
        return EventType.NORMAL if self in _NORMAL else EventType.WARNING


_NORMAL = (
    Reason.LINKED,
    Reason.WAITING_FOR_PEER,
    Reason.WANTS_RESTART,
    Reason.OPERATION_STARTED,
    Reason.OPERATION_ENDED,
)


@dataclass(slots=True)
class Batch:
    """The changes of a pod's interfaces that one Event reports.

    `due`: the value of the collector's `now` at which the Event is sent. `at`: the time of the newest change. `texts`:
    the newest text of each interface.
    """

    pod: PodRef
    reason: Reason
    due: float
    at: datetime
    texts: dict[str, str] = field(default_factory=dict)


class Collector:
    """Collects changes of the interfaces of pods for `seconds`, at most `limit` changes at a time.

    The changes of a pod with the same reason are one batch. `Linked` removes the `WaitingForPeer` of its interface. If
    an interface changes from one reason to another in any other way, the former batch is closed and is due at once.
    Therefore Events report the changes of an interface in their order, and a flap does not hide its `LinkLost`.
    """

    def __init__(self, seconds: float = COLLECT_SECONDS, limit: int = CHANGES_KEPT) -> None:
        self._seconds = seconds
        self._limit = limit
        self._changes = 0
        self._closed: list[Batch] = []
        self._open: dict[tuple[str, Reason], Batch] = {}  # in the order of `due`

    @property
    def due(self) -> float | None:
        """The value of `now` at which the next batch is due; None if there is no batch."""
        return next((batch.due for batch in chain(self._closed, self._open.values())), None)

    def add(self, pod: PodRef, reason: Reason, interface: str, text: str, now: float, at: datetime) -> bool:
        """Collect a change of a pod's interface at the time `at`.

        Returns False if it is a repeat or the collector is full.
        """
        if reason is Reason.LINKED:
            self._stop_waiting(pod.uid, interface)
        batch = self._open.get((pod.uid, reason))
        known = batch.texts.get(interface) if batch is not None else None
        if known == text or (known is None and self._changes >= self._limit):
            return False
        self._close_others(pod.uid, reason, interface, now)
        if batch is None:
            batch = self._open[pod.uid, reason] = Batch(pod, reason, now + self._seconds, at)
        self._changes += known is None
        batch.texts[interface] = text
        batch.at = at
        return True

    def take(self, now: float) -> list[Batch]:
        """Remove the batches that are due, in the order in which they are to be sent."""
        return self._removed(list(takewhile(lambda batch: batch.due <= now, self._open.values())))

    def take_all(self) -> list[Batch]:
        """Remove all batches, in the order in which they are to be sent."""
        return self._removed(list(self._open.values()))

    def _removed(self, batches: Sequence[Batch]) -> list[Batch]:
        """Remove the closed batches and these open ones."""
        for batch in batches:
            del self._open[batch.pod.uid, batch.reason]
        taken, self._closed = [*self._closed, *batches], []
        self._changes -= sum(len(batch.texts) for batch in taken)
        return taken

    def _stop_waiting(self, uid: str, interface: str) -> None:
        key = (uid, Reason.WAITING_FOR_PEER)
        waiting = self._open.get(key)
        if waiting is not None and waiting.texts.pop(interface, None) is not None:
            self._changes -= 1
            if not waiting.texts:
                del self._open[key]

    def _close_others(self, uid: str, reason: Reason, interface: str, now: float) -> None:
        for other in Reason:
            batch = self._open.get((uid, other)) if other is not reason else None
            if batch is not None and interface in batch.texts:
                del self._open[uid, other]
                batch.due = now
                self._closed.append(batch)


def event_message(texts: Sequence[str], limit: int) -> tuple[str, int]:
    """A line of at most `limit` characters that lists one or more texts, and the number of listed texts.

    If some texts do not fit, the line ends with their number. If the first text does not fit, it is cut.
    """
    lengths = list(accumulate(len(text) + len(_SEPARATOR) for text in texts))
    others = ""
    for listed in range(len(texts), 0, -1):
        others = f"{_SEPARATOR}and {len(texts) - listed} more" if listed < len(texts) else ""
        if lengths[listed - 1] - len(_SEPARATOR) + len(others) <= limit:
            return _SEPARATOR.join(texts[:listed]) + others, listed
    return texts[0][: limit - len(others)] + others, 1
