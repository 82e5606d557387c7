"""FRR routers in panel wiring keep interfaces and daemons while a neighbour moves or their link is edited."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import cycle, islice
from statistics import median

import pytest

from tests.e2e import routers
from tests.e2e.routers import Observation, observe, wait_until_adjacent
from tests.e2e.world import World, kill_agent, wait_for

SURVIVORS = ("west", "east")  # of node-a and node-b: each move makes a tunnel of one link, and a patch of the other
PATH = ("node-a", "node-b", "node-b", "node-a")  # a restart and a move, alternately
MOVES = 100 if os.environ.get("RATCHET_EXHAUSTIVE") else 20
# The moves during which an agent is killed, and its node. Both leave node-a: its survivor's peer was local, the other
# one's will be. After another kill of the same agent, the kubelet would wait 10 s before it starts it.
KILLS = {5: "node-a", 9: "node-b"}
AT_ONCE = 5.0

pytestmark = pytest.mark.usefixtures("frr")


@pytest.fixture
def row(world: World) -> Iterator[World]:
    """The three routers, with Full adjacencies."""
    world.apply(routers.topology(), routers.configuration())
    world.apply(routers.router("west", "node-a"), routers.router("east", "node-b"), routers.router("transit", "node-a"))
    world.wait("condition=Ready", "pod", "--all")
    world.wait_until_linked(2)
    wait_until_adjacent(world)
    yield world
    world.delete_pods()
    world.wait_until_nothing_is_left()


@pytest.mark.timeout(0 if os.environ.get("RATCHET_EXHAUSTIVE") else 300)
def test_routers_keep_their_interface_and_daemons_while_their_neighbour_moves(
    row: World, capsys: pytest.CaptureFixture[str]
) -> None:
    before, seconds = wait_until_adjacent(row), []
    for number, node in enumerate(islice(cycle(PATH), 1, MOVES + 1), 1):
        started = time.monotonic()
        killed = KILLS.get(number)
        move_transit(row, node, killed)
        after = wait_until_adjacent(row)
        seconds.append(time.monotonic() - started)
        for name in SURVIVORS:
            where = f"{name}, move {number} to {node}"
            assert after[name].identity == before[name].identity, where
            losses, gains = carrier_changes(before[name], after[name])
            # An agent that is away until the neighbour is back has no loss to pass on.
            assert losses == gains == 1 or (killed and losses == gains == 0), where
        before = after
    with capsys.disabled():
        print(f" [{MOVES} moves: {min(seconds):.1f}, {median(seconds):.1f}, {max(seconds):.1f} s]", flush=True)


def test_running_routers_follow_edits_of_their_link_and_operations(row: World) -> None:
    before = wait_until_adjacent(row)

    row.apply(routers.topology(txqlen=500))
    wait_for("the queue length", lambda: row.device("west", "eth1")["txqlen"] == 500)
    edited = wait_until_adjacent(row)
    for name in SURVIVORS:
        assert edited[name].identity == before[name].identity
        assert carrier_changes(before[name], edited[name]) == (0, 0)
        assert (edited[name].full_ms or 0) > (before[name].full_ms or 0), "the adjacency was interrupted"

    row.apply(routers.topology(mtu=1300))
    wait_for("the MTU", lambda: observe(row, "west").mtu == 1300)
    edited = wait_until_adjacent(row)  # ospfd itself leaves an adjacency if the MTU changes
    for name in SURVIVORS:
        assert edited[name].identity == before[name].identity
        assert carrier_changes(before[name], edited[name]) == (0, 0)

    row.apply(routers.topology(mtu=1300, state="down"))
    wait_for("the loss of the adjacency", lambda: not observe(row, "west").is_adjacent, AT_ONCE)
    lost = observe(row, "west")
    assert not lost.has_carrier
    assert lost.identity == before["west"].identity
    assert observe(row, "east").is_adjacent, "its link is another one"

    row.apply(routers.topology(mtu=1300, state="up"))
    restored = wait_until_adjacent(row)
    for name, changes in (("west", (1, 1)), ("east", (0, 0))):
        assert restored[name].identity == before[name].identity
        assert carrier_changes(before[name], restored[name]) == changes

    row.apply(routers.topology(mtu=1300, state=["down", "up"]))  # transit receives nothing: only BFD can report it
    wait_for("the loss of the adjacency", lambda: not observe(row, "west").is_adjacent, AT_ONCE)
    assert observe(row, "west").has_carrier

    row.apply(routers.topology(mtu=1300))
    ended = wait_until_adjacent(row)
    for name in SURVIVORS:
        assert ended[name].identity == before[name].identity
        assert carrier_changes(restored[name], ended[name]) == (0, 0)

    row.ratchet("link", "down", "west:eth1", "-n", row.namespace, "--for", "5s")
    wait_for("the loss of the adjacency", lambda: not observe(row, "west").is_adjacent, AT_ONCE)
    assert "linked(down)" in row.ratchet("links", "-n", row.namespace)
    operated = wait_until_adjacent(row)  # it ends by itself
    for name, changes in (("west", (1, 1)), ("east", (0, 0))):
        assert operated[name].identity == before[name].identity
        assert carrier_changes(ended[name], operated[name]) == changes
    wait_for("the Events", lambda: {"OperationStarted", "OperationEnded"} <= reasons(row, "west"))


def reasons(world: World, name: str) -> set[str]:
    """The reasons of a pod's Events."""
    events = world.get("events", "--field-selector", f"involvedObject.name={name}")["items"]
    return {event["reason"] for event in events}


def move_transit(world: World, node: str, killed: str | None) -> None:
    """Delete the router `transit` and start it on a node. The agent of the node `killed` gets SIGKILL meanwhile."""
    world.kubectl("delete", "pod", "transit", "--wait=false", "--grace-period=1")
    if killed:
        kill_agent(world.node(killed))
    world.wait("delete", "pod/transit")
    world.apply(routers.router("transit", node))
    world.wait("condition=Ready", "pod/transit")


def carrier_changes(before: Observation, after: Observation) -> tuple[int, int]:
    return after.losses - before.losses, after.gains - before.gains
