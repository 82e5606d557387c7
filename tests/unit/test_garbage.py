"""What is garbage: records and Leases of the dead, and nothing of the living or the young."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from ratchet.core.garbage import DeadEnd, VniLease, links_without_lease, orphaned_leases, orphaned_links, orphaned_nodes
from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import Link, Pod, PodRef, Side, State, Transition
from tests.support.links import NOW, joined, own, veth, vxlan

GRACE = timedelta(minutes=5)
OLD = NOW - timedelta(hours=1)
NODES: dict[str, datetime | None] = {"node-a": OLD, "node-b": OLD}
NO_LEASES: list[NodeLease] = []
STATIC = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
PRIMARY, PAIR = Side.PRIMARY, Side.PAIR


def alive(side: Side, number: int = 1, phase: str = "Running") -> Pod:
    return Pod(own(side, number=number).pod, phase=phase)


PODS = [alive(PRIMARY), alive(PAIR)]


def old(link: Link) -> Link:
    return replace(link, uid="uid-1", created=OLD)


def test_a_link_of_living_pods_is_no_garbage() -> None:
    assert orphaned_links([old(vxlan())], PODS, NODES, NO_LEASES, NOW, GRACE) == ()
    assert orphaned_links([], [], NODES, NO_LEASES, NOW, GRACE) == ()


@pytest.mark.parametrize(
    ("pods", "dead"),
    [
        ([alive(PRIMARY)], {PAIR: "pair default/pair-pod: the pod with UID pair-pod-uid1 is gone"}),
        (
            [alive(PRIMARY), alive(PAIR, number=2)],
            {PAIR: "pair default/pair-pod: the pod with UID pair-pod-uid1 is gone"},
        ),
        (
            [alive(PRIMARY, phase="Succeeded"), alive(PAIR)],
            {PRIMARY: "primary default/primary-pod: the pod is Succeeded"},
        ),
        (
            [alive(PRIMARY, phase="Failed"), alive(PAIR)],
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
def test_an_end_is_dead_with_its_pod(pods: list[Pod], dead: dict[Side, str]) -> None:
    (orphan,) = orphaned_links([old(vxlan())], pods, NODES, NO_LEASES, NOW, GRACE)
    assert orphan.link == vxlan()
    assert orphan.dead == tuple(DeadEnd(side, own(side).container_id, why) for side, why in dead.items())
    assert orphan.why == "; ".join(dead.values())


def test_a_pod_of_that_name_in_another_namespace_does_not_count() -> None:
    ref = own(PAIR).pod
    stranger = Pod(PodRef("other", ref.name, ref.uid), phase="Running")
    (orphan,) = orphaned_links([old(vxlan())], [alive(PRIMARY), stranger], NODES, NO_LEASES, NOW, GRACE)
    assert [end.side for end in orphan.dead] == [PAIR]


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown"])
def test_a_pod_that_may_yet_run_is_alive(phase: str) -> None:
    assert (
        orphaned_links([old(vxlan())], [alive(PRIMARY, phase=phase), alive(PAIR)], NODES, NO_LEASES, NOW, GRACE) == ()
    )


def of_static_pod(link: Link, mirror: str = STATIC) -> Link:
    """The link, with a static pod as its pair; the record has the UID of the mirror pod that ADD found."""
    holder = own(PAIR, "node-b")
    joined_then = replace(holder, pod=replace(holder.pod, mirror=mirror))
    return link.with_end(PAIR, replace(link.pair, sandbox=joined_then))


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
def test_a_static_pod_is_known_by_its_own_uid(recorded: str, pair: Pod | None, dead: bool) -> None:
    pods = [alive(PRIMARY), *([pair] if pair else [])]
    found = orphaned_links([old(of_static_pod(vxlan(), recorded))], pods, NODES, NO_LEASES, NOW, GRACE)
    assert [end.side for orphan in found for end in orphan.dead] == ([PAIR] if dead else [])


def renewed(age: float | None, node: str = "node-b") -> NodeLease:
    return NodeLease(node, "10.0.0.1", renewed=None if age is None else NOW - timedelta(seconds=age))


def young(age: float) -> dict[str, datetime | None]:
    """The Node objects, that of node-b created so many seconds ago."""
    return {**NODES, "node-b": NOW - timedelta(seconds=age)}


AWAY: dict[str, datetime | None] = {"node-a": OLD}


@pytest.mark.parametrize(
    ("nodes", "leases", "dead"),
    [
        (AWAY, [renewed(10)], False),
        (AWAY, [renewed(None)], False),
        (AWAY, [renewed(300)], True),
        (AWAY, [], True),
        (AWAY, [renewed(10, "node-a")], True),
        (NODES, [renewed(10)], True),
        ({**NODES, "node-b": None}, [renewed(10)], True),
        (young(299), [], False),
        (young(300), [renewed(10)], True),
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
def test_a_static_pod_may_be_without_a_mirror_while_its_node_is_away(
    nodes: dict[str, datetime | None], leases: list[NodeLease], dead: bool
) -> None:
    found = orphaned_links([old(of_static_pod(vxlan()))], [alive(PRIMARY)], nodes, leases, NOW, GRACE)
    assert [end.side for orphan in found for end in orphan.dead] == ([PAIR] if dead else [])


@pytest.mark.parametrize("pods", [[], [mirror_pod(number=2, mirror="another")]], ids=["ordinary", "new manifest"])
def test_what_is_known_to_be_gone_is_dead_while_its_node_is_away(pods: list[Pod]) -> None:
    link = of_static_pod(vxlan()) if pods else vxlan()
    (orphan,) = orphaned_links([old(link)], [alive(PRIMARY), *pods], AWAY, [renewed(10)], NOW, GRACE)
    assert [end.side for end in orphan.dead] == [PAIR]


@pytest.mark.parametrize("nodes", [NODES, AWAY, {}], ids=["there", "one missing", "all missing"])
def test_a_missing_node_kills_nothing_while_the_pods_are_there(nodes: dict[str, datetime | None]) -> None:
    for link in (vxlan(), of_static_pod(vxlan())):
        assert orphaned_links([old(link)], PODS, nodes, NO_LEASES, NOW, GRACE) == ()


def test_an_end_that_nobody_has_joined_is_not_dead() -> None:
    assert orphaned_links([old(joined(own(PRIMARY), None))], PODS, NODES, NO_LEASES, NOW, GRACE) == ()


def test_a_record_that_nobody_has_joined_is_garbage() -> None:
    (orphan,) = orphaned_links([old(joined(None, None))], PODS, NODES, NO_LEASES, NOW, GRACE)
    assert orphan.dead == ()
    assert orphan.why == "nobody has joined it"


@pytest.mark.parametrize(("age", "spared"), [(299, True), (300, False), (301, False), (-60, True)])
def test_the_young_are_spared(age: int, spared: bool) -> None:
    moment = NOW - timedelta(seconds=age)
    made = replace(vxlan(), created=moment)
    changed = replace(vxlan(), created=OLD, history=(Transition(moment, State.PENDING, State.PENDING, "joined"),))
    for link in (made, changed):
        assert bool(orphaned_links([link], [], NODES, NO_LEASES, NOW, GRACE)) is not spared


def test_a_record_of_unknown_age_is_judged_as_old() -> None:
    assert orphaned_links([vxlan()], [], NODES, NO_LEASES, NOW, GRACE)


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
    found = orphaned_leases([held], {replace(old(vxlan()), vni=11).uid}, (), NOW, GRACE)
    assert [orphan.lease for orphan in found] == ([held] if orphaned else [])


def test_a_lease_of_a_number_that_a_record_has_is_left_to_its_owner() -> None:
    """It was restored from a backup, with the UID that the record had then."""
    assert orphaned_leases([lease(holder="uid-2")], {"uid-1"}, {11}, NOW, GRACE) == ()


def test_records_that_do_not_hold_the_lease_of_their_vni_are_found() -> None:
    links = [replace(vxlan(), name=f"link-{vni}", uid=f"uid-{vni}", vni=vni) for vni in (11, 12, 13)]
    held = replace(lease(holder="uid-11"), vni=11)
    anothers = replace(lease(holder="uid-11"), vni=12)
    assert links_without_lease([*links, veth()], [held, anothers]) == ["link-12", "link-13"]


def test_a_record_made_again_under_the_name_does_not_hold_the_old_ones_lease() -> None:
    again = replace(old(vxlan()), uid="uid-2", vni=11)
    (orphan,) = orphaned_leases([lease()], {again.uid}, (), NOW, GRACE)
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
