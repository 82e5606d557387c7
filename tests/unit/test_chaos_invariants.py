"""The conditions of a chaos run: each violation is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ratchet.core.model import Link, Side
from tests.chaos.invariants import (
    BOUND,
    CALM_SECONDS,
    Device,
    PodState,
    Snapshot,
    Usage,
    always,
    eventually,
    still_held,
    unanswered,
)
from tests.support import links
from tests.support.link_spec import LinkSpec

SPEC = LinkSpec("primary-pod", "in1", "pair-pod", "in2", 0)
VETHS = (Device("veth", 5, peer_index=7), Device("veth", 7, peer_index=5))
TUNNELS = tuple(Device("vxlan", 5, vni=11, remote=links.VTEPS[node]) for node in ("node-b", "node-a"))


def state(record: Link, side: Side, device: Device | None, calm: float = CALM_SECONDS) -> PodState:
    """The pod at a side of a record, with the device that its interface is."""
    end = record.end(side)
    assert end.sandbox is not None
    return PodState(end.name, end.sandbox.container_id, calm, {end.ifname: device} if device else {})


def snapshot(record: Link, *devices: Device | None, calm: float = CALM_SECONDS) -> Snapshot:
    """Two pods and the record between them."""
    states = [state(record, side, device, calm) for side, device in zip(Side, devices, strict=True)]
    return Snapshot(records={record.name: record}, pods={one.name: one for one in states})


def linked(record: Link) -> Link:
    return links.with_ready(record, *Side)


def of_veth(*devices: Device | None, calm: float = CALM_SECONDS) -> Snapshot:
    return snapshot(linked(links.veth()), *(devices or VETHS), calm=calm)


def of_vxlan(*devices: Device | None) -> Snapshot:
    return snapshot(linked(replace(links.vxlan(), vni=11)), *(devices or TUNNELS))


@pytest.mark.parametrize("made", [of_veth, of_vxlan])
def test_a_linked_link_has_no_problem(made: Callable[[], Snapshot]) -> None:
    assert always(made()) == []
    assert eventually(made(), [SPEC]) == []


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        (of_veth(VETHS[0], None), "in2 of pair-pod does not exist"),
        (of_veth(None, VETHS[1]), "in1 of primary-pod does not exist"),
        (of_veth(VETHS[0], replace(VETHS[1], peer_index=9)), "its vEth ends do not lead to each other"),
        (of_veth(replace(VETHS[0], peer_index=9), VETHS[1]), "its vEth ends do not lead to each other"),
        (of_veth(TUNNELS[0], VETHS[1]), "is a veth, and in1 of primary-pod is a vxlan"),
        (of_vxlan(TUNNELS[0], replace(TUNNELS[1], vni=12)), "has VNI 11, and its devices have 11 and 12"),
        (of_vxlan(*[replace(one, vni=12) for one in TUNNELS]), "has VNI 11, and its devices have 12 and 12"),
        (of_vxlan(TUNNELS[0], replace(TUNNELS[1], remote="192.0.2.1")), "its tunnels lead to"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_devices_that_do_not_lead_to_each_other_are_found(seen: Snapshot, problem: str) -> None:
    found = always(seen)
    assert len(found) == 1
    assert problem in found[0]
    assert eventually(seen, [SPEC]) == found


@pytest.mark.parametrize(
    "seen",
    [
        of_veth(None, VETHS[1], calm=CALM_SECONDS - 1),
        replace(of_vxlan(None, TUNNELS[1]), cut_nodes=["node-b"]),
        replace(of_vxlan(None, TUNNELS[1]), leases_lost=True),
        snapshot(links.with_ready(links.veth(), Side.PRIMARY), VETHS[0], None),
        replace(of_veth(), pods={}),
        replace(of_veth(), pods={name: replace(one, devices=None) for name, one in of_veth().pods.items()}),
    ],
    ids=[
        "pods that were called lately",
        "a cut node",
        "lost Leases",
        "not linked",
        "other sandboxes",
        "unknown devices",
    ],
)
def test_a_link_that_may_be_in_the_making_is_not_judged(seen: Snapshot) -> None:
    assert always(seen) == []


@pytest.mark.parametrize("changes", [{"cut_nodes": ["node-a"]}, {"leases_lost": True}], ids=["cut", "lost Leases"])
def test_a_veth_is_judged_without_a_network_and_leases(changes: dict[str, Any]) -> None:
    assert "does not exist" in always(replace(of_veth(None, VETHS[1]), **changes))[0]


def second_link(ifname: str, vni: int | None, node: str = "node-a") -> Link:
    """Another link of the primary, to another pod."""
    record = replace(links.vxlan(), name="other", vni=vni)
    return replace(
        record,
        primary=replace(record.primary, ifname=ifname, sandbox=links.sandbox("primary-pod", node)),
        pair=replace(record.pair, name="third", sandbox=links.sandbox("third", "node-c")),
    )


def both(other: Link) -> Snapshot:
    seen = of_vxlan()
    return replace(seen, records={**seen.records, other.name: other})


def test_an_interface_with_two_links_is_found() -> None:
    assert len(always(both(second_link("in1", 12)))) == 1
    assert always(both(second_link("in3", 12))) == []


def test_a_vni_with_two_links_on_one_node_is_found() -> None:
    assert always(both(second_link("in3", 11))) == ["VNI 11 has 2 links on node node-a"]
    assert always(replace(both(second_link("in3", 11)), leases_lost=True)) == []
    assert always(both(second_link("in3", None))) == []


def test_an_agent_that_exits_or_exceeds_its_bounds_is_found() -> None:
    assert always(Snapshot(exited=["b"])) == ["the agent of b exited by itself"]
    assert always(Snapshot(usages={"a": BOUND})) == []
    for more in (Usage(memory=1), Usage(threads=1), Usage(descriptors=1)):
        grown = Usage(BOUND.memory + more.memory, BOUND.threads + more.threads, BOUND.descriptors + more.descriptors)
        assert "the agent of a uses" in always(Snapshot(usages={"a": grown}))[0]


@pytest.mark.parametrize(
    ("seen", "specs", "problem"),
    [
        (replace(of_veth(), records={}), [SPEC], "has no record"),
        (of_veth(), [], "belongs to no declared link"),
        (both(replace(of_vxlan().records[links.RECORD], name="twice")), [SPEC], "has 2 records"),
        (snapshot(links.with_ready(links.veth(), Side.PAIR), *VETHS), [SPEC], "is pair-ready"),
        (
            replace(of_veth(), pods={name: replace(one, container_id="new") for name, one in of_veth().pods.items()}),
            [SPEC],
            "does not hold the current sandboxes",
        ),
        (replace(of_veth(), pods={}), [SPEC], "which is gone"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_must_hold_eventually_is_found(seen: Snapshot, specs: list[LinkSpec], problem: str) -> None:
    assert any(problem in one for one in eventually(seen, specs)), eventually(seen, specs)


def test_a_declared_link_of_a_pod_that_does_not_run_is_no_problem() -> None:
    assert eventually(Snapshot(), [SPEC]) == []


def test_a_record_that_holds_a_deleted_sandbox_is_found() -> None:
    record = links.veth()
    assert record.pair.sandbox is not None
    container = record.pair.sandbox.container_id
    assert still_held([record], {container}) == [
        f"{links.RECORD} holds sandbox {container[:6]} of pair-pod, whose DEL succeeded"
    ]
    assert still_held([record], {"another"}) == []


def test_pings_are_lost_since_the_last_answer() -> None:
    one, other = ("one",), ("other",)
    since = unanswered({}, {one: False, other: True}, 10.0)
    assert since == {one: 10.0, other: 10.0}
    assert unanswered(since, {one: False, other: True}, 14.0) == {one: 10.0, other: 14.0}
    assert unanswered(since, {one: True}, 14.0) == {one: 14.0}
    assert unanswered(since, {}, 14.0) == {}
