"""Garbage collection: which records and Leases are garbage, and which are kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from ratchet.core.garbage import DeadEnd, VniLease, links_without_lease, orphaned_leases, orphaned_links, orphaned_nodes
from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import Link, Side, State, Transition
from ratchet.core.pod import Pod, PodRef
from tests.support.links import NOW, joined, own, veth, vxlan

GRACE = timedelta(minutes=5)
OLD = NOW - timedelta(hours=1)
NODES: dict[str, datetime | None] = {"node-a": OLD, "node-b": OLD}
NO_LEASES: list[NodeLease] = []
STATIC = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
PRIMARY, PAIR = Side.PRIMARY, Side.PAIR


def pod_at(side: Side, number: int = 1, phase: str = "Running") -> Pod:
    return Pod(own(side, number=number).pod, phase=phase)


PODS = [pod_at(PRIMARY), pod_at(PAIR)]


def old(link: Link) -> Link:
    return replace(link, uid="uid-1", created=OLD)


def test_a_link_of_live_pods_is_not_garbage() -> None:
    assert orphaned_links([old(vxlan())], PODS, NODES, NO_LEASES, NOW, GRACE) == ()
    assert orphaned_links([], [], NODES, NO_LEASES, NOW, GRACE) == ()


@pytest.mark.parametrize(
    ("pods", "dead"),
    [
        ([pod_at(PRIMARY)], {PAIR: "pair default/pair-pod: the pod with UID pair-pod-uid1 is gone"}),
        (
            [pod_at(PRIMARY), pod_at(PAIR, number=2)],
            {PAIR: "pair default/pair-pod: the pod with UID pair-pod-uid1 is gone"},
        ),
        (
            [pod_at(PRIMARY, phase="Succeeded"), pod_at(PAIR)],
            {PRIMARY: "primary default/primary-pod: the pod is Succeeded"},
        ),
        (
            [pod_at(PRIMARY, phase="Failed"), pod_at(PAIR)],
            {PRIMARY: "primary default/primary-pod: the pod is Failed"},
        ),
        (
            [],
            {
                PRIMARY: "primary default/primary-pod: the pod with UID primary-pod-uid1 is gone",
                PAIR: "pair default/pair-pod: the pod with UID pair-pod-uid1 is gone",
            },
        ),
    ],
    ids=["pod gone", "pod re-created", "pod succeeded", "pod failed", "both gone"],
)
def test_an_end_is_dead_if_its_pod_is_gone_or_finished(pods: list[Pod], dead: dict[Side, str]) -> None:
    (orphan,) = orphaned_links([old(vxlan())], pods, NODES, NO_LEASES, NOW, GRACE)
    assert orphan.link == vxlan()
    assert orphan.dead == tuple(DeadEnd(side, own(side).container_id, why) for side, why in dead.items())
    assert orphan.why == "; ".join(dead.values())


def test_a_pod_in_another_namespace_does_not_keep_an_end_alive() -> None:
    ref = own(PAIR).pod
    other_pod = Pod(PodRef("other", ref.name, ref.uid), phase="Running")
    (orphan,) = orphaned_links([old(vxlan())], [pod_at(PRIMARY), other_pod], NODES, NO_LEASES, NOW, GRACE)
    assert [end.side for end in orphan.dead] == [PAIR]


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown"])
def test_a_pod_that_is_not_finished_is_alive(phase: str) -> None:
    assert (
        orphaned_links([old(vxlan())], [pod_at(PRIMARY, phase=phase), pod_at(PAIR)], NODES, NO_LEASES, NOW, GRACE) == ()
    )


def of_static_pod(link: Link, mirror: str = STATIC) -> Link:
    """The link with a static pod as its pair. The record has the UID of the mirror pod at the time of ADD."""
    holder = own(PAIR, "node-b")
    sandbox_at_add = replace(holder, pod=replace(holder.pod, mirror=mirror))
    return link.with_end(PAIR, replace(link.pair, sandbox=sandbox_at_add))


def mirror_pod(number: int = 1, mirror: str = STATIC, phase: str = "Running") -> Pod:
    return Pod(replace(own(PAIR, number=number).pod, mirror=mirror), phase=phase)


@pytest.mark.parametrize(
    ("recorded", "pair", "dead"),
    [
        (STATIC, mirror_pod(), False),
        (STATIC, mirror_pod(number=2), False),
        (STATIC, mirror_pod(number=2, phase="Failed"), True),
        (STATIC, mirror_pod(number=2, mirror="another"), True),
        (STATIC, mirror_pod(number=2, mirror=""), True),
        ("", mirror_pod(number=2), True),
        (STATIC, None, True),
    ],
    ids=["same", "created again", "finished", "new manifest", "ordinary now", "ordinary before", "mirror gone"],
)
def test_a_static_pod_is_identified_by_its_own_uid(recorded: str, pair: Pod | None, dead: bool) -> None:
    pods = [pod_at(PRIMARY), *([pair] if pair else [])]
    found = orphaned_links([old(of_static_pod(vxlan(), recorded))], pods, NODES, NO_LEASES, NOW, GRACE)
    assert [end.side for orphan in found for end in orphan.dead] == ([PAIR] if dead else [])


def renewed(age: float | None, node: str = "node-b") -> NodeLease:
    return NodeLease(node, "10.0.0.1", renewed=None if age is None else NOW - timedelta(seconds=age))


def nodes_after_recreation(age: float) -> dict[str, datetime | None]:
    """The creation times of the Node objects. node-b was created `age` seconds ago."""
    return {**NODES, "node-b": NOW - timedelta(seconds=age)}


NODE_MISSING: dict[str, datetime | None] = {"node-a": OLD}


@pytest.mark.parametrize(
    ("nodes", "leases", "dead"),
    [
        (NODE_MISSING, [renewed(10)], False),
        (NODE_MISSING, [renewed(None)], False),
        (NODE_MISSING, [renewed(300)], True),
        (NODE_MISSING, [], True),
        (NODE_MISSING, [renewed(10, "node-a")], True),
        (NODES, [renewed(10)], True),
        ({**NODES, "node-b": None}, [renewed(10)], True),
        (nodes_after_recreation(299), [], False),
        (nodes_after_recreation(300), [renewed(10)], True),
    ],
    ids=[
        "away for a moment",
        "away, renewal unknown",
        "away and silent",
        "away without an agent",
        "another node's agent",
        "node there",
        "node there, of unknown age",
        "back for a moment",
        "back for long",
    ],
)
def test_a_static_pod_survives_without_a_mirror_pod_while_its_node_is_missing(
    nodes: dict[str, datetime | None], leases: list[NodeLease], dead: bool
) -> None:
    found = orphaned_links([old(of_static_pod(vxlan()))], [pod_at(PRIMARY)], nodes, leases, NOW, GRACE)
    assert [end.side for orphan in found for end in orphan.dead] == ([PAIR] if dead else [])


@pytest.mark.parametrize("pods", [[], [mirror_pod(number=2, mirror="another")]], ids=["ordinary", "new manifest"])
def test_a_deleted_or_replaced_pod_is_dead_while_its_node_is_missing(pods: list[Pod]) -> None:
    link = of_static_pod(vxlan()) if pods else vxlan()
    (orphan,) = orphaned_links([old(link)], [pod_at(PRIMARY), *pods], NODE_MISSING, [renewed(10)], NOW, GRACE)
    assert [end.side for end in orphan.dead] == [PAIR]


@pytest.mark.parametrize("nodes", [NODES, NODE_MISSING, {}], ids=["there", "one missing", "all missing"])
def test_no_end_is_dead_if_only_its_node_is_missing(nodes: dict[str, datetime | None]) -> None:
    for link in (vxlan(), of_static_pod(vxlan())):
        assert orphaned_links([old(link)], PODS, nodes, NO_LEASES, NOW, GRACE) == ()


def test_an_end_that_no_pod_has_joined_is_not_dead() -> None:
    assert orphaned_links([old(joined(own(PRIMARY), None))], PODS, NODES, NO_LEASES, NOW, GRACE) == ()


def test_a_record_that_no_pod_has_joined_is_garbage() -> None:
    (orphan,) = orphaned_links([old(joined(None, None))], PODS, NODES, NO_LEASES, NOW, GRACE)
    assert orphan.dead == ()
    assert orphan.why == "nobody has joined it"


@pytest.mark.parametrize(("age", "spared"), [(299, True), (300, False), (301, False), (-60, True)])
def test_young_records_are_not_garbage(age: int, spared: bool) -> None:
    moment = NOW - timedelta(seconds=age)
    young_record = replace(vxlan(), created=moment)
    changed_record = replace(
        vxlan(), created=OLD, history=(Transition(moment, State.PENDING, State.PENDING, "joined"),)
    )
    for link in (young_record, changed_record):
        assert bool(orphaned_links([link], [], NODES, NO_LEASES, NOW, GRACE)) is not spared


def test_a_record_of_unknown_age_counts_as_old() -> None:
    assert orphaned_links([vxlan()], [], NODES, NO_LEASES, NOW, GRACE)


def lease(vni: int = 11, holder: str = "uid-1", age: int = 3600) -> VniLease:
    return VniLease(vni, holder, f"lease-{vni}", "7", NOW - timedelta(seconds=age))


@pytest.mark.parametrize(
    ("held", "orphaned"),
    [
        (lease(), False),
        (lease(vni=12), False),  # a surplus Lease of a live record is removed with the record
        (lease(holder="uid-2"), True),
        (lease(holder=""), True),
        (lease(holder="uid-2", age=299), False),
        (lease(holder="uid-2", age=300), True),
        (replace(lease(holder="uid-2"), created=None), True),
    ],
    ids=["held", "surplus", "of a dead record", "without a holder", "young", "old enough", "of unknown age"],
)
def test_a_lease_is_garbage_when_no_record_has_its_holders_uid(held: VniLease, orphaned: bool) -> None:
    found = orphaned_leases([held], {replace(old(vxlan()), vni=11).uid}, (), NOW, GRACE)
    assert [orphan.lease for orphan in found] == ([held] if orphaned else [])


def test_a_lease_of_a_recorded_vni_is_not_garbage() -> None:
    """A Lease that was restored from a backup has the record's former UID. The record's owner repairs it."""
    assert orphaned_leases([lease(holder="uid-2")], {"uid-1"}, {11}, NOW, GRACE) == ()


def test_records_that_do_not_hold_the_lease_of_their_vni_are_found() -> None:
    links = [replace(vxlan(), name=f"link-{vni}", uid=f"uid-{vni}", vni=vni) for vni in (11, 12, 13)]
    held = replace(lease(holder="uid-11"), vni=11)
    held_by_another = replace(lease(holder="uid-11"), vni=12)
    assert links_without_lease([*links, veth()], [held, held_by_another]) == ["link-12", "link-13"]


def test_a_recreated_record_does_not_hold_the_lease_of_the_deleted_one() -> None:
    recreated = replace(old(vxlan()), uid="uid-2", vni=11)
    (orphan,) = orphaned_leases([lease()], {recreated.uid}, (), NOW, GRACE)
    assert orphan.why == "no record has the UID uid-1"


@pytest.mark.parametrize(
    ("age", "nodes", "garbage"),
    [
        (300, {"node-a"}, True),
        (3600, {"node-a"}, True),
        (3600, {"node-a", "node-b"}, False),
        (299, {"node-a"}, False),
        (-3600, {"node-a"}, False),
        (None, {"node-a"}, False),
    ],
    ids=["silent", "long silent", "silent, node there", "renewed", "clock ahead", "renewal unknown"],
)
def test_a_node_lease_is_garbage_when_the_node_is_missing_and_silent(
    age: float | None, nodes: set[str], garbage: bool
) -> None:
    lease = renewed(age)
    assert orphaned_nodes([lease], nodes, NOW, GRACE) == ((lease,) if garbage else ())
