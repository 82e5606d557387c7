"""Peers that start late, move or are replaced, also by a StatefulSet and a Deployment."""

from __future__ import annotations

import pytest

from ratchet.errors import RatchetError
from tests.e2e.world import PAIR, World, agent_metrics, pod, primary, template, wait_for

LATE_SECONDS = 60
PAIRS = 20


@pytest.mark.timeout(200)
def test_a_link_is_completed_when_its_pair_starts_a_minute_late(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")))
    world.wait("condition=Ready", "pod/p", seconds=30)
    with pytest.raises(RatchetError, match="did not come about"):
        wait_for("the link", lambda: world.states() == ["linked"], LATE_SECONDS)
    world.apply(pod("q", "node-b", PAIR))
    world.wait_until_linked(1)
    world.wait_for_ping("p", "10.99.1.2")


def test_a_vxlan_becomes_a_veth_when_its_pair_moves_to_the_same_node(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    assert world.device("p", "in1")["linkinfo"]["info_kind"] == "vxlan"
    world.delete_pods("q")
    wait_for("p's end has lost its carrier", lambda: "LOWER_UP" not in world.device("p", "in1")["flags"])
    world.apply(pod("q", "node-a", PAIR))
    world.wait("condition=Ready", "pod/q")
    world.wait_until_linked(1)
    world.wait_for_ping("p", "10.99.1.2")
    assert world.device("p", "in1")["linkinfo"]["info_kind"] == "veth"


@pytest.mark.timeout(200)
def test_a_stateful_set_that_starts_pod_by_pod_becomes_a_ring(world: World) -> None:
    """Each pod declares a link to the next one, which is created only once the pod is Ready."""
    gated = template({"app": "ring"}, schedulingGates=[{"name": "example.com/labels"}])
    spec = {"replicas": 4, "serviceName": "ring", "selector": {"matchLabels": {"app": "ring"}}, "template": gated}
    world.apply({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "ring"}, "spec": spec})
    for number in range(4):
        name = f"ring-{number}"
        world.kubectl("wait", "--for=create", f"pod/{name}", "--timeout=60s")
        labels = primary(f"ring-{(number + 1) % 4}", number)
        world.kubectl("label", "pod", name, *(f"{key}={value}" for key, value in labels.items()))
        world.kubectl("patch", "pod", name, "--type=json", '-p=[{"op": "remove", "path": "/spec/schedulingGates"}]')
    world.kubectl("rollout", "status", "statefulset/ring", "--timeout=60s")
    world.wait_until_linked(4)
    for number in range(4):
        world.wait_for_ping(f"ring-{number}", f"10.99.{number}.2")
    world.kubectl("delete", "statefulset", "ring", "--wait", "--cascade=foreground")


@pytest.mark.timeout(200)
def test_a_link_to_a_ratchet_pod_name_follows_a_rollout(world: World) -> None:
    pod_template = template({**PAIR, "ratchet.pod_name": "service", "app": "q"})
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "q"}}, "template": pod_template}
    world.apply(
        pod("p", "node-a", primary("service")),
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "q"}, "spec": spec},
    )
    world.kubectl("rollout", "status", "deployment/q", "--timeout=60s")
    world.wait_until_linked(1)
    world.wait_for_ping("p", "10.99.1.2")
    before = next(iter(world.records().values()))
    world.kubectl("rollout", "restart", "deployment/q")
    world.kubectl("rollout", "status", "deployment/q", "--timeout=60s")
    world.kubectl("wait", "--for=jsonpath={.status.replicas}=1", "deployment/q", "--timeout=60s")
    wait_for("the record has the new pod", lambda: next(iter(world.records().values())) != before)
    world.wait_until_linked(1)
    world.wait_for_ping("p", "10.99.1.2")
    world.kubectl("delete", "deployment", "q", "--wait", "--cascade=foreground")


@pytest.mark.timeout(300)
def test_twenty_pairs_that_start_together_are_linked(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    cpu, memory = "process_cpu_seconds_total", "process_resident_memory_bytes"
    before = agent_metrics(world.a)
    pods = []
    for number in range(PAIRS):
        nodes = [("node-a", "node-b"), ("node-b", "node-a"), ("node-a", "node-a"), ("node-b", "node-b")][number % 4]
        pods.append(pod(f"p{number}", nodes[0], primary(f"q{number}", number)))
        pods.append(pod(f"q{number}", nodes[1], PAIR))
    world.apply(*pods)
    world.wait_until_linked(PAIRS, 120)
    world.wait("condition=Ready", "pod", "--all", seconds=120)
    for number in range(PAIRS):
        world.wait_for_ping(f"p{number}", f"10.99.{number}.2")
    after = agent_metrics(world.a)
    with capsys.disabled():
        used = f"{after[cpu] - before[cpu]:.2f} s of CPU, {after[memory] / 2**20:.0f} MiB"
        print(f" [node-a's agent for {PAIRS} pairs: {used}]", flush=True)
    world.delete_pods()
    world.wait_until_nothing_is_left()
