"""Operations on links by the ConfigMap of their namespace: held down, cut, flapped, for a time."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ratchet.cli.main import main
from ratchet.core.model import State
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.support.cluster import Cluster
from tests.support.declarations import NOTHING, TO_X, TO_Y, Placed, add_all, assert_one_link, in_topology, place
from tests.support.link_monitor import link_monitor
from tests.support.wired import has_carrier

LINK = "default.x.in1.y.in1"
PANEL = in_topology("x:in1", "y:in1", wiring="panel")


@pytest.fixture
def linked(cluster: Cluster, node_of_y: str) -> Iterator[tuple[Placed, Placed]]:
    cluster.bed.create_topology("lab", PANEL)
    x, y = place(cluster, "x", NOTHING, cluster.a), place(cluster, "y", NOTHING, cluster.bed.kubelets[node_of_y])
    add_all(cluster, x, y)
    assert_one_link(cluster, x[1], y[1])
    yield x, y
    operate(cluster, None)


def operate(cluster: Cluster, operation: dict[str, object] | None, link: str = LINK) -> None:
    """Set the only operation of the namespace; None: there is none."""
    cluster.bed.set_operations({} if operation is None else {link: json.dumps(operation)})


def carriers(cluster: Cluster, *placed: Placed) -> list[bool]:
    return [has_carrier(cluster, sandbox, "in1") for _, sandbox in placed]


def wait_for_carrier(cluster: Cluster, has: bool, *placed: Placed) -> None:
    wait_for(f"carrier: {has}", lambda: carriers(cluster, *placed) == [has] * len(placed))


def indexes(cluster: Cluster, *placed: Placed) -> list[int]:
    return [cluster.show(sandbox, "in1")["ifindex"] for _, sandbox in placed]


def recorded(cluster: Cluster) -> str | None:
    """What the record says of the link's operation."""
    operation = cluster.bed.links()[LINK].operation
    return operation.words if operation is not None else None


both_nodes = pytest.mark.parametrize("node_of_y", ["a", "b"])


@both_nodes
def test_a_link_is_held_down_until_the_operation_is_removed(cluster: Cluster, linked: tuple[Placed, Placed]) -> None:
    x, y = linked
    before, generation = indexes(cluster, x, y), cluster.bed.links()[LINK].generation
    operate(cluster, {"operation": "down", "by": "alice"})
    wait_for_carrier(cluster, False, x, y)
    wait_for("the record", lambda: recorded(cluster) == "down")
    assert cluster.bed.links()[LINK].generation == generation, "an operation is no edit"
    for node in (cluster.a, cluster.b):
        cluster.renew(node)
    assert carriers(cluster, x, y) == [False, False]
    operate(cluster, None)
    wait_for_carrier(cluster, True, x, y)
    wait_for("a ping", lambda: cluster.pings(x[1], TO_Y))
    wait_for("the record", lambda: recorded(cluster) is None)
    assert cluster.state(LINK) is State.LINKED
    assert indexes(cluster, x, y) == before
    for reason in ("OperationStarted", "OperationEnded"):
        wait_for(reason, lambda reason=reason: cluster.pods_with_event(reason) >= {x[1].pod.uid, y[1].pod.uid})  # type: ignore[misc]


@both_nodes
def test_an_operation_ends_by_itself(cluster: Cluster, linked: tuple[Placed, Placed]) -> None:
    x, y = linked
    operate(cluster, {"operation": "down", "for": "1s"})
    wait_for_carrier(cluster, False, x, y)
    wait_for_carrier(cluster, True, x, y)
    wait_for("a ping", lambda: cluster.pings(x[1], TO_Y))
    for node in (cluster.a, cluster.b):
        cluster.renew(node)
    assert carriers(cluster, x, y) == [True, True]


