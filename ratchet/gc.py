"""Garbage collection: removes objects that no node can remove, because the pod or node is gone.

One pass lists the state before the pods and nodes, spares young objects, and removes each object on condition of the
version that was read. So a pass that races with an ADD, or with another pass, changes nothing.
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
from ratchet.store.apiserver import NotFoundError
from ratchet.store.records import Records

GRACE = timedelta(minutes=5)


class GcResult(StrEnum):
    """The result for one object."""

    REMOVED = "removed"
    CHANGED = "kept: it has changed meanwhile"
    LEFT = "kept: repair or delete it by hand"


@dataclass(frozen=True, slots=True)
class Garbage:
    """An object that is garbage: its name, the reason, and the result (of a dry run: the expected result)."""

    what: str
    why: str
    result: GcResult

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


def collect_garbage(
    records: Records, *, now: Callable[[], datetime], grace: timedelta = GRACE, dry_run: bool = False
) -> Iterator[Garbage]:
    """Remove garbage that is older than `grace`, and yield each object after its removal.

    Raises RatchetError. With `dry_run` nothing is removed. `now` is the wall clock, because the times in the API are.
    """
    leases = records.vni_leases()
    node_leases = records.node_leases()
    uids = records.uids()
    links, malformed = records.links()
    vnis = {*records.record_vnis(), *(link.vni for link in links if link.vni is not None)}
    pods = records.pods()
    nodes = records.nodes()
    for error in malformed:
        yield Garbage("a record", str(error), GcResult.LEFT)
    for orphan in orphaned_links(links, pods, nodes, node_leases, now(), grace):
        cleared = _cleared(orphan, now())
        what = f"record {orphan.link.name}" if cleared.abandoned else f"end of {orphan.link.name}"
        yield Garbage(what, orphan.why, _try_to(partial(_write, records, orphan.link, cleared), dry_run=dry_run))
    for held in orphaned_leases(leases, uids, vnis, now(), grace):
        result = _try_to(partial(records.delete_vni_lease, held.lease), dry_run=dry_run)
        yield Garbage(f"VNI {held.lease.vni}", held.why, result)
    for lease in orphaned_nodes(node_leases, nodes, now(), grace):
        result = _try_to(partial(records.delete_node_lease, lease), dry_run=dry_run)
        why = f"the Node object is missing and the Lease was last renewed at {lease.renewed:%Y-%m-%dT%H:%M:%SZ}"
        yield Garbage(f"the Lease of node {lease.node}", why, result)


def _cleared(orphan: OrphanedLink, now: datetime) -> Link:
    """The record without its dead ends."""
    link = orphan.link
    for end in orphan.dead:
        link = record_updates.leave(link, end.side, end.container_id, f"collected: {end.why}", now)
    return link


def _write(records: Records, before: Link, after: Link) -> None:
    if after.abandoned:
        records.delete(before)
    else:
        records.update(before, after)


def _try_to(remove: Callable[[], object], *, dry_run: bool) -> GcResult:
    try:
        if not dry_run:
            remove()
    except (ConflictError, NotFoundError):
        return GcResult.CHANGED
    return GcResult.REMOVED
