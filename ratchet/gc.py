"""Garbage collection: one pass that removes records and Leases whose pod or node is gone.

The pass lists what is stored before what is alive, and spares young objects. Every removal is conditional on the
version that was judged, so a pass that races with an ADD or with another pass loses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TypeVar

from ratchet.core import record_updates
from ratchet.core.garbage import (
    OrphanedLink,
    VniLease,
    claim_digest,
    digest,
    orphaned_leases,
    orphaned_links,
    orphaned_nodes,
    pod_digest,
)
from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import Link
from ratchet.core.pod import Pod
from ratchet.errors import ConflictError, MalformedRecordError
from ratchet.store.api_errors import NotFoundError
from ratchet.store.store import ApiStore

GRACE = timedelta(minutes=5)
BATCH = 2000  # objects, some 3 kB each

Object = TypeVar("Object")


class RemovalResult(StrEnum):
    """The result of a removal."""

    REMOVED = "removed"
    CHANGED = "kept: it has changed meanwhile"
    LEFT = "kept: repair or delete it by hand"


@dataclass(frozen=True, slots=True)
class Removal:
    """The removal of one object: its name, the reason, and the result.

    A dry run has the expected result.
    """

    name: str
    reason: str
    result: RemovalResult

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class _Listed:
    """What the lists of a pass found. `records` and `leases` have the digests of those that may be garbage."""

    records: set[int]
    malformed: Sequence[MalformedRecordError]
    leases: set[int]
    node_leases: Sequence[NodeLease]
    pods: Sequence[Pod]
    nodes: Mapping[str, datetime | None]


def collect_garbage(
    store: ApiStore, *, now: Callable[[], datetime], grace: timedelta = GRACE, dry_run: bool = False
) -> Iterator[Removal]:
    """Remove garbage, and yield each removal when it is done. With `dry_run` nothing is removed.

    The lists keep digests of records and Leases, because most of them are no garbage. What may be garbage is listed
    again, BATCH objects at a time, and judged if its version is the same.
    """
    listed = _list_all(store)
    for error in listed.malformed:
        yield Removal("a record", str(error), RemovalResult.LEFT)
    for links in _batches(partial(_next_links, store, listed.records)):
        for orphan in orphaned_links(links, listed.pods, listed.nodes, listed.node_leases, now(), grace):
            cleared = _without_dead_ends(orphan, now())
            name = f"record {orphan.link.name}" if cleared.abandoned else f"end of {orphan.link.name}"
            result = _attempt(partial(_write, store, orphan.link, cleared), dry_run=dry_run)
            yield Removal(name, orphan.why, result)
    for leases in _batches(partial(_next_leases, store, listed.leases)):
        for held in orphaned_leases(leases, (), (), now(), grace):
            result = _attempt(partial(store.vnis.delete, held.lease), dry_run=dry_run)
            yield Removal(f"VNI {held.lease.vni}", held.why, result)
    for lease in orphaned_nodes(listed.node_leases, listed.nodes, now(), grace):
        result = _attempt(partial(store.nodes.delete_lease, lease), dry_run=dry_run)
        reason = f"the Node object is missing and the Lease was last renewed at {lease.renewed:%Y-%m-%dT%H:%M:%SZ}"
        yield Removal(f"the Lease of node {lease.node}", reason, result)


def _list_all(store: ApiStore) -> _Listed:
    claims = store.vnis.claim_digests()
    node_leases = store.nodes.list_leases()
    uids = store.vnis.record_uid_digests()
    stored, malformed = store.links.digests()
    leases = claims.unused(uids, store.vnis.recorded_vnis() | stored.vnis())
    del claims, uids
    pods = store.pods.list_phases()
    nodes = store.nodes.list()
    suspects = stored.suspects({pod_digest(pod.ref) for pod in pods if not pod.finished})
    return _Listed(suspects, malformed, leases, node_leases, pods, nodes)


def _batches(next_batch: Callable[[], Sequence[Object]]) -> Iterator[Sequence[Object]]:
    """Batches, until one is not full."""
    while batch := next_batch():
        yield batch
        if len(batch) < BATCH:
            return


def _next_links(store: ApiStore, versions: set[int]) -> Sequence[Link]:
    """The next BATCH of the records with these digests, which are removed from `versions`."""
    links = store.links.list_versions(versions, BATCH) if versions else []
    versions.difference_update(digest(link.name, link.resource_version) for link in links)
    return links


def _next_leases(store: ApiStore, claims: set[int]) -> Sequence[VniLease]:
    """The next BATCH of the Leases with these digests, which are removed from `claims`."""
    leases = store.vnis.list_claimed(claims, BATCH) if claims else []
    claims.difference_update(claim_digest(lease.vni, digest(lease.holder)) for lease in leases)
    return leases


def _without_dead_ends(orphan: OrphanedLink, now: datetime) -> Link:
    link = orphan.link
    for end in orphan.dead:
        link = record_updates.leave(link, end.side, end.container_id, f"collected: {end.why}", now)
    return link


def _write(store: ApiStore, before: Link, after: Link) -> None:
    if after.abandoned:
        store.links.delete(before)
    else:
        store.links.update(before, after)


def _attempt(remove: Callable[[], object], *, dry_run: bool) -> RemovalResult:
    try:
        if not dry_run:
            remove()
    except (ConflictError, NotFoundError):
        return RemovalResult.CHANGED
    return RemovalResult.REMOVED