@both_nodes
def test_a_cut_drops_what_one_end_sends(cluster: Cluster, linked: tuple[Placed, Placed]) -> None:
    x, y = linked
    for sender, receiver in ((x, y), (y, x)):
        operate(cluster, {"operation": "cut", "from": f"{sender[1].pod.name}:in1"})
        wait_for("the record", lambda at=sender: recorded(cluster) == f"cut from {at[1].pod.name}:in1")  # type: ignore[misc]
        wait_for("the cut", lambda: not cluster.carries(x[1], TO_Y, 100))
        lost, heard = packets(cluster, receiver), packets(cluster, sender)
        assert not cluster.carries(receiver[1], TO_Y if receiver is x else TO_X, 100)
        assert packets(cluster, sender) > heard, "what the other pod sends arrives"
        assert packets(cluster, receiver) == lost, "what this pod sends is dropped"
        assert carriers(cluster, x, y) == [True, True]
    operate(cluster, {"operation": "cut"})
    wait_for("the record", lambda: recorded(cluster) == "cut")
    operate(cluster, None)
    wait_for("a ping", lambda: cluster.pings(x[1], TO_Y))


def packets(cluster: Cluster, placed: Placed) -> int:
    """The packets that an interface has received."""
    (shown,) = json.loads(ip("-j", "-s", "-n", placed[1].netns, "link", "show", "dev", "in1"))
    return int(shown["stats64"]["rx"]["packets"])


@both_nodes
def test_a_flap_takes_the_carrier_as_often_as_it_says(cluster: Cluster, linked: tuple[Placed, Placed]) -> None:
    x, y = linked
    with link_monitor(x[1].netns) as of_x, link_monitor(y[1].netns) as of_y:
        operate(cluster, {"operation": "flap", "times": 3, "down": "300ms", "up": "300ms"})
        wait_for("the end", lambda: cluster.pods_with_event("OperationEnded") >= {x[1].pod.uid, y[1].pod.uid})
        wait_for_carrier(cluster, True, x, y)
    assert (of_x.losses("in1"), of_y.losses("in1")) == (3, 3)


@both_nodes
def test_an_operation_ends_on_time_although_its_agents_were_killed(
    cluster: Cluster, linked: tuple[Placed, Placed]
) -> None:
    x, y = linked
    operate(cluster, {"operation": "down", "for": "2s"})
    wait_for_carrier(cluster, False, x, y)
    for agent in cluster.bed.agents.values():
        agent.kill()
    for agent in cluster.bed.agents.values():
        agent.start()
    wait_for_carrier(cluster, True, x, y)
    operate(cluster, {"operation": "down", "for": "1h"})
    wait_for_carrier(cluster, False, x, y)
    for agent in cluster.bed.agents.values():
        agent.kill()
    operate(cluster, None)
    for agent in cluster.bed.agents.values():
        agent.start()
    wait_for_carrier(cluster, True, x, y)
    wait_for("the record", lambda: recorded(cluster) is None)


@both_nodes
def test_a_pod_that_starts_during_an_operation_has_no_carrier(cluster: Cluster, linked: tuple[Placed, Placed]) -> None:
    x, y = linked
    operate(cluster, {"operation": "down"})
    wait_for_carrier(cluster, False, x, y)
    assert y[0].delete(y[1]).status == 0
    again = y[0], cluster.sandbox(y[0], y[1].pod)
    add_all(cluster, again)
    cluster.wait_until(State.LINKED, LINK)
    for node in (cluster.a, cluster.b):
        cluster.renew(node)
    assert carriers(cluster, x, again) == [False, False]
    operate(cluster, None)
    wait_for_carrier(cluster, True, x, again)


@both_nodes
def test_an_operation_holds_a_link_up_that_is_declared_down(cluster: Cluster, linked: tuple[Placed, Placed]) -> None:
    x, y = linked
    cluster.bed.edit_topology("lab", in_topology("x:in1", "y:in1", wiring="panel", state="down"))
    wait_for_carrier(cluster, False, x, y)
    operate(cluster, {"operation": "up"})
    wait_for_carrier(cluster, True, x, y)
    operate(cluster, None)
    wait_for_carrier(cluster, False, x, y)


