"""What is garbage, given what is stored and then what is alive.

Records and Leases must have been listed before pods and nodes: a pod that joined before the record was listed was
in the API by then, so one that is missing from the later list is gone and not merely late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import Link, Pod, PodRef, Side


@dataclass(frozen=True, slots=True)
class VniLease:
    """A VNI as it is held: `holder` is the UID of the record that it was taken for; `uid` the Lease's own."""

    vni: int
    holder: str
    uid: str
    resource_version: str
    created: datetime | None


@dataclass(frozen=True, slots=True)
class DeadEnd:
    """An end whose sandbox is gone with its pod or its node."""

    side: Side
    container_id: str
    why: str


@dataclass(frozen=True, slots=True)
class OrphanedLink:
    """A record with ends to be cleared; it goes when no end is left."""

    link: Link
    dead: tuple[DeadEnd, ...]
    why: str


@dataclass(frozen=True, slots=True)
class OrphanedLease:
    """A VNI that no record holds any more."""

    lease: VniLease
    why: str


def orphaned_links(
    links: Iterable[Link], pods: Iterable[Pod], nodes: Collection[str], now: datetime, grace: timedelta
) -> tuple[OrphanedLink, ...]:
    """Records with an end whose pod (by UID) or node no longer exists, and records that nobody has joined.

    What was made or changed within `grace` before `now` is spared.
    """
    alive = {pod.ref: pod for pod in pods}
    found = []
    for link in links:
        if _age(link, now) < grace:
            continue
        dead = tuple(end for side in Side if (end := _dead_end(link, side, alive, nodes)))
        if dead:
            found.append(OrphanedLink(link, dead, "; ".join(end.why for end in dead)))
        elif link.abandoned:
            found.append(OrphanedLink(link, (), "nobody has joined it"))
    return tuple(found)


def orphaned_leases(
    leases: Iterable[VniLease], records: Collection[str], now: datetime, grace: timedelta
) -> tuple[OrphanedLease, ...]:
    """VNI Leases whose holder is none of the UIDs in `records`, listed after `leases`.

    These are the UIDs of all records there are, those that cannot be read among them: they may well be in use.
    """
    return tuple(
        OrphanedLease(lease, f"no record has the UID {lease.holder or 'it should name'}")
        for lease in leases
        if lease.holder not in records and (lease.created is None or now - lease.created >= grace)
    )


def orphaned_nodes(leases: Iterable[NodeLease], nodes: Collection[str]) -> tuple[NodeLease, ...]:
    """The signs of life of nodes that no longer exist."""
    return tuple(lease for lease in leases if lease.node not in nodes)


def _dead_end(link: Link, side: Side, alive: dict[PodRef, Pod], nodes: Collection[str]) -> DeadEnd | None:
    sandbox = link.sandbox(side)
    if sandbox is None:
        return None
    if sandbox.node not in nodes:
        why = f"{side} {sandbox.pod}: node {sandbox.node} no longer exists"
    elif sandbox.pod not in alive:
        why = f"{side} {sandbox.pod}: the pod with UID {sandbox.pod.uid} is gone"
    elif alive[sandbox.pod].finished:
        why = f"{side} {sandbox.pod}: the pod is {alive[sandbox.pod].phase}"
    else:
        return None
    return DeadEnd(side, sandbox.container_id, why)


def _age(link: Link, now: datetime) -> timedelta:
    moments = [step.at for step in link.history] + ([link.created] if link.created else [])
    return now - max(moments) if moments else timedelta.max
