"""Garbage collection: what no node can clean, because the pod or the node that should have done it is gone.

One pass. State is listed before what is alive, the young are spared, and every removal is on condition that the object
is still the one that was judged: a pass that races with an ADD, or with another pass, loses.
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


class Outcome(StrEnum):
    """What became of something that is not as it should be."""

    REMOVED = "removed"
    CHANGED = "kept: it has changed meanwhile"
    LEFT = "kept: repair or delete it by hand"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be: what, why, and what became of it (in a dry run: what would)."""

    what: str
    why: str
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


def collect_garbage(
    records: ApiStore, *, now: Callable[[], datetime], grace: timedelta = GRACE, dry_run: bool = False
) -> Iterator[Finding]:
    """Remove what is garbage, and tell of each thing as it is done; with `dry_run` only tell."""
    leases = records.vnis.list()
    node_leases = records.nodes.list_leases()
    uids = records.vnis.record_uids()
    links, malformed = records.links.list()
    vnis = {*records.vnis.record_vnis(), *(link.vni for link in links if link.vni is not None)}
    pods = records.pods.list()
    nodes = records.nodes.list()
    for error in malformed:
        yield Finding("a record", str(error), Outcome.LEFT)
    for orphan in orphaned_links(links, pods, nodes, node_leases, now(), grace):
        cleared = _cleared(orphan, now())
        what = f"record {orphan.link.name}" if cleared.abandoned else f"end of {orphan.link.name}"
        yield Finding(what, orphan.why, _attempted(partial(_write, records, orphan.link, cleared), dry_run=dry_run))
    for held in orphaned_leases(leases, uids, vnis, now(), grace):
        outcome = _attempted(partial(records.vnis.delete, held.lease), dry_run=dry_run)
        yield Finding(f"VNI {held.lease.vni}", held.why, outcome)
    for lease in orphaned_nodes(node_leases, nodes, now(), grace):
        outcome = _attempted(partial(records.nodes.delete_lease, lease), dry_run=dry_run)
        why = f"the Node object is missing and the Lease was last renewed at {lease.renewed:%Y-%m-%dT%H:%M:%SZ}"
        yield Finding(f"the Lease of node {lease.node}", why, outcome)


def _cleared(orphan: OrphanedLink, now: datetime) -> Link:
    link = orphan.link
    for end in orphan.dead:
        link = record_updates.leave(link, end.side, end.container_id, f"collected: {end.why}", now)
    return link


def _write(records: ApiStore, before: Link, after: Link) -> None:
    if after.abandoned:
        records.links.delete(before)
    else:
        records.links.update(before, after)


def _attempted(remove: Callable[[], object], *, dry_run: bool) -> Outcome:
    try:
        if not dry_run:
            remove()
    except (ConflictError, NotFoundError):
        return Outcome.CHANGED
    return Outcome.REMOVED