@pytest.mark.parametrize("node_of_y", ["b"])
@pytest.mark.parametrize(
    ("operation", "cause"),
    [
        ({"operation": "reboot"}, 'operation: invalid operation \\"reboot\\"'),
        ({"operation": "cut", "from": "z:in1"}, "from: the link has no endpoint z:in1"),
    ],
)
def test_an_invalid_operation_is_refused_with_an_event(
    cluster: Cluster, linked: tuple[Placed, Placed], operation: dict[str, object], cause: str
) -> None:
    x, y = linked
    operate(cluster, operation)
    wait_for("an Event", lambda: cluster.pods_with_event("OperationRefused") >= {x[1].pod.uid, y[1].pod.uid})
    assert cause in json.dumps(cluster.bed.api.list("/api/v1/namespaces/default/events"))
    assert carriers(cluster, x, y) == [True, True]
    assert recorded(cluster) is None


@pytest.mark.parametrize("node_of_y", ["b"])
def test_an_operation_goes_on_that_is_replaced_by_an_invalid_one(
    cluster: Cluster, linked: tuple[Placed, Placed]
) -> None:
    x, y = linked
    operate(cluster, {"operation": "down", "for": "1h"})
    wait_for_carrier(cluster, False, x, y)
    operate(cluster, {"operation": "dwon"})
    wait_for("an Event", lambda: cluster.pods_with_event("OperationRefused") >= {x[1].pod.uid, y[1].pod.uid})
    for node in (cluster.a, cluster.b):
        cluster.renew(node)
    assert carriers(cluster, x, y) == [False, False]
    operate(cluster, None)
    wait_for_carrier(cluster, True, x, y)


@pytest.mark.parametrize("node_of_y", ["a"])
def test_an_operation_on_a_link_in_direct_wiring_is_refused(cluster: Cluster, node_of_y: str) -> None:
    cluster.bed.create_topology("lab", in_topology("x:in1", "y:in1", wiring="direct"))
    x, y = place(cluster, "x", NOTHING, cluster.a), place(cluster, "y", NOTHING, cluster.bed.kubelets[node_of_y])
    add_all(cluster, x, y)
    assert_one_link(cluster, x[1], y[1])
    operate(cluster, {"operation": "down"})
    wait_for("an Event", lambda: cluster.pods_with_event("OperationRefused") >= {x[1].pod.uid, y[1].pod.uid})
    assert cluster.pings(y[1], TO_X)
    operate(cluster, None)


@both_nodes
def test_links_are_operated_by_command(
    cluster: Cluster, linked: tuple[Placed, Placed], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = linked

    def ratchet(*arguments: str) -> str:
        assert main([*arguments, "--kubeconfig", str(cluster.bed.access.kubeconfig)]) == 0
        return capsys.readouterr().out

    ratchet("link", "down", "x:in1", "-n", "default")
    wait_for_carrier(cluster, False, x, y)
    wait_for("the record", lambda: recorded(cluster) == "down")
    assert "linked(down)" in ratchet("links")
    (shown,) = json.loads(ratchet("link", "show", "y:in1", "-n", "default", "-o", "json"))
    assert (shown["link"], shown["operation"]) == (LINK, "down")
    ratchet("link", "cut", "y:in1", "--one-way", "-n", "default")
    wait_for_carrier(cluster, True, x, y)
    wait_for("the cut", lambda: recorded(cluster) == "cut from y:in1" and not cluster.carries(x[1], TO_Y, 100))
    ratchet("link", "clear", "x:in1", "-n", "default")
    wait_for("a ping", lambda: cluster.pings(x[1], TO_Y))
    ratchet("link", "flap", "x:in1", "--times", "1", "--down", "300ms", "-n", "default")
    wait_for("the record", lambda: (recorded(cluster) or "").startswith("flap 1 times"))
    wait_for("a ping", lambda: cluster.pings(x[1], TO_Y))
    ratchet("link", "up", "x:in1", "-n", "default")
    wait_for("the record", lambda: recorded(cluster) is None)
