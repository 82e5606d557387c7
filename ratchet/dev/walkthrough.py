"""The story of 2017, without agents: two pods on two nodes, on one node, and garbage collection."""

from __future__ import annotations

from ratchet.dev.stage import LABELS, Stage
from ratchet.dev.story import check, step
from ratchet.dev.testbed import RATCHET_NAMESPACE

AGENTS = False


def tell(stage: Stage) -> None:
    """Every step, each of which has to hold."""
    step("Two pods, on two nodes: the pods of 2017, both started at the same time")
    stage.link("example.yaml")
    _show_tunnel(stage)
    step("The pods are deleted")
    stage.end("primary-pod", "pair-pod")
    stage.check_records_gone()
    step("The same two pods, both on one node")
    stage.link("example-one-node.yaml")
    _show_pair(stage)
    _lose_the_pods(stage)
    stage.prove_nothing_left()


def stay(stage: Stage) -> None:
    """Bring the first link up again and say how to look at it."""
    step("Once more on two nodes, to look around")
    stage.link("example.yaml")
    stage.say_how_to_look(*stage.ways_to_look_at_the_pair())


def _show_tunnel(stage: Stage) -> None:
    shown = stage.in_pod(stage.primary, "ip", "-d", "link", "show", "in1")
    check("it is a VXLAN to the other node, MTU 1450", "remote 192.168.1.33" in shown and "mtu 1450" in shown)
    stage.ping()
    stage.kubectl("get", "configmap", "-n", RATCHET_NAMESPACE, "-L", LABELS)
    stage.ratchet("links")


def _show_pair(stage: Stage) -> None:
    check("it is a vEth", "veth" in stage.in_pod(stage.primary, "ip", "-d", "link", "show", "in1"))
    stage.ping()
    stage.ratchet("links")


def _lose_the_pods(stage: Stage) -> None:
    step("The pods vanish, and no DEL ever comes: garbage collection")
    for kubelet, sandbox in stage.pods.values():
        stage.bed.delete_pod(sandbox.pod)
        kubelet.hosts.remove_namespace(sandbox.netns)
        kubelet.forget(sandbox)
    stage.pods.clear()
    stage.ratchet("gc", "--grace", "0")
