"""Garbage collection by the CronJob as it is deployed; and that nobody may do more than they do, nor has to."""

from __future__ import annotations

import json

import pytest

from ratchet.core.model import Side
from ratchet.store.apiserver import connect
from ratchet.store.records import Records
from tests.e2e.world import PAIR, RATCHET, World, pod, primary
from tests.support.links import joined, own

NOBODY = "00000000-0000-0000-0000-000000000000"
LEASE = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": "vni-4711", "namespace": RATCHET},
    "spec": {"holderIdentity": NOBODY},
}


@pytest.fixture
def records(world: World) -> Records:
    return Records(connect(str(world.cluster.kubeconfig)), RATCHET)


def start_gc(world: World, job: str) -> None:
    """A run of the CronJob, for which nothing is too young."""
    made = json.loads(
        world.kubectl(*f"create job -n {RATCHET} --from=cronjob/ratchet-gc {job} --dry-run=client -o json".split())
    )
    made["spec"]["template"]["spec"]["containers"][0]["args"] = ["gc", "--grace", "0"]
    world.kubectl("apply", "-n", RATCHET, "-f", "-", stdin=json.dumps(made))


def finish_gc(world: World, *jobs: str) -> None:
    for job in jobs:
        world.kubectl("wait", "-n", RATCHET, "--for=condition=complete", f"job/{job}", "--timeout=60s")
    world.kubectl("delete", "job", "-n", RATCHET, *jobs)


def plant(world: World, records: Records) -> None:
    """A record whose pods never were, a number that nobody has, and a live link's end that is nobody's any more."""
    records.create(joined(own(Side.PRIMARY, "node-a"), own(Side.PAIR, "node-b")))
    world.kubectl("apply", "-n", RATCHET, "-f", "-", stdin=json.dumps(LEASE))


def test_what_no_node_can_clean_is_collected(world: World, records: Records) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    world.wait_until_linked(1)
    plant(world, records)
    jobs = [f"gc-{number}" for number in range(3)]
    for job in jobs:
        start_gc(world, job)
    finish_gc(world, *jobs)
    assert world.states() == ["linked"]
    assert world.pings("p", "10.99.1.2")
    assert "lease.coordination.k8s.io/vni-4711" not in world.vnis()
    assert records.link("default.primary-pod.in1.pair-pod.in2") is None


def test_pods_that_are_deleted_by_force_leave_nothing(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait_until_linked(1)
    world.kubectl("delete", "pod", "p", "q", "--force", "--grace-period=0")
    world.wait_until_nothing_is_left()
