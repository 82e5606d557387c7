"""Garbage collection: what no node can clean, because the pod or the node that should have done it is gone.

One pass. State is listed before what is alive, the young are spared, and every removal is on condition that the object
is still the one that was judged: a pass that races with an ADD, or with another pass, loses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from ratchet.core import moves
from ratchet.core.model import Link
from ratchet.core.orphans import OrphanedLink, orphaned_leases, orphaned_links
from ratchet.errors import ConflictError
from ratchet.store.apiserver import NotFoundError
from ratchet.store.records import Records

GRACE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that was garbage: what, and why. `done` is False where it changed before it could be removed."""

    what: str
    why: str
    done: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + ("" if self.done else " (left alone: it has changed meanwhile)")


def collect_garbage(
    records: Records, *, now: Callable[[], datetime], grace: timedelta = GRACE, dry_run: bool = False
) -> Iterator[Removal]:
    """Remove what is garbage, and tell of each removal as it is done; with `dry_run` only tell."""
    leases = records.vni_leases()
    uids = records.uids()
    links, malformed = records.links()
    pods = records.pods()
    nodes = records.nodes()
    for error in malformed:
        yield Removal(str(error), "it needs a person", done=True)
    for orphan in orphaned_links(links, pods, nodes, now(), grace):
        cleared = _cleared(orphan, now())
        what = f"record {orphan.link.name}" if cleared.abandoned else f"end of {orphan.link.name}"
        yield Removal(what, orphan.why, done=dry_run or _attempted(partial(_write, records, orphan.link, cleared)))
    for held in orphaned_leases(leases, uids, now(), grace):
        done = dry_run or _attempted(partial(records.delete_vni_lease, held.lease))
        yield Removal(f"VNI {held.lease.vni}", held.why, done=done)


def _cleared(orphan: OrphanedLink, now: datetime) -> Link:
    link = orphan.link
    for end in orphan.dead:
        link = moves.leave(link, end.side, end.container_id, f"collected: {end.why}", now)
    return link


def _write(records: Records, before: Link, after: Link) -> None:
    if after.abandoned:
        records.delete(before)
    else:
        records.update(before, after)


def _attempted(remove: Callable[[], object]) -> bool:
    try:
        remove()
    except (ConflictError, NotFoundError):
        return False
    return True
