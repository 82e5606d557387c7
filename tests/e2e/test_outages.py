"""Outages of agents, kubelets, containerd, the API and nodes: links come up, and nothing is left."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ratchet.core.intent import TOPOLOGY_KEY, TOPOLOGY_LABEL
from tests.e2e.world import PAIR, RATCHET, World, kill_agent, pod, primary, wait_for

PAIRS = 4
OUTAGE_SECONDS = 30.0


def kill_agent_of_a(world: World) -> None:
    kill_agent(world.a)


def roll_agents(world: World) -> None:
    world.rollout_restart("ratchet-agent")


def kill_kubelet(world: World) -> None:
    world.a.machine.stop_daemon("kubelet", signal.SIGKILL)
    world.a.start_kubelet()


def kill_containerd(world: World) -> None:
    world.a.machine.stop_daemon("containerd", signal.SIGKILL)
    world.a.start_containerd()


def stop_api(world: World) -> None:
    control = world.cluster.control_plane()
    control.machine.stop_daemon("kube-apiserver", signal.SIGKILL)
    try:
        time.sleep(OUTAGE_SECONDS)
    finally:
        control.start_api()
        control.wait_for_api()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("strike", [kill_agent_of_a, roll_agents, kill_kubelet, kill_containerd, stop_api])
def test_pods_are_linked_despite_an_outage_during_their_start(world: World, strike: Callable[[World], None]) -> None:
    pods = []
    for number in range(PAIRS):
        pods.append(pod(f"p{number}", "node-a", primary(f"q{number}", number)))
        pods.append(pod(f"q{number}", ("node-b", "node-a")[number % 2], PAIR))
    world.apply(*pods)
    time.sleep(0.5)  # the pods are in various phases of their start by then
    strike(world)
    world.wait("condition=Ready", "pod", "--all", seconds=120)
    world.wait_until_linked(PAIRS, 60)
    for number in range(PAIRS):
        world.wait_for_ping(f"p{number}", f"10.99.{number}.2")
    world.delete_pods()
    world.wait_until_nothing_is_left(90)


@pytest.mark.timeout(300)
def test_a_link_is_restored_after_its_node_reboots(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    world.wait_until_linked(1)
    node = world.b
    node.stop()
    world.boot(node)
    wait_for("q's container runs anew", lambda: restarts(world, "q") > 0, 120)
    world.wait("condition=Ready", "pod/q", seconds=90)
    world.wait_until_linked(1)
    world.wait_for_ping("p", "10.99.1.2", 60)


@pytest.mark.timeout(300)
def test_an_agent_finds_what_changed_while_its_watches_expired(world: World) -> None:
    """The agent is paused. The API server restarts without its history, then a topology links the running pods."""
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    world.wait_until_linked(1)
    restarts_before, lists_before = agent_restarts(world), topology_lists(world)
    with paused_agent(world):
        world.cluster.control_plane().restart_api()
        link = {"endpoints": ["p:in3", "q:in4"], "addresses": ["10.99.2.1/24", "10.99.2.2/24"]}
        metadata = {"name": "lab", "labels": {TOPOLOGY_LABEL: "true"}}
        data = {TOPOLOGY_KEY: json.dumps([link])}
        world.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
        wait_for("node-b's end of the link", lambda: len(world.records()) == 2)
        assert topology_lists(world) == lists_before
    world.wait_until_linked(2)
    world.wait_for_ping("p", "10.99.2.2")
    assert topology_lists(world) > lists_before
    assert agent_restarts(world) == restarts_before


@contextmanager
def paused_agent(world: World) -> Iterator[None]:
    """Pause the agent of node-a within the block. After a minute its liveness probe would replace it."""
    world.a.machine.run("pkill", "-STOP", "-f", "/usr/local/bin/ratchet agent")
    try:
        yield
    finally:
        world.a.machine.run("pkill", "-CONT", "-f", "/usr/local/bin/ratchet agent")


def topology_lists(world: World) -> int:
    """How often the agent of node-a has listed the topologies of the namespace, according to the audit log."""
    events = map(json.loads, world.cluster.control_plane().audit_log.read_text().splitlines())
    lists = [
        event["objectRef"] for event in events if event["verb"] == "list" and event["sourceIPs"] == [world.a.address]
    ]
    return sum(about["resource"] == "configmaps" and about.get("namespace") == world.namespace for about in lists)


def agent_restarts(world: World) -> int:
    pods = world.get("pod", "-n", RATCHET, "-l", "app.kubernetes.io/name=ratchet-agent")["items"]
    return sum(one["restartCount"] for pod in pods for one in pod["status"]["containerStatuses"])


def restarts(world: World, name: str) -> int:
    return sum(one["restartCount"] for one in world.get("pod", name)["status"].get("containerStatuses", []))
