"""The identity of a link: two endpoints in either order have one record, wherever it is declared."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ratchet.core.model import State
from ratchet.core.state_machine import derive
from ratchet.dev.testbed import wait_for
from tests.support.cluster import Cluster
from tests.support.declarations import (
    ASKS,
    NOTHING,
    SHORT,
    TO_Y,
    TRY,
    Declaration,
    Placed,
    X,
    Y,
    add_all,
    assert_one_link,
    in_labels,
    in_list,
    in_topology,
    place,
    restarted,
)
from tests.support.resync import IN_ORDER, Resync, held_at, records_at, resyncing
from tests.support.wired import assert_not_connected

pytestmark = pytest.mark.agent(**IN_ORDER)


@pytest.fixture
def resync(cluster: Cluster) -> Iterator[Resync]:
    with resyncing(cluster) as made:
        yield made


# The declarations of x and y. Both declare the same link.
EQUAL_DECLARATIONS: dict[str, tuple[Declaration, Declaration]] = {
    "two lists": (in_list("y", [X, Y]), in_list("x", [Y, X])),
    "labels of both": (in_labels("y", [X, Y]), in_labels("x", [Y, X])),
    "labels and a list": (in_labels("y", [X, Y]), in_list("x", [Y, X])),
    "addresses in another order": (in_list("y", [X, Y]), in_list("x", [Y[::-1], X[::-1]])),
}


def start_in_turn(cluster: Cluster, early: Placed, late: Callable[[], Placed]) -> Placed:
    """Start a pod, create the other one once the first waits for it, and assert that both ADDs succeed."""
    name = early[1].pod.name
    waiting = cluster.start("ADD", *early, config=SHORT)
    wait_for(f"the record of {name}", lambda: bool(records_at(cluster.bed, name, "in1")))
    node, sandbox = placed = late()
    answers = node.add(sandbox, config=SHORT), cluster.end(waiting)
    assert [one.status for one in answers] == [0, 0], answers
    early[1].result = answers[1].json
    return placed


def end(cluster: Cluster, resync: Resync, *placed: Placed) -> None:
    """Delete the pods, and assert that nothing is left."""
    resync.stop()
    cluster.delete_all(*placed)
    cluster.assert_nothing_left()


# Several declarations of one link


@pytest.mark.parametrize("first", ["x", "y"])
@pytest.mark.parametrize("declared", EQUAL_DECLARATIONS)
def test_a1_a_link_that_both_pods_declare_is_one_record(
    cluster: Cluster, resync: Resync, declared: str, first: str
) -> None:
    of_x, of_y = EQUAL_DECLARATIONS[declared]
    pods = [("x", of_x, cluster.a), ("y", of_y, cluster.b)][:: 1 if first == "x" else -1]
    early = place(cluster, *pods[0])
    late = start_in_turn(cluster, early, lambda: place(cluster, *pods[1]))
    (_, x), (_, y) = (early, late) if first == "x" else (late, early)
    assert_one_link(cluster, x, y)
    resync.assert_steady((x, "in1"), (y, "in1"), TO_Y)
    end(cluster, resync, early, late)


def test_a1_a_link_on_one_node_that_both_pods_declare_is_one_record(cluster: Cluster, resync: Resync) -> None:
    of_x, of_y = EQUAL_DECLARATIONS["two lists"]
    y = place(cluster, "y", of_y, cluster.a)
    x = start_in_turn(cluster, y, lambda: place(cluster, "x", of_x, cluster.a))
    assert_one_link(cluster, x[1], y[1])
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    end(cluster, resync, x, y)


@pytest.mark.parametrize("first", ["topology", "pod"])
def test_a1_a_link_that_a_pod_and_a_topology_declare_is_one_record(
    cluster: Cluster, resync: Resync, first: str
) -> None:
    """Create the topology before both pods, or while the pod that declares the link waits."""
    topology, of_y = in_topology("x:in1", "y:in1", [X, Y]), in_labels("x", [Y, X])
    if first == "topology":
        cluster.bed.create_topology("lab", topology)
        x = place(cluster, "x", NOTHING, cluster.a)
        y = start_in_turn(cluster, x, lambda: place(cluster, "y", of_y, cluster.b))
    else:
        y = place(cluster, "y", of_y, cluster.b)

        def declare_and_place() -> Placed:
            cluster.bed.create_topology("lab", topology)
            return place(cluster, "x", NOTHING, cluster.a)

        x = start_in_turn(cluster, y, declare_and_place)
    assert_one_link(cluster, x[1], y[1])
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    end(cluster, resync, x, y)


@pytest.mark.parametrize("restarts", ["x", "y"])
def test_a1_endpoints_that_are_swapped_in_a_topology_are_the_same_link(
    cluster: Cluster, resync: Resync, restarts: str
) -> None:
    """Swap the endpoints while the pods run, then restart one pod. Both steps keep the record."""
    cluster.bed.create_topology("lab", in_topology("x:in1", "y:in1", [X, Y]))
    x, y = place(cluster, "x", NOTHING, cluster.a), place(cluster, "y", NOTHING, cluster.b)
    add_all(cluster, x, y)
    assert_one_link(cluster, x[1], y[1])
    cluster.bed.edit_topology("lab", in_topology("y:in1", "x:in1", [Y, X]))
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    (again,) = restarted(cluster, x if restarts == "x" else y)
    x, y = (again, y) if restarts == "x" else (x, again)
    assert_one_link(cluster, x[1], y[1])
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    end(cluster, resync, x, y)


@pytest.mark.parametrize("declared", ["a list", "labels", "a topology"])
def test_a1_both_pods_are_rejected_if_their_link_has_different_addresses(cluster: Cluster, declared: str) -> None:
    """Declare the link in a list of y, and with another address in x or in a topology."""
    other = ["10.0.9.1/24"]
    of_x = {"a list": in_list("y", [other, Y]), "labels": in_labels("y", [other, Y]), "a topology": NOTHING}[declared]
    if declared == "a topology":
        cluster.bed.create_topology("lab", in_topology("x:in1", "y:in1", [other, Y]))
    placed = [place(cluster, "x", of_x, cluster.a), place(cluster, "y", in_list("x", [Y, X]), cluster.b)]
    places = ("topology default/lab: line 1" if declared == "a topology" else "of pod default/x", "of pod default/y")
    for node, sandbox in placed:
        refused = node.add(sandbox, config=TRY)
        assert refused.status == 1
        for one in places:
            assert one in refused.error
        assert cluster.interfaces(sandbox) == []
    assert cluster.bed.links() == {}
    cluster.delete_all(*placed)
    cluster.assert_nothing_left()


# A pod with an alias

ALIAS = {"ratchet.pod_name": "router"}


@pytest.mark.parametrize("first", ["x", "y"])
@pytest.mark.parametrize("peer", ["router", "y"])
def test_a1_an_alias_and_a_pod_name_identify_the_same_pod(
    cluster: Cluster, resync: Resync, peer: str, first: str
) -> None:
    """Declare the link in both pods. x names y by alias or by pod name, before or after y exists."""
    labels, annotations = in_list("x", [Y, X])
    declared = [("x", in_list(peer, [X, Y]), cluster.a), ("y", ({**labels, **ALIAS}, annotations), cluster.b)]
    pods = declared[:: 1 if first == "x" else -1]
    early = place(cluster, *pods[0])
    late = start_in_turn(cluster, early, lambda: place(cluster, *pods[1]))
    (_, x), (_, y) = (early, late) if first == "x" else (late, early)
    assert_one_link(cluster, x, y)
    resync.assert_steady((x, "in1"), (y, "in1"), TO_Y)
    end(cluster, resync, early, late)


@pytest.mark.parametrize("first", ["x", "y"])
def test_a1_a_pod_name_in_a_topology_and_an_alias_in_labels_are_one_link(
    cluster: Cluster, resync: Resync, first: str
) -> None:
    cluster.bed.create_topology("lab", in_topology("y:in1", "x:in1", [Y, X]))
    x = place(cluster, "x", in_labels("router", [X, Y]), cluster.a)
    y = place(cluster, "y", ({**ASKS, **ALIAS}, {}), cluster.b)
    early, late = (x, y) if first == "x" else (y, x)
    start_in_turn(cluster, early, lambda: late)
    assert_one_link(cluster, x[1], y[1])
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    end(cluster, resync, x, y)


@pytest.mark.parametrize("restarts", ["x", "y"])
def test_a1_a_topology_may_change_from_an_alias_to_the_name_of_the_pod(
    cluster: Cluster, resync: Resync, restarts: str
) -> None:
    cluster.bed.create_topology("lab", in_topology("x:in1", "router:in1", [X, Y]))
    x = place(cluster, "x", NOTHING, cluster.a)
    y = place(cluster, "y", ({**ASKS, **ALIAS}, {}), cluster.b)
    add_all(cluster, x, y)
    assert_one_link(cluster, x[1], y[1])
    cluster.bed.edit_topology("lab", in_topology("x:in1", "y:in1", [X, Y]))
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    (again,) = restarted(cluster, x if restarts == "x" else y)
    x, y = (again, y) if restarts == "x" else (x, again)
    assert_one_link(cluster, x[1], y[1])
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    end(cluster, resync, x, y)


# Links that are edited while their pods run


@pytest.mark.parametrize("node_of_peers", ["a", "b"])
def test_a2_an_edited_link_stays_until_the_pod_that_keeps_its_end_restarts(
    cluster: Cluster, resync: Resync, node_of_peers: str
) -> None:
    """Restart x only, if there are agents. Without agents the old and the new peer must restart too."""
    node = cluster.a if node_of_peers == "a" else cluster.b
    cluster.bed.create_topology("lab", in_topology("x:in1", "y:in1", on_edit="restart"))
    x, y, z = (
        place(cluster, "x", NOTHING, cluster.a),
        place(cluster, "y", NOTHING, node),
        place(cluster, "z", NOTHING, node),
    )
    add_all(cluster, x, y, z)
    assert_one_link(cluster, x[1], y[1])
    cluster.bed.edit_topology("lab", in_topology("x:in1", "z:in1", on_edit="restart"))
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    assert_not_connected(cluster, z[1])
    if cluster.bed.agents:
        (x,) = restarted(cluster, x)
        resync.run()
        wait_for("y without its end", lambda: not held_at(cluster.bed, y[1], "in1"))
        wait_for("y without its interface", lambda: cluster.interfaces(y[1]) == [])
    else:
        x, y, z = restarted(cluster, x, y, z)
    assert_one_link(cluster, x[1], z[1])
    assert records_at(cluster.bed, "y", "in1") == []
    resync.assert_steady((x[1], "in1"), (z[1], "in1"), TO_Y)
    end(cluster, resync, x, y, z)


@pytest.mark.parametrize("node_of_peer", ["a", "b"])
@pytest.mark.parametrize("comes_again", ["a new sandbox", "a new pod"])
def test_a3_a_restart_with_another_interface_links_to_the_same_peer_interface(
    cluster: Cluster, resync: Resync, comes_again: str, node_of_peer: str
) -> None:
    """Change the interface of x. Releasing the old end of y must not remove its new interface."""
    named = {**ASKS, "ratchet.primary": "false"}
    y = place(cluster, "y", (named, {}), cluster.a if node_of_peer == "a" else cluster.b)
    x = place(cluster, "x", in_labels("y", [X, Y]), cluster.a)
    add_all(cluster, x, y)
    assert_one_link(cluster, x[1], y[1])
    changed = in_labels("y", [X, Y], ifname="in5")
    restarting = [x] if cluster.bed.agents else [x, y]
    if comes_again == "a new sandbox":
        cluster.bed.api.patch(f"{cluster.bed.pods_path}/x", {"metadata": {"labels": changed[0]}})
        x, *peers = restarted(cluster, *restarting)
    else:
        for node, sandbox in restarting:
            assert node.delete(sandbox).status == 0
        cluster.bed.delete_pod(x[1].pod)
        x = place(cluster, "x", changed, cluster.a)
        peers = [(node, cluster.sandbox(node, sandbox.pod)) for node, sandbox in restarting[1:]]
        add_all(cluster, x, *peers)
    y = (peers or [y])[0]
    wait_for("the new link", lambda: [derive(one) for one in held_at(cluster.bed, x[1], "in5")] == [State.LINKED])
    before = cluster.show(y[1], "in1")["ifindex"]
    resync.run()
    wait_for("the end of the old record", lambda: records_at(cluster.bed, "x", "in1") == [])
    assert cluster.show(y[1], "in1")["ifindex"] == before
    assert_one_link(cluster, x[1], y[1], ("in5", "in1"))
    resync.assert_steady((x[1], "in5"), (y[1], "in1"), TO_Y)
    end(cluster, resync, x, y)


@pytest.mark.parametrize("claimed", ["x:in1", "y:in2"])
@pytest.mark.parametrize("claimant", ["starts later", "runs already"])
def test_a4_a_topology_link_cannot_take_the_interface_of_a_running_link(
    cluster: Cluster, resync: Resync, claimant: str, claimed: str
) -> None:
    """Claim an interface of a running link in a topology. The error of the other pod names the interface."""
    x = place(cluster, "x", in_labels("y", [X, Y], peer_ifname="in2"), cluster.a)
    y = place(cluster, "y", NOTHING, cluster.b)
    z = place(cluster, "z", NOTHING, cluster.b) if claimant == "runs already" else None
    add_all(cluster, x, y, *([z] if z else []))
    assert_one_link(cluster, x[1], y[1], ("in1", "in2"))
    cluster.bed.create_topology("lab", in_topology("z:in3", claimed))
    resync.assert_steady((x[1], "in1"), (y[1], "in2"), TO_Y)
    if z:
        assert_not_connected(cluster, z[1])
        assert z[0].delete(z[1]).status == 0
        z = z[0], cluster.sandbox(z[0], z[1].pod)
    else:
        z = place(cluster, "z", NOTHING, cluster.b)
    refused = z[0].add(z[1], config=TRY)
    assert refused.status == 1
    assert claimed.partition(":")[2] in refused.error
    assert cluster.interfaces(z[1]) == []
    resync.assert_steady((x[1], "in1"), (y[1], "in2"), TO_Y)
    end(cluster, resync, x, y, z)
