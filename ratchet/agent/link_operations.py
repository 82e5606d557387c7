"""The operations that act on this node's links: since when, and what they make of a link now.

Each agent follows its own watch, and counts by its own clock since boot.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from ratchet.agent.events import Reason
from ratchet.agent.operation_files import ActiveOperation, OperationFiles
from ratchet.agent.queue import ReconcileKey, ReconcileKind, ReconcileQueue
from ratchet.core.duration import duration_text
from ratchet.core.escape import excerpt
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link
from ratchet.core.operations import Operation, Operations, RecordedOperation
from ratchet.core.overrides import AS_DECLARED, Override, key_of, operation_keys, phase_of, sender_side
from ratchet.node.journal import Journal, since_boot
from ratchet.node.record_writer import wall_clock
from ratchet.store.topologies import OperationsChange

log = logging.getLogger(__name__)

# Seconds for which an operation that only the record has may still be on its way to this node's watch.
DOUBT_SECONDS = 5.0


class News(NamedTuple):
    """A change of the operation on a link, for an Event."""

    reason: Reason
    text: str


class _Found(NamedTuple):
    """The operation on a link as far as it is known. `cause`: why it cannot be read; empty if it can."""

    operation: Operation | None = None
    cause: str = ""


class LinkOperations:
    """The operations on the links of one node. Thread-safe.

    `records` has the cached record of a link, or None. `clock` returns seconds since boot, `now` the wall clock.
    """

    def __init__(
        self,
        files: OperationFiles,
        journal: Journal,
        queue: ReconcileQueue,
        records: Callable[[str], Link | None],
        clock: Callable[[], float] = since_boot,
        now: Callable[[], datetime] = wall_clock,
    ) -> None:
        self._files = files
        self._journal = journal
        self._queue = queue
        self._records = records
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._known: dict[str, Operations] = {}  # by namespace
        self._seen: dict[str, dict[tuple[str, str], float]] = {}  # by namespace: when a watch reported a key and its ID
        self._active = files.load()
        self._ended = set[str]()  # links whose operation is over, as was reported
        self._refused: dict[str, str] = {}  # why a link's operation does not act, by link
        # The ID of a recorded operation that this node does not know, and since when, by link.
        self._doubted: dict[str, tuple[str, float]] = {}
        self._news: dict[str, list[News]] = {}

    def changed(self, namespace: str, change: OperationsChange) -> None:
        """Take over the operations of a namespace, and queue the links that they concern."""
        with self._lock:
            before, after = self._known.pop(namespace, Operations({}, {})), change.operations
            held = {link for link, active in self._active.items() if active.namespace == namespace}
            if after is None:
                self._seen.pop(namespace, None)
                for link in held:
                    self._forget(link)
                return
            self._known[namespace] = after
            self._note_seen(namespace, after, watched=change.watched)
            for link in [one for one in held if self._records(one) is None and not self._is_set(one)]:
                self._forget(link)
        for link in held | self._concerned(namespace, before, after):
            self._queue.enqueue_link(link)

    def of(self, link: str) -> Override:
        """What an operation makes of a link now, by the name of its record."""
        record = self._records(link)
        if record is None:
            return AS_DECLARED
        with self._lock:
            known = self._known.get(record.namespace)
            if (known is None or known.is_empty) and link not in self._active and link not in self._refused:
                return AS_DECLARED  # nearly always, and on the path of every pod start
            return self._override(record)

    def recorded(self, record: Link) -> RecordedOperation | None:
        """The operation that a link's record must have. The agent that has begun it first records its start."""
        with self._lock:
            before, active = record.operation, self._active.get(record.name)
            if active is None:
                return before if before is None or self._may_come(record, before) else None
            if before is not None and before.id == active.operation.id:
                return before
            return active.operation.recorded(self._now() - timedelta(seconds=self._clock() - active.began))

    def forget(self, link: str) -> None:
        """Forget what is known of a link of which this node no longer has an end.

        An operation on it goes on while it is set: the pod may start again.
        """
        with self._lock:
            for of_link in (self._refused, self._doubted, self._news):
                of_link.pop(link, None)
            if not self._is_set(link):
                self._forget(link)

    def take_news(self, link: str) -> list[News]:
        """What is to be announced of a link's operation, once."""
        with self._lock:
            return self._news.pop(link, [])

    # With the lock held

    def _override(self, record: Link) -> Override:
        link, found = record.name, self._find(record)
        active = self._active.get(link)
        if found.operation is None and not found.cause:
            self._end(link, active)
            return AS_DECLARED
        if cause := found.cause or self._refusal(record, found.operation):
            self._refuse(link, cause)
            return self._act(record, active) if active is not None and found.cause else AS_DECLARED
        self._refused.pop(link, None)
        if found.operation is not None and (active is None or active.operation.id != found.operation.id):
            active = self._begin(record, found.operation)
        return self._act(record, active) if active is not None else AS_DECLARED

    def _find(self, record: Link) -> _Found:
        """The operation on a link. Unknown is not absent: one that has begun then goes on."""
        known, active = self._known.get(record.namespace), self._active.get(record.name)
        if known is None:
            return _Found(active.operation if active is not None else None)
        if known.fault:
            return _Found(cause=f"cannot read the operations of namespace {record.namespace}: {known.fault}")
        key = key_of(known, record)
        if key is None:
            return _Found()
        if key in known.invalid:
            return _Found(cause=f"cannot read the operation {key}: {known.invalid[key]}")
        return _Found(known.valid[key])

    def _refusal(self, record: Link, operation: Operation | None) -> str:
        """Why an operation cannot act on a link; empty if it can."""
        if operation is None:
            return ""
        if record.wiring is Wiring.DIRECT:
            return f"cannot apply {operation.words}: the link is in direct wiring, and operations need panel wiring"
        try:
            sender_side(operation, record)
        except ValueError as cause:
            return f"cannot apply {operation.words}: {cause}"
        return ""

    def _begin(self, record: Link, operation: Operation) -> ActiveOperation:
        active = ActiveOperation(record.namespace, operation, self._start(record, operation))
        self._active[record.name] = active
        self._ended.discard(record.name)
        self._files.save(record.name, active)
        log.info('operation begun link=%s operation="%s" by="%s"', record.name, operation.words, operation.by)
        seconds = f" for {duration_text(operation.seconds)}" if operation.seconds is not None else ""
        self._tell(record.name, Reason.OPERATION_STARTED, f"{operation.words}{seconds}{_by(operation)}")
        return active

    def _start(self, record: Link, operation: Operation) -> float:
        """When an operation began, in seconds since boot: when it was set, if the watch or the record tells."""
        key = key_of(self._known[record.namespace], record) or record.name
        seen = self._seen.get(record.namespace, {}).get((key, operation.id))
        if seen is not None:
            return seen
        recorded = record.operation
        if recorded is None or recorded.id != operation.id:
            return self._clock()
        return self._clock() - max(0.0, (self._now() - recorded.since).total_seconds())

    def _act(self, record: Link, active: ActiveOperation) -> Override:
        """What an operation that has begun makes of the link now. The link is reconciled again when that changes."""
        operation = active.operation
        if self._refusal(record, operation):
            return AS_DECLARED
        phase = phase_of(operation, self._clock() - active.began, sender_side(operation, record))
        if phase.ended and record.name not in self._ended:
            self._ended.add(record.name)
            log.info('operation over link=%s operation="%s"', record.name, operation.words)
            self._tell(record.name, Reason.OPERATION_ENDED, f"{operation.words}{_by(operation)} is over")
        elif phase.seconds is not None:
            self._queue.add(ReconcileKey(ReconcileKind.LINK, "", record.name), after=phase.seconds)
        return phase.override

    def _end(self, link: str, active: ActiveOperation | None) -> None:
        """End the operation on a link, which is removed from the ConfigMap."""
        if active is not None and link not in self._ended:
            operation = active.operation
            log.info('operation removed link=%s operation="%s"', link, operation.words)
            self._tell(link, Reason.OPERATION_ENDED, f"{operation.words}{_by(operation)} was removed")
        self._forget(link)
        if active is not None:
            self._doubted[link] = active.operation.id, float("-inf")

    def _is_set(self, link: str) -> bool:
        """Whether the operation that has begun on a link is among those of its namespace, or may be."""
        active = self._active.get(link)
        known = self._known.get(active.namespace) if active is not None else None
        if active is None or known is None or known.fault or known.invalid:
            return active is not None
        return any(one.id == active.operation.id for one in known.valid.values())

    def _forget(self, link: str) -> None:
        if self._active.pop(link, None) is not None:
            self._files.remove(link)
        self._ended.discard(link)
        self._refused.pop(link, None)
        self._doubted.pop(link, None)

    def _refuse(self, link: str, cause: str) -> None:
        if self._refused.get(link) != cause:
            self._refused[link] = cause
            log.warning('operation refused link=%s cause="%s"', link, cause)
            self._tell(link, Reason.OPERATION_REFUSED, cause)

    def _tell(self, link: str, reason: Reason, text: str) -> None:
        self._news.setdefault(link, []).append(News(reason, text))

    def _may_come(self, record: Link, recorded: RecordedOperation) -> bool:
        """Whether an operation that does not act here, but is recorded, may be set: this node's watch can lag."""
        found = self._find(record)
        if found.operation is not None or found.cause or record.namespace not in self._known:
            return True
        known_id, since = self._doubted.get(record.name, ("", 0.0))
        if known_id != recorded.id:
            since = self._clock()
            self._doubted[record.name] = recorded.id, since
        left = since + DOUBT_SECONDS - self._clock()
        if left > 0:
            self._queue.add(ReconcileKey(ReconcileKind.LINK, "", record.name), after=left)
        return left > 0

    def _note_seen(self, namespace: str, operations: Operations, *, watched: bool) -> None:
        before, now = self._seen.get(namespace, {}), self._clock()
        ids = [(key, operation.id) for key, operation in operations.valid.items()]
        self._seen[namespace] = {one: before.get(one, now) for one in ids if watched or one in before}

    def _concerned(self, namespace: str, before: Operations, after: Operations) -> set[str]:
        """The links of this node that a change of a namespace's operations concerns."""
        ends = [
            end
            for entry in self._journal.entries()
            if entry.pod is not None and entry.pod.namespace == namespace
            for end in entry.ends
        ]
        links = {end.link for end in ends}
        if before.fault != after.fault:
            return links
        keys = _changed_keys(before, after)
        if not keys - links:
            return keys
        records = {end.link: self._records(end.link) or end.wanted for end in ends}
        return {link for link, record in records.items() if link in keys or keys & operation_keys(record)}


def _changed_keys(before: Operations, after: Operations) -> set[str]:
    keys = {*before.valid, *before.invalid, *after.valid, *after.invalid}
    return {
        key
        for key in keys
        if (before.valid.get(key), before.invalid.get(key)) != (after.valid.get(key), after.invalid.get(key))
    }


def _by(operation: Operation) -> str:
    return f", set by {excerpt(operation.by)}" if operation.by else ""
