"""Links in panel wiring: a survivor keeps its interface while its peer restarts, moves to another node and back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.world import CONTAINER, PAIR, World, pod, primary, wait_for

MOVES = ("node-a", "node-b", "node-a")


def identity(world: World) -> tuple[Any, ...]:
    shown = world.device("p", "in1")
    return shown["ifindex"], shown["address"], shown["mtu"], shown["linkinfo"]["info_kind"]


def has_carrier(world: World, name: str, ifname: str) -> bool:
    return "LOWER_UP" in world.device(name, ifname)["flags"]


@pytest.mark.timeout(300)
def test_a_survivor_keeps_its_interface_while_its_peer_moves(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q") | {"ratchet.wiring": "panel"}))
    world.wait("condition=Ready", "pod/p")
    before = identity(world)
    assert before[-1] == "veth"
    assert not has_carrier(world, "p", "in1"), "its peer is not there yet"
    for node in MOVES:
        world.apply(pod("q", node, PAIR))
        world.wait("condition=Ready", "pod/q")
        world.wait_until_linked(1)
        world.wait_for_ping("p", "10.99.1.2")
        (record,) = world.records().values()
        assert (record["wiring"], record["kind"]) == ("panel", "patch" if node == "node-a" else "vxlan")
        assert identity(world) == before
        world.delete_pods("q")
        wait_for("p's end has lost its carrier", lambda: not has_carrier(world, "p", "in1"))
    assert identity(world) == before
    world.delete_pods("p")
    world.wait_until_nothing_is_left()


def test_a_pod_that_shuts_its_end_takes_the_carrier_of_the_other(world: World) -> None:
    labels = primary("q") | {"ratchet.wiring": "panel"}
    admin = {**CONTAINER, "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}
    world.apply(pod("p", "node-a", labels, containers=[admin]), pod("q", "node-a", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    world.wait_until_linked(1)
    for state, has in (("down", False), ("up", True)):
        world.kubectl("exec", "p", "--", "ip", "link", "set", "in1", state)
        wait_for(f"carrier {has}", lambda has=has: has_carrier(world, "q", "in2") is has)  # type: ignore[misc]
    world.wait_for_ping("q", "10.99.1.1")
