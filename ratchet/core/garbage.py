"""Garbage among records and Leases, found by a comparison with pods and nodes.

The caller lists records and Leases before pods and nodes. A pod that had joined when the record was listed was in the
API then. If it is missing from the later list, it is gone and not late.

A missing Node object alone makes nothing garbage. An end is dead if its pod is gone or finished. A node Lease is
garbage if the Node object is missing and the Lease was not renewed for the grace period.

One pass cannot know since when a Node object is missing. The renewal time of the Lease is the stored evidence. It is
written by the node's clock and read by the collector's. If the node's clock is ahead, the Lease is kept for longer. If
it is behind by more than the grace period, a Lease in use may be deleted while its Node object is missing. The agent
creates it again at its next heartbeat, and a node without a Lease is not lost.

A mirror pod is deleted with its Node object, and the static pod keeps running. So a missing mirror is no evidence while
the Node object is missing and the Lease is still renewed. It is no evidence either for the grace period after the Node
object is created again: the kubelet has to create the mirror first.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import SIDES, Link, Side
from ratchet.core.pod import Pod, PodRef


class Claim(NamedTuple):
    """The VNI of a Lease, its holder (the UID of a record), and the namespace of the link's pods."""

    vni: int
    holder: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class VniLease:
    """The Lease of a VNI. `holder` is the UID of the record that claimed it; `uid` is the Lease's own.

    `node_labels` are the keys of the labels that name the nodes of the link, `link` is the record's name.
    """

    vni: int
    holder: str
    uid: str
    resource_version: str
    created: datetime | None
    node_labels: frozenset[str] = frozenset()
    link: str = ""


# Numbers of 64 bits in place of texts, of which a large cluster has some 100 MB. Two of them are equal by chance in one
# of 10^19 cases. They differ from process to process, so that such a chance would not repeat.


def digest(*parts: str | int) -> int:
    """The digest of a name, a UID or a version."""
    return hash(parts)


class RecordDigests:
    """What a pass keeps of all records, most of which are no garbage: 28 bytes of each."""

    def __init__(self) -> None:
        self._versions = array("q")
        self._ends = array("q"), array("q")
        self._vnis = array("i")

    def add(self, link: Link) -> None:
        self._versions.append(digest(link.name, link.resource_version))
        self._vnis.append(link.vni or 0)
        for ends, side in zip(self._ends, SIDES, strict=True):
            sandbox = link.sandbox(side)
            ends.append(pod_digest(sandbox.pod) if sandbox is not None else 0)

    def vnis(self) -> set[int]:
        """The VNIs of the records."""
        return set(filter(None, self._vnis))

    def suspects(self, living: Collection[int]) -> set[int]:
        """The digests of name and version of the records that `orphaned_links` has to judge.

        `living` are the digests of the pods that are not finished.
        """
        return {
            version
            for version, *pods in zip(self._versions, *self._ends, strict=True)
            if not any(pods) or any(pod and pod not in living for pod in pods)
        }


class ClaimDigests:
    """What a pass keeps of all VNI Leases: 12 bytes of each."""

    def __init__(self) -> None:
        self._vnis, self._holders = array("i"), array("q")

    def add(self, claim: Claim) -> None:
        self._vnis.append(claim.vni)
        self._holders.append(digest(claim.holder))

    def unused(self, records: Collection[int], vnis: Collection[int]) -> set[int]:
        """The digests of VNI and holder of the Leases that `orphaned_leases` has to judge.

        `records` are the digests of the UIDs of all records, `vnis` the records' VNIs.
        """
        return {
            claim_digest(vni, holder)
            for vni, holder in zip(self._vnis, self._holders, strict=True)
            if holder not in records and vni not in vnis
        }


def pod_digest(ref: PodRef) -> int:
    """The digest of a pod. Two references to one mirror pod have the same, whatever their UIDs are."""
    return digest(ref.namespace, ref.name, ref.mirror or ref.uid)


def claim_digest(vni: int, holder: int) -> int:
    """The digest of a VNI Lease with a holder's digest."""
    return digest(vni, holder)


@dataclass(frozen=True, slots=True)
class DeadEnd:
    """An end whose sandbox is gone with its pod."""

    side: Side
    container_id: str
    why: str


@dataclass(frozen=True, slots=True)
class OrphanedLink:
    """A record with dead ends. It is deleted if no end is left."""

    link: Link
    dead: tuple[DeadEnd, ...]
    why: str


