"""The state behind the API: objects, one resourceVersion counter, bounded histories and subscriptions.

Objects handed in and out are shared, never copied: nobody may change them. All methods may be called from
any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ratchet.dev.api.kinds import KINDS, JsonObject, ResourceKind
from ratchet.dev.api.status import expired

Key = tuple[str, str]
"""Namespace ("" for cluster-scoped objects) and name."""


@dataclass(frozen=True)
class Change:
    """One write: ``type`` is ADDED, MODIFIED or DELETED.

    ``object`` is the state after the write; for DELETED it is the last state, carrying the resourceVersion
    of the deletion. ``previous`` is the state before, None for ADDED.
    """

    version: int
    type: str
    object: JsonObject
    previous: JsonObject | None


class Subscription:
    """Changes of one kind, queued in order for one reader."""

    def __init__(self, wake: Callable[[], None], pending: deque[Change], version: int) -> None:
        self._wake = wake
        self._pending = pending
        self.start_version = version
        self.closed = False

    def push(self, change: Change) -> None:
        """Queue a change and wake the reader."""
        self._pending.append(change)
        self._wake()

    def close(self) -> None:
        """Tell the reader that nothing more will come."""
        self.closed = True
        self._wake()

    def take(self) -> Change | None:
        """The next queued change, or None when there is none at the moment."""
        try:
            return self._pending.popleft()
        except IndexError:
            return None


@dataclass
class _Collection:
    objects: dict[Key, JsonObject] = field(default_factory=dict)
    history: deque[Change] = field(default_factory=deque)
    forgotten: int = 0
    subscriptions: list[Subscription] = field(default_factory=list)


def key_of(obj: JsonObject) -> Key:
    """The key under which an object is stored."""
    meta = obj["metadata"]
    return meta.get("namespace", ""), meta["name"]


class Storage:
    """Objects by kind with a single resourceVersion counter, like one etcd.

    Args:
        history_size: changes kept per kind for watches that start in the past.
        first_version: where the counter starts; a server whose state is lost should start above any version
            it handed out before, so that old watches get 410 rather than silence.
    """

    def __init__(self, history_size: int = 1000, first_version: int = 1) -> None:
        self.lock = threading.RLock()
        self._history_size = history_size
        self._version = first_version
        self._collections = {kind: _Collection(forgotten=first_version - 1) for kind in KINDS}
        self._listeners: list[Callable[[ResourceKind, Change], None]] = []

    @property
    def version(self) -> int:
        """The resourceVersion of the latest write."""
        return self._version

    def get(self, kind: ResourceKind, key: Key) -> JsonObject | None:
        """The object stored under ``key``, or None."""
        return self._collections[kind].objects.get(key)

    def list(self, kind: ResourceKind, namespace: str = "") -> tuple[list[JsonObject], int]:
        """Objects in key order, of one namespace or of all (""), and the version they are read at."""
        with self.lock:
            objects = self._collections[kind].objects
            keys = sorted(key for key in objects if not namespace or key[0] == namespace)
            return [objects[key] for key in keys], self._version

    def add(self, kind: ResourceKind, obj: JsonObject) -> JsonObject:
        """Store a new object; returns it with its resourceVersion. The key must be free."""
        with self.lock:
            return self._write(kind, "ADDED", obj, None)

    def modify(self, kind: ResourceKind, obj: JsonObject) -> JsonObject:
        """Store the next state of an object; returns it with its new resourceVersion. The key must exist."""
        with self.lock:
            return self._write(kind, "MODIFIED", obj, self._collections[kind].objects[key_of(obj)])

    def remove(self, kind: ResourceKind, key: Key) -> JsonObject:
        """Remove an object; returns its last state with the deletion's resourceVersion. It must exist."""
        with self.lock:
            last = self._collections[kind].objects[key]
            return self._write(kind, "DELETED", last, last)

    def _write(self, kind: ResourceKind, change_type: str, obj: JsonObject, previous: JsonObject | None) -> JsonObject:
        collection = self._collections[kind]
        self._version += 1
        stamped = with_version(obj, self._version)
        if change_type == "DELETED":
            del collection.objects[key_of(stamped)]
        else:
            collection.objects[key_of(stamped)] = stamped
        change = Change(self._version, change_type, stamped, previous)
        collection.history.append(change)
        while len(collection.history) > self._history_size:
            collection.forgotten = collection.history.popleft().version
        for subscription in collection.subscriptions:
            subscription.push(change)
        for listener in tuple(self._listeners):
            listener(kind, change)
        return stamped

    def listen(self, listener: Callable[[ResourceKind, Change], None]) -> Callable[[], None]:
        """Call ``listener`` in the writing thread after every write; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def subscribe(self, kind: ResourceKind, wake: Callable[[], None], since: int | None = None) -> Subscription:
        """Changes of ``kind`` after version ``since`` (None: from now on), in order and without gaps.

        Raises:
            ApiError: 410 Expired when the history no longer reaches back to ``since``.
        """
        with self.lock:
            collection = self._collections[kind]
            if since is not None and since < collection.forgotten:
                raise expired(since, collection.forgotten)
            missed = (change for change in collection.history if since is not None and change.version > since)
            subscription = Subscription(wake, deque(missed), self._version)
            collection.subscriptions.append(subscription)
            return subscription

    def unsubscribe(self, kind: ResourceKind, subscription: Subscription) -> None:
        """Stop feeding a subscription."""
        with self.lock:
            if subscription in self._collections[kind].subscriptions:
                self._collections[kind].subscriptions.remove(subscription)

    def close_subscriptions(self) -> None:
        """End every subscription, as a server that shuts down does."""
        with self.lock:
            for collection in self._collections.values():
                for subscription in collection.subscriptions:
                    subscription.close()

    def compact(self) -> None:
        """Forget all history: watches from a version before the present one get 410 Expired."""
        with self.lock:
            for collection in self._collections.values():
                collection.history.clear()
                collection.forgotten = self._version


def with_version(obj: JsonObject, version: int) -> JsonObject:
    """The object with another resourceVersion; the given one stays as it is."""
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version)}}
