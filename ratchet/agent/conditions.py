"""The conditions of pods that are still to be written: only the newest of each pod."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime

from ratchet.core.pod import PodRef
from ratchet.store.announcements import LINKED_CONDITION, MESSAGE_LENGTH

log = logging.getLogger(__name__)

PODS_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition `ratchet/linked` of a pod. `since` is the time of its last transition.

    Two conditions that differ only in `since` are equal: the second one is not written.
    """

    pod: PodRef
    linked: bool
    reason: str
    message: str
    since: datetime = field(compare=False)


@dataclass(slots=True)
class _PodCondition:
    """The condition of a pod.

    `desired` is to be written at `due`, a clock value. `written` is what the pod has, if that is known. `writing`:
    `desired` may be on its way to the API.
    """

    desired: Condition | None = None
    written: Condition | None = None
    writing: bool = False
    due: float = 0.0


class Conditions:
    """The conditions of at most PODS_KEPT pods, by UID. Not thread-safe.

    It has no clock: the caller passes the values of one.
    """

    def __init__(self) -> None:
        self._pods: dict[str, _PodCondition] = {}

    def __len__(self) -> int:
        """The number of pods whose conditions are known or to be written."""
        return len(self._pods)

    @property
    def uids(self) -> set[str]:
        """The UIDs of these pods."""
        return set(self._pods)

    @property
    def pending(self) -> int:
        """The number of conditions that are still to be written."""
        return sum(one.desired is not None for one in self._pods.values())

    @property
    def due(self) -> float | None:
        """The clock value at which the next condition is to be written; None if there is none."""
        return min((one.due for one in self._pods.values() if one.desired is not None), default=None)

    def want(self, pod: PodRef, linked: bool, reason: str, message: str, at: datetime) -> None:
        """Want a pod's condition from `at` on. It replaces a condition of the pod that is still to be written."""
        one = self._of(pod)
        if one is None:
            return
        last = one.desired or one.written
        since = last.since if last is not None and last.linked == linked else at
        desired = Condition(pod, linked, reason, message[:MESSAGE_LENGTH], since)
        one.desired = desired if desired != one.written or one.writing else None

    def forget(self, uid: str) -> None:
        """Forget a pod that is gone or has no links any more."""
        self._pods.pop(uid, None)

    def take(self, now: float) -> Condition | None:
        """The next condition to be written; None if none is due. The caller calls `settle` after the try."""
        for one in self._pods.values():
            if one.desired is not None and one.due <= now:
                one.writing = True
                return one.desired
        return None

    def settle(self, tried: Condition, *, written: Condition | None, retry: bool, due: float = 0.0) -> None:
        """Note the result of a try, and put the pod behind the others.

        `written` is what the pod has now, if that is known. With `retry`, the condition is tried again at `due`. A
        condition that was wanted meanwhile stays.
        """
        one = self._pods.pop(tried.pod.uid, None)
        if one is None:
            return  # the pod was forgotten meanwhile
        one.writing, one.written, one.due = False, written, due
        if not retry and one.desired == tried:
            one.desired = None
        self._pods[tried.pod.uid] = one

    def _of(self, pod: PodRef) -> _PodCondition | None:
        """The entry of a pod; None if the conditions of too many other pods are still to be written."""
        if pod.uid not in self._pods and len(self._pods) >= PODS_KEPT:
            settled = next((uid for uid, one in self._pods.items() if one.desired is None), None)
            if settled is None:
                log.warning("cannot set condition: too many pods condition=%s pod=%s", LINKED_CONDITION, pod)
                return None
            del self._pods[settled]
        return self._pods.setdefault(pod.uid, _PodCondition())