@dataclass(frozen=True, slots=True)
class OrphanedLease:
    """A VNI Lease that no record holds or needs."""

    lease: VniLease
    why: str


def orphaned_links(
    links: Iterable[Link],
    pods: Iterable[Pod],
    nodes: Mapping[str, datetime | None],
    leases: Iterable[NodeLease],
    now: datetime,
    grace: timedelta,
) -> tuple[OrphanedLink, ...]:
    """Records with an end whose pod is gone or finished, and records that no sandbox has joined.

    Records that were created or changed within `grace` before `now` are kept. `nodes` are the Node objects by name with
    their creation times; `leases` are those of all nodes.
    """
    alive = {(pod.ref.namespace, pod.ref.name): pod for pod in pods}
    mirrorless = _nodes_without_mirrors(nodes, leases, now, grace)
    found = []
    for link in links:
        if _age(link, now) < grace:
            continue
        dead = tuple(end for side in Side if (end := _dead_end(link, side, alive, mirrorless)))
        if dead:
            found.append(OrphanedLink(link, dead, "; ".join(end.why for end in dead)))
        elif link.abandoned:
            found.append(OrphanedLink(link, (), "nobody has joined it"))
    return tuple(found)


def orphaned_leases(
    leases: Iterable[VniLease], records: Collection[str], vnis: Collection[int], now: datetime, grace: timedelta
) -> tuple[OrphanedLease, ...]:
    """VNI Leases whose holder is no UID in `records` and whose VNI is not in the records' `vnis`.

    Both are listed after `leases`. The UIDs are those of all records, also of unreadable ones. The Lease of a VNI in
    use may have a former holder, if it was restored from a backup. Its record's owner repairs it.
    """
    return tuple(
        OrphanedLease(lease, f"no record has the UID {lease.holder or 'it should name'}")
        for lease in leases
        if lease.holder not in records
        and lease.vni not in vnis
        and (lease.created is None or now - lease.created >= grace)
    )


def orphaned_nodes(
    leases: Iterable[NodeLease], nodes: Collection[str], now: datetime, grace: timedelta
) -> tuple[NodeLease, ...]:
    """Node Leases that were not renewed within `grace` before `now` and whose Node object is missing."""
    return tuple(lease for lease in leases if lease.node not in nodes and not _is_recent(lease, now, grace))


def _dead_end(
    link: Link, side: Side, alive: Mapping[tuple[str, str], Pod], mirrorless: Collection[str]
) -> DeadEnd | None:
    """The end if it is dead.

    `alive` has the pods by namespace and name. On the nodes `mirrorless` a static pod may run without its mirror.
    """
    sandbox = link.sandbox(side)
    if sandbox is None:
        return None
    pod = alive.get((sandbox.pod.namespace, sandbox.pod.name))
    if pod is None and sandbox.pod.mirror and sandbox.node in mirrorless:
        return None
    if pod is None or not pod.ref.is_same_pod(sandbox.pod):
        why = f"{side} {sandbox.pod}: the pod with UID {sandbox.pod.uid} is gone"
    elif pod.finished:
        why = f"{side} {sandbox.pod}: the pod is {pod.phase}"
    else:
        return None
    return DeadEnd(side, sandbox.container_id, why)


def _nodes_without_mirrors(
    nodes: Mapping[str, datetime | None], leases: Iterable[NodeLease], now: datetime, grace: timedelta
) -> frozenset[str]:
    """The nodes whose Node object is missing or was created again, for less than `grace`."""
    away = {lease.node for lease in leases if lease.node not in nodes and _is_recent(lease, now, grace)}
    back = {node for node, created in nodes.items() if created is not None and now - created < grace}
    return frozenset(away | back)


def _is_recent(lease: NodeLease, now: datetime, grace: timedelta) -> bool:
    """Whether a node Lease was renewed within `grace` before `now`. True if it has no readable time."""
    return lease.renewed is None or now - lease.renewed < grace


def _age(link: Link, now: datetime) -> timedelta:
    moments = [step.at for step in link.history] + ([link.created] if link.created else [])
    return now - max(moments) if moments else timedelta.max


def links_without_lease(links: Iterable[Link], leases: Iterable[VniLease]) -> list[str]:
    """The names of the records that do not hold the Lease of their VNI, according to `leases`."""
    holders = {lease.vni: lease.holder for lease in leases}
    return [link.name for link in links if link.vni is not None and holders.get(link.vni) != link.uid]
