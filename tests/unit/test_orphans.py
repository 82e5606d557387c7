"""What is garbage: records and Leases of the dead, and nothing of the living or the young."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import Link, Pod, PodRef, Side, State, Transition
from ratchet.core.orphans import DeadEnd, VniLease, orphaned_leases, orphaned_links, orphaned_nodes
from tests.support.links import NOW, joined, own, vxlan

GRACE = timedelta(minutes=5)
OLD = NOW - timedelta(hours=1)
NODES = {"node-a", "node-b"}
PRIMARY, PAIR = Side.PRIMARY, Side.PAIR


def alive(side: Side, number: int = 1, phase: str = "Running") -> Pod:
    return Pod(own(side, number=number).pod, phase=phase)


PODS = [alive(PRIMARY), alive(PAIR)]


def old(link: Link) -> Link:
    return replace(link, uid="uid-1", created=OLD)


def test_a_link_of_living_pods_is_no_garbage() -> None:
    assert orphaned_links([old(vxlan())], PODS, NODES, NOW, GRACE) == ()
    assert orphaned_links([], [], set(), NOW, GRACE) == ()


@pytest.mark.parametrize(
    ("pods", "nodes", "dead"),
    [
        ([alive(PRIMARY)], NODES, {PAIR: "pair default/pair-pod: the pod with UID pair-pod-uid1 is gone"}),
        (
            [alive(PRIMARY), alive(PAIR, number=2)],
            NODES,
            {PAIR: "pair default/pair-pod: the pod with UID pair-pod-uid1 is gone"},
        ),
        (PODS, {"node-a"}, {PAIR: "pair default/pair-pod: node node-b no longer exists"}),
        (
            [alive(PRIMARY, phase="Succeeded"), alive(PAIR)],
            NODES,
            {PRIMARY: "primary default/primary-pod: the pod is Succeeded"},
        ),
        (
            [alive(PRIMARY, phase="Failed"), alive(PAIR)],
            NODES,
            {PRIMARY: "primary default/primary-pod: the pod is Failed"},
        ),
        (
            [],
            NODES,
            {
                PRIMARY: "primary default/primary-pod: the pod with UID primary-pod-uid1 is gone",
                PAIR: "pair default/pair-pod: the pod with UID pair-pod-uid1 is gone",
            },
        ),
    ],
    ids=["pod gone", "pod re-created", "node gone", "pod succeeded", "pod failed", "both gone"],
)
def test_an_end_is_dead_with_its_pod_or_node(pods: list[Pod], nodes: set[str], dead: dict[Side, str]) -> None:
    (orphan,) = orphaned_links([old(vxlan())], pods, nodes, NOW, GRACE)
    assert orphan.link == vxlan()
    assert orphan.dead == tuple(DeadEnd(side, own(side).container_id, why) for side, why in dead.items())
    assert orphan.why == "; ".join(dead.values())


def test_a_pod_of_that_name_in_another_namespace_does_not_count() -> None:
    ref = own(PAIR).pod
    stranger = Pod(PodRef("other", ref.name, ref.uid), phase="Running")
    (orphan,) = orphaned_links([old(vxlan())], [alive(PRIMARY), stranger], NODES, NOW, GRACE)
    assert [end.side for end in orphan.dead] == [PAIR]


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown"])
def test_a_pod_that_may_yet_run_is_alive(phase: str) -> None:
    assert orphaned_links([old(vxlan())], [alive(PRIMARY, phase=phase), alive(PAIR)], NODES, NOW, GRACE) == ()


def test_an_end_that_nobody_has_joined_is_not_dead() -> None:
    assert orphaned_links([old(joined(own(PRIMARY), None))], PODS, NODES, NOW, GRACE) == ()


def test_a_record_that_nobody_has_joined_is_garbage() -> None:
    (orphan,) = orphaned_links([old(joined(None, None))], PODS, NODES, NOW, GRACE)
    assert orphan.dead == ()
    assert orphan.why == "nobody has joined it"


@pytest.mark.parametrize(("age", "spared"), [(299, True), (300, False), (301, False), (-60, True)])
def test_the_young_are_spared(age: int, spared: bool) -> None:
    moment = NOW - timedelta(seconds=age)
    made = replace(vxlan(), created=moment)
    changed = replace(vxlan(), created=OLD, history=(Transition(moment, State.PENDING, State.PENDING, "joined"),))
    for link in (made, changed):
        assert bool(orphaned_links([link], [], NODES, NOW, GRACE)) is not spared


def test_a_record_of_unknown_age_is_judged_as_old() -> None:
    assert orphaned_links([vxlan()], [], NODES, NOW, GRACE)


def lease(vni: int = 11, holder: str = "uid-1", age: int = 3600) -> VniLease:
    return VniLease(vni, holder, f"lease-{vni}", "7", NOW - timedelta(seconds=age))


@pytest.mark.parametrize(
    ("held", "orphaned"),
    [
        (lease(), False),
        (lease(vni=12), False),  # a surplus one of a live record goes with the record
        (lease(holder="uid-2"), True),
        (lease(holder=""), True),
        (lease(holder="uid-2", age=299), False),
        (lease(holder="uid-2", age=300), True),
        (replace(lease(holder="uid-2"), created=None), True),
    ],
    ids=["held", "surplus", "of a dead record", "without a holder", "young", "old enough", "of unknown age"],
)
def test_a_lease_is_garbage_when_no_record_has_its_holders_uid(held: VniLease, orphaned: bool) -> None:
    found = orphaned_leases([held], {replace(old(vxlan()), vni=11).uid}, NOW, GRACE)
    assert [orphan.lease for orphan in found] == ([held] if orphaned else [])


def test_a_record_made_again_under_the_name_does_not_hold_the_old_ones_lease() -> None:
    again = replace(old(vxlan()), uid="uid-2", vni=11)
    (orphan,) = orphaned_leases([lease()], {again.uid}, NOW, GRACE)
    assert orphan.why == "no record has the UID uid-1"


def test_the_sign_of_life_of_a_node_is_garbage_when_there_is_no_such_node() -> None:
    here, gone = NodeLease("a", "10.0.0.1"), NodeLease("b", "10.0.0.2")
    assert orphaned_nodes([here, gone], {"a", "c"}) == (gone,)
