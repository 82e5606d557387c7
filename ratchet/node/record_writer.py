"""Conditional writes of a link's stored record. After a conflict, the change is decided again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from ratchet.core import record_updates
from ratchet.core.model import Link
from ratchet.errors import ConflictError, NewerRecordError
from ratchet.node.vni_claim import VniClaim
from ratchet.retry import call_with_retries

if TYPE_CHECKING:
    import tenacity

    from ratchet.store.interface import Store

Decided = TypeVar("Decided")

log = logging.getLogger(__name__)

CONFLICT_SECONDS = 30.0
LEASE_OF_ANOTHER_LINK = "another link holds its Lease"


def wall_clock() -> datetime:
    return datetime.now(UTC)


class RecordWriter:
    """Writer of link records. The caller holds the link's lock on this node.

    `now` is the wall clock: its times are written to the records for people to read.
    """

    def __init__(self, store: Store, now: Callable[[], datetime] = wall_clock) -> None:
        self.store = store
        self.now = now

    def write(self, before: Link | None, after: Link) -> Link:
        """Store `after`, which was derived from `before`, and return it as stored. Raises ConflictError."""
        if before is None:
            return self.store.links.create(after)
        if after.abandoned:
            self.store.links.delete(before)
            return after
        return before if after == before else self.store.links.update(before, after)

    def leave(self, link: str, container_id: str, reason: str) -> None:
        """Remove a sandbox from its link's record. The last sandbox to leave deletes the record.

        Does nothing if the record does not hold the sandbox, so the call can be repeated. The caller has removed the
        interface. Raises NewerRecordError if only newer versions may use the record; the sandbox is removed from the
        record nevertheless.
        """

        def left(record: Link) -> Link:
            side = record.side_of(container_id)
            return record if side is None else record_updates.leave(record, side, container_id, reason, self.now())

        try:
            self.change(link, left)
        except NewerRecordError:
            retry_on_conflict(lambda: self.store.links.leave_newer(link, container_id))
            raise

    def mark_lost(self, link: str, container_id: str, reason: str) -> None:
        """Record that an end is no longer up, if the record holds this sandbox."""

        def lost(record: Link) -> Link:
            side = record.side_of(container_id)
            return record if side is None else record_updates.mark_lost(record, side, reason, self.now())

        self.change(link, lost)

    def change(self, link: str, update: Callable[[Link], Link]) -> None:
        """Apply `update` to a record.

        Only the API's answer, never the cache, proves that there is nothing to do.
        """

        def try_once() -> None:
            record, certain = self.store.links.lookup(link)
            if not certain and (record is None or update(record) == record):
                record = self.store.links.get(link)
            if record is not None:
                self.write(record, update(record))

        retry_on_conflict(try_once)

    def assert_vni(self, link: str) -> None:
        """Make the record of a link hold the Lease of its VNI, or renumber the link. Raises RatchetError."""

        def try_once() -> None:
            record = self.store.links.get(link)
            if record is not None and record.vni is not None and not self.store.vnis.hold(record):
                self.renumber(record, record, LEASE_OF_ANOTHER_LINK, refused=False)

        retry_on_conflict(try_once)

    def renumber(self, before: Link, draft: Link, reason: str, *, refused: bool) -> Link:
        """Store `draft` with another VNI and return the stored record.

        `before` is the record as stored so far. The new VNI is written before the old Lease is freed. The old Lease
        belongs to the record only if a node has `refused` the VNI.
        """
        vni = self.store.vnis.claim_another(draft)
        renumbered = record_updates.renumber(draft, vni, reason, self.now(), refused=refused)
        try:
            stored = self.write(before, renumbered)
        except ConflictError:
            VniClaim(self.store, renumbered).free(None)
            raise
        log.warning("VNI renumbered link=%s from=%s to=%s reason=%r", stored.name, draft.vni, stored.vni, reason)
        if refused and draft.vni is not None:
            self.store.vnis.release(draft.vni, stored.uid)
        return stored


def retry_on_conflict(decide: Callable[[], Decided]) -> Decided:
    """Call `decide` again after each ConflictError, for CONFLICT_SECONDS at most, with jittered backoff."""
    return call_with_retries(decide, ConflictError, _conflict_retries)


def _conflict_retries(elapsed: float) -> tenacity.Retrying:
    import tenacity  # only for a retry: the import takes 7 ms

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConflictError),
        wait=tenacity.wait_random_exponential(multiplier=0.01, max=0.5),
        stop=tenacity.stop_after_delay(CONFLICT_SECONDS - elapsed),
        reraise=True,
    )
