"""Declarations that change while pods run: a link is its two endpoints, and stays until a restart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratchet.dev.testbed import wait_for
from tests.support.cluster import PATIENT, Cluster, clean_cluster
from tests.support.declarations import (
    ASKS,
    NOTHING,
    TO_Y,
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


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with clean_cluster(agent=IN_ORDER) as made:
        yield made


@pytest.fixture
def resync(cluster: Cluster) -> Iterator[Resync]:
    with resyncing(cluster) as made:
        yield made


def declare(cluster: Cluster, pod: str, declared: Declaration) -> None:
    """Edit the labels and annotations of a pod."""
    labels, annotations = declared
    body = {"metadata": {"labels": labels, "annotations": annotations}}
    cluster.bed.api.patch(f"{cluster.bed.pods_path}/{pod}", body)


IN_ORDER_OF = {"xy": in_topology("x:in1", "y:in1", [X, Y]), "yx": in_topology("y:in1", "x:in1", [Y, X])}
"""One link in a topology, with its endpoints in either order."""


FROZEN = in_topology("x:in1", "y:in1", on_edit="restart")


def linked_by_topology(cluster: Cluster, topology: str = IN_ORDER_OF["xy"]) -> tuple[Placed, Placed]:
    """The pods x and y on two nodes, linked by a topology."""
    cluster.bed.create_topology("lab", topology)
    x, y = place(cluster, "x", NOTHING, cluster.a), place(cluster, "y", NOTHING, cluster.b)
    add_all(cluster, x, y)
    assert_one_link(cluster, x[1], y[1])
    return x, y


# Several declarations of one link


@pytest.mark.parametrize("first", ["x", "y"])
@pytest.mark.parametrize("nodes", ["aa", "ab"])
def test_a1_a_link_that_both_pods_declare_has_one_record_without_waiting(
    cluster: Cluster, resync: Resync, nodes: str, first: str
) -> None:
    """The first pod runs before the other one exists. Its agent completes the link."""
    on = {pod: cluster.bed.kubelets[node] for pod, node in zip("xy", nodes, strict=True)}
    declared = {"x": in_list("y", [X, Y]), "y": in_list("x", [Y, X])}
    placed = {}
    for pod in (first, "y" if first == "x" else "x"):
        node, sandbox = placed[pod] = place(cluster, pod, declared[pod], on[pod])
        assert node.add(sandbox, config=PATIENT).status == 0
    x, y = placed["x"][1], placed["y"][1]
    assert_one_link(cluster, x, y)
    resync.assert_steady((x, "in1"), (y, "in1"), TO_Y)


@pytest.mark.parametrize("order", IN_ORDER_OF)
@pytest.mark.parametrize("declarers", ["x", "y", "both"])
def test_a1_a_link_keeps_its_record_when_running_pods_declare_it_too(
    cluster: Cluster, resync: Resync, declarers: str, order: str
) -> None:
    """A topology declares the link first. Then one pod or both declare it in their annotations."""
    x, y = linked_by_topology(cluster, IN_ORDER_OF[order])
    declared = {"x": in_list("y", [X, Y]), "y": in_list("x", [Y, X])}
    for pod in ("x", "y") if declarers == "both" else declarers:
        declare(cluster, pod, declared[pod])
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    assert cluster.pods_with_event("WantsRestart") == set()


@pytest.mark.parametrize("order", IN_ORDER_OF)
def test_a1_a_link_keeps_its_record_when_a_topology_declares_it_too(
    cluster: Cluster, resync: Resync, order: str
) -> None:
    """The labels of y declare the link first. Then a topology declares it, in either order of endpoints."""
    x = place(cluster, "x", NOTHING, cluster.a)
    y = place(cluster, "y", in_labels("x", [Y, X]), cluster.b)
    add_all(cluster, x, y)
    assert_one_link(cluster, x[1], y[1])
    cluster.bed.create_topology("lab", IN_ORDER_OF[order])
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    assert cluster.pods_with_event("WantsRestart") == set()


def test_a1_swapped_endpoints_in_a_topology_do_not_change_a_link(cluster: Cluster, resync: Resync) -> None:
    x, y = linked_by_topology(cluster)
    for order in ("yx", "xy"):
        cluster.bed.edit_topology("lab", IN_ORDER_OF[order])
        resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    assert cluster.pods_with_event("WantsRestart") == set()


def test_a1_reordered_addresses_in_a_topology_do_not_change_a_link(cluster: Cluster, resync: Resync) -> None:
    x, y = linked_by_topology(cluster)
    cluster.bed.edit_topology("lab", in_topology("x:in1", "y:in1", [X[::-1], Y[::-1]]))
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    assert cluster.pods_with_event("WantsRestart") == set()


def test_a1_a_link_that_both_pods_declare_keeps_its_record_when_agents_restart(
    cluster: Cluster, resync: Resync
) -> None:
    x, y = place(cluster, "x", in_list("y", [X, Y]), cluster.a), place(cluster, "y", in_list("x", [Y, X]), cluster.b)
    for node, sandbox in (y, x):
        assert node.add(sandbox, config=PATIENT).status == 0
    assert_one_link(cluster, x[1], y[1])
    for node in (cluster.a, cluster.b):
        cluster.renew(node)
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)


# Edits while pods run


@pytest.mark.parametrize("peer", ["runs", "does not exist"])
def test_a2_a_link_whose_peer_is_edited_stays_until_its_pod_restarts(
    cluster: Cluster, resync: Resync, peer: str
) -> None:
    """It also stays when the agents restart. It is removed when the pod restarts."""
    z = place(cluster, "z", NOTHING, cluster.b) if peer == "runs" else None
    if z:
        add_all(cluster, z)
    x, y = linked_by_topology(cluster, FROZEN)
    cluster.bed.edit_topology("lab", in_topology("x:in1", "z:in1", on_edit="restart"))
    wait_for("an Event of x", lambda: x[1].pod.uid in cluster.pods_with_event("WantsRestart"))
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    for node in (cluster.a, cluster.b):
        cluster.renew(node)
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    assert x[0].delete(x[1]).status == 0
    again = cluster.sandbox(x[0], x[1].pod)
    assert x[0].add(again, config=PATIENT).status == 0
    resync.run()
    wait_for("y without its end", lambda: records_at(cluster.bed, "y", "in1") == [])
    wait_for("y without its interface", lambda: cluster.interfaces(y[1]) == [])
    if z is None:
        z = place(cluster, "z", NOTHING, cluster.b)
        add_all(cluster, z)
    assert_one_link(cluster, again, z[1])
    resync.assert_steady((again, "in1"), (z[1], "in1"), TO_Y)


def test_a2_an_edit_that_is_reverted_while_pods_run_has_no_effect(cluster: Cluster, resync: Resync) -> None:
    z = place(cluster, "z", NOTHING, cluster.b)
    add_all(cluster, z)
    x, y = linked_by_topology(cluster, FROZEN)
    for peer in ("z", "y"):
        cluster.bed.edit_topology("lab", in_topology("x:in1", f"{peer}:in1", on_edit="restart"))
        resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    assert cluster.interfaces(z[1]) == []
    assert records_at(cluster.bed, "z", "in1") == []
    (x,) = restarted(cluster, x)
    assert_one_link(cluster, x[1], y[1])


def test_a2_a_link_whose_first_endpoint_is_edited_stays_until_its_pod_restarts(
    cluster: Cluster, resync: Resync
) -> None:
    """The link stays until y restarts, the pod whose end is still declared."""
    z = place(cluster, "z", NOTHING, cluster.a)
    add_all(cluster, z)
    x, y = linked_by_topology(cluster, FROZEN)
    cluster.bed.edit_topology("lab", in_topology("z:in1", "y:in1", on_edit="restart"))
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    (y,) = restarted(cluster, y)
    resync.run()
    wait_for("x without its end", lambda: not held_at(cluster.bed, x[1], "in1"))
    wait_for("x without its interface", lambda: cluster.interfaces(x[1]) == [])
    assert_one_link(cluster, z[1], y[1])
    resync.assert_steady((z[1], "in1"), (y[1], "in1"), TO_Y)


def test_a2_a_link_whose_label_is_edited_stays_until_its_pod_restarts(cluster: Cluster, resync: Resync) -> None:
    z = place(cluster, "z", NOTHING, cluster.b)
    x, y = place(cluster, "x", in_labels("y", [X, Y]), cluster.a), place(cluster, "y", NOTHING, cluster.b)
    add_all(cluster, x, y, z)
    declare(cluster, "x", ({**ASKS, "ratchet.pair_name": "z"}, {}))
    wait_for("an Event of x", lambda: x[1].pod.uid in cluster.pods_with_event("WantsRestart"))
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    (x,) = restarted(cluster, x)
    resync.run()
    wait_for("y without its end", lambda: not held_at(cluster.bed, y[1], "in1"))
    assert_one_link(cluster, x[1], z[1])
    resync.assert_steady((x[1], "in1"), (z[1], "in1"), TO_Y)


# Interfaces in use


def test_a4_a_running_link_stays_when_a_topology_links_its_interfaces_elsewhere(
    cluster: Cluster, resync: Resync
) -> None:
    """The topology links x and y to v and w by the interfaces of the running link. All four pods run."""
    x, y = place(cluster, "x", in_labels("y", [X, Y]), cluster.a), place(cluster, "y", NOTHING, cluster.b)
    v, w = place(cluster, "v", NOTHING, cluster.b), place(cluster, "w", NOTHING, cluster.a)
    add_all(cluster, x, y, v, w)
    assert_one_link(cluster, x[1], y[1])
    cluster.bed.create_topology("lab", in_topology("v:in1", "x:in1") + in_topology("w:in1", "y:in1"))
    resync.assert_steady((x[1], "in1"), (y[1], "in1"), TO_Y)
    for _, sandbox in (v, w):
        assert_not_connected(cluster, sandbox)
