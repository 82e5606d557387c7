"""Garbage collection by the CronJob as it is deployed."""

from __future__ import annotations

from ratchet.core.model import Side
from ratchet.store.records import Records
from tests.e2e.garbage import collected, planted
from tests.e2e.world import PAIR, World, pod, primary
from tests.support.links import joined, own


def test_what_no_node_can_clean_is_collected(world: World, records: Records) -> None:
    """A record whose pods never were, and a number whose record is gone; nothing alive, though three collect."""
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    world.wait_until_linked(1)
    orphan = joined(own(Side.PRIMARY, "node-a"), own(Side.PAIR, "node-c"))
    with planted(records, orphan), collected(world, "gc-0", "gc-1", "gc-2"):
        assert world.states() == ["linked"]
        assert world.pings("p", "10.99.1.2")
        assert records.link(orphan.name) is None
        assert world.vnis() == [f"lease.coordination.k8s.io/vni-{world.vni()}"]


def test_pods_that_are_deleted_by_force_leave_nothing(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait_until_linked(1)
    world.kubectl("delete", "pod", "p", "q", "--force", "--grace-period=0")
    world.wait_until_nothing_is_left()
