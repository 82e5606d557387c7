"""Garbage collection by the CronJob as it is deployed; and that nobody may do more than they do, nor has to."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ratchet.core.model import Side
from ratchet.store.apiserver import connect
from ratchet.store.codec import encode_vni_lease
from ratchet.store.records import Records
from tests.e2e.world import PAIR, RATCHET, World, pod, primary
from tests.support.links import joined, own

NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def records(world: World) -> Records:
    return Records(connect(str(world.cluster.kubeconfig)), RATCHET)


def start_gc(world: World, job: str) -> None:
    """A run of the CronJob, for which nothing is too young."""
    made = json.loads(
        world.kubectl(*f"create job -n {RATCHET} --from=cronjob/ratchet-gc {job} --dry-run=client -o json".split())
    )
    # The CronJob keeps one finished job of its own, and deletes the others at once.
    del made["metadata"]["ownerReferences"]
    made["spec"]["template"]["spec"]["containers"][0]["args"] = ["gc", "--grace", "0"]
    world.kubectl("apply", "-n", RATCHET, "-f", "-", stdin=json.dumps(made))


def finish_gc(world: World, *jobs: str) -> None:
    for job in jobs:
        world.kubectl("wait", "-n", RATCHET, "--for=condition=complete", f"job/{job}", "--timeout=60s")
    world.kubectl("delete", "job", "-n", RATCHET, *jobs)


def test_what_no_node_can_clean_is_collected(world: World, records: Records) -> None:
    """A record whose pods never were, and a number whose record is gone; nothing alive, though three collect."""
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    world.wait_until_linked(1)
    orphan = joined(own(Side.PRIMARY, "node-a"), own(Side.PAIR, "node-c"))
    records.create(orphan)
    records.api.create(records.leases_path, encode_vni_lease(4711, replace(orphan, uid=NOBODY)))
    jobs = [f"gc-{number}" for number in range(3)]
    for job in jobs:
        start_gc(world, job)
    finish_gc(world, *jobs)
    assert world.states() == ["linked"]
    assert world.pings("p", "10.99.1.2")
    assert records.link(orphan.name) is None
    assert world.vnis() == ["lease.coordination.k8s.io/vni-11"]


def test_pods_that_are_deleted_by_force_leave_nothing(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait_until_linked(1)
    world.kubectl("delete", "pod", "p", "q", "--force", "--grace-period=0")
    world.wait_until_nothing_is_left()
