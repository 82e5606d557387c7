"""The limits of Events: repeats are suppressed, and a pod and the node have a maximum rate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

REPEAT_SECONDS = 300.0
POD_BURST, POD_RATE = 20, 1 / 30
NODE_BURST, NODE_RATE = 50, 50.0

_REMEMBERED = 8192

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(slots=True)
class _Bucket:
    """A token bucket. It had `tokens` at `at`, a clock value in seconds.

    It regains `rate` tokens per second, up to `size`.
    """

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
        """The clock value at which the bucket is full again."""
        return self.at + (self.size - self.tokens) / self.rate


class Limiter:
    """Suppresses repeats of a text for REPEAT_SECONDS, and limits the rate per pod and per node.

    A pod has a burst of POD_BURST Events and then POD_RATE per second, the node NODE_BURST and then NODE_RATE. A
    limiter has no clock: the caller passes `now`, in seconds, which never goes back. Its memory is bounded; if it is
    full, the limiter forgets the oldest texts and pods, and allows more.
    """

    def __init__(self) -> None:
        self._sent: OrderedDict[tuple[str, str, int], float] = OrderedDict()
        self._pods: OrderedDict[str, _Bucket] = OrderedDict()
        self._node = _Bucket(NODE_BURST, NODE_RATE, NODE_BURST, 0.0)

    def is_repeat(self, uid: str, reason: str, text: str, now: float) -> bool:
        """Whether an Event of this pod had the text and the reason less than REPEAT_SECONDS ago."""
        sent = self._sent.get(_key(uid, reason, text))
        return sent is not None and now < sent + REPEAT_SECONDS

    def allows(self, uid: str, reason: str, texts: Iterable[str], now: float) -> bool:
        """Whether an Event of this pod may be sent now; if so, it and its texts count as sent."""
        self._drop_expired(now)
        pod = self._pods.get(uid) or _Bucket(POD_BURST, POD_RATE, POD_BURST, now)
        if not pod.holds_one(now) or not self._node.holds_one(now):
            return False
        pod.take()
        self._node.take()
        for text in texts:
            key = _key(uid, reason, text)
            self._sent[key] = now
            self._sent.move_to_end(key)
        self._pods[uid] = pod
        self._pods.move_to_end(uid)
        return True

    def forget(self, uid: str, reason: str) -> None:
        """Forget the texts of a pod with this reason, so that none of them is a repeat."""
        for key in [key for key in self._sent if key[:2] == (uid, reason)]:
            del self._sent[key]

    def _drop_expired(self, now: float) -> None:
        """Remove texts and pods that have no effect any more; both are in the order of their last use."""
        while self._sent and (self._first(self._sent) + REPEAT_SECONDS <= now or len(self._sent) >= _REMEMBERED):
            self._sent.popitem(last=False)
        while self._pods and (self._first(self._pods).full_at <= now or len(self._pods) >= _REMEMBERED):
            self._pods.popitem(last=False)

    @staticmethod
    def _first(entries: OrderedDict[_Key, _Value]) -> _Value:
        return next(iter(entries.values()))


def _key(uid: str, reason: str, text: str) -> tuple[str, str, int]:
    """The key of a text. It has the text's hash, because texts are long; a collision suppresses one Event."""
    return uid, reason, hash(text)
