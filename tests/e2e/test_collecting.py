"""Garbage collection by the deployed CronJob."""

from __future__ import annotations

import pytest

from ratchet.core.model import Side, State
from ratchet.store.store import ApiStore
from tests.e2e.garbage import gc_run, planted
from tests.e2e.world import PAIR, RATCHET, World, label_side, pod, primary
from tests.support.links import joined, own


def test_gc_removes_orphans_and_keeps_live_links(world: World, store: ApiStore) -> None:
    """Three concurrent runs remove a record without pods and a Lease without a record."""
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    world.wait_until_linked(1)
    orphan = joined(own(Side.PRIMARY, "node-a"), own(Side.PAIR, "node-c"))
    with planted(store, orphan), gc_run(world, "gc-0", "gc-1", "gc-2"):
        assert world.states() == ["linked"]
        assert world.pings("p", "10.99.1.2")
        assert store.links.get(orphan.name) is None
        assert world.vni_leases() == [f"lease.coordination.k8s.io/vni-{world.vni()}"]


def test_force_deleted_pods_leave_nothing(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait_until_linked(1)
    world.kubectl("delete", "pod", "p", "q", "--force", "--grace-period=0")
    world.wait_until_nothing_is_left()


@pytest.mark.timeout(400)
def test_gc_removes_the_ends_of_a_deleted_node(world: World, store: ApiStore) -> None:
    """Its ends are removed, and links on the other node stay. Then the node rejoins the cluster."""
    world.apply(
        pod("p", "node-a", primary("q")),
        pod("q", "node-b", PAIR),
        *(pod("x", "node-b", primary("y", 2)), pod("y", "node-b", PAIR)),
        *(pod("v", "node-a", primary("w", 3)), pod("w", "node-a", PAIR)),
    )
    world.wait("condition=Ready", "pod", "--all")
    world.wait_until_linked(3)
    node = world.b
    node.stop()
    try:
        world.kubectl("delete", "node", node.name)
        # The controller manager deletes the pods of nodes that do not exist, within about a minute.
        world.kubectl("wait", "--for=delete", "pod/q", "pod/x", "pod/y", "--timeout=150s", seconds=160)
        with gc_run(world, "gc-node"):
            states = {name: data["state"] for name, data in world.records().items()}
            assert states == {"p.in1.q.in2": State.PRIMARY_READY, "v.in1.w.in2": State.LINKED}
            assert [lease.node for lease in store.nodes.list_leases()] == ["node-a"]
            assert world.pings("v", "10.99.3.2")
    finally:
        world.boot(node)
        node.wait_until_ready(store.api)
        label_side(world, node)
        world.kubectl("rollout", "status", "-n", RATCHET, "daemonset", "--timeout=90s")
    world.apply(pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/q")
    world.wait_until_linked(2)
    world.wait_for_ping("p", "10.99.1.2")
