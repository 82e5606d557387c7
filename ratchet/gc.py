"""Garbage collection: one pass that removes records and Leases whose pod or node is gone.

The pass lists what is stored before what is alive, and spares young objects. Every removal is conditional on the
version that was judged, so a pass that races with an ADD or with another pass loses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from ratchet.core import record_updates
from ratchet.core.garbage import OrphanedLink, orphaned_leases, orphaned_links, orphaned_nodes
from ratchet.core.model import Link
from ratchet.errors import ConflictError
from ratchet.store.api_errors import NotFoundError
from ratchet.store.store import ApiStore

GRACE = timedelta(minutes=5)


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


def collect_garbage(
    records: ApiStore, *, now: Callable[[], datetime], grace: timedelta = GRACE, dry_run: bool = False
) -> Iterator[Removal]:
    """Remove garbage, and yield each removal when it is done. With `dry_run` nothing is removed."""
    leases = records.vnis.list()
    node_leases = records.nodes.list_leases()
    uids = records.vnis.record_uids()
    links, malformed = records.links.list()
    vnis = {*records.vnis.record_vnis(), *(link.vni for link in links if link.vni is not None)}
    pods = records.pods.list()
    nodes = records.nodes.list()
    for error in malformed:
        yield Removal("a record", str(error), RemovalResult.LEFT)
    for orphan in orphaned_links(links, pods, nodes, node_leases, now(), grace):
        cleared = _without_dead_ends(orphan, now())
        name = f"record {orphan.link.name}" if cleared.abandoned else f"end of {orphan.link.name}"
        result = _attempt(partial(_write, records, orphan.link, cleared), dry_run=dry_run)
        yield Removal(name, orphan.why, result)
    for held in orphaned_leases(leases, uids, vnis, now(), grace):
        result = _attempt(partial(records.vnis.delete, held.lease), dry_run=dry_run)
        yield Removal(f"VNI {held.lease.vni}", held.why, result)
    for lease in orphaned_nodes(node_leases, nodes, now(), grace):
        result = _attempt(partial(records.nodes.delete_lease, lease), dry_run=dry_run)
        reason = f"the Node object is missing and the Lease was last renewed at {lease.renewed:%Y-%m-%dT%H:%M:%SZ}"
        yield Removal(f"the Lease of node {lease.node}", reason, result)


def _without_dead_ends(orphan: OrphanedLink, now: datetime) -> Link:
    link = orphan.link
    for end in orphan.dead:
        link = record_updates.leave(link, end.side, end.container_id, f"collected: {end.why}", now)
    return link


def _write(records: ApiStore, before: Link, after: Link) -> None:
    if after.abandoned:
        records.links.delete(before)
    else:
        records.links.update(before, after)


def _attempt(remove: Callable[[], object], *, dry_run: bool) -> RemovalResult:
    try:
        if not dry_run:
            remove()
    except (ConflictError, NotFoundError):
        return RemovalResult.CHANGED
    return RemovalResult.REMOVED
