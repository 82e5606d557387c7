"""Outages of agents, kubelets, containerd, the API and nodes: links come up, and nothing is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.world import PAIR, World, pod, primary, wait_for

PAIRS = 4
OUTAGE_SECONDS = 30.0


def kill_agent(world: World) -> None:
    world.a.machine.run("pkill", "-KILL", "-f", "/usr/local/bin/ratchet agent")


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
@pytest.mark.parametrize("strike", [kill_agent, roll_agents, kill_kubelet, kill_containerd, stop_api])
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


def restarts(world: World, name: str) -> int:
    return sum(one["restartCount"] for one in world.get("pod", name)["status"].get("containerStatuses", []))
