"""The walk-through of 2017, without agents: two pods on two nodes, on one node, then gc."""

from __future__ import annotations

from ratchet.dev.demo.environment import LABELS, Environment
from ratchet.dev.demo.terminal import check, show_heading
from ratchet.dev.testbed import RATCHET_NAMESPACE

AGENTS = False


def run(environment: Environment) -> None:
    """Run every step. Raises RatchetError if one fails."""
    show_heading("Two pods, on two nodes: the pods of 2017, both started at the same time")
    environment.link("example.yaml")
    _show_tunnel(environment)
    show_heading("The pods are deleted")
    environment.end("primary-pod", "pair-pod")
    environment.check_records_gone()
    show_heading("The same two pods, both on one node")
    environment.link("example-one-node.yaml")
    _show_pair(environment)
    _lose_the_pods(environment)
    environment.check_nothing_left()


def stay(environment: Environment) -> None:
    """Create the first link again, and print commands that inspect it."""
    show_heading("Once more on two nodes, to look around")
    environment.link("example.yaml")
    environment.show_how_to_look(*environment.commands_to_inspect_pair())


def _show_tunnel(environment: Environment) -> None:
    shown = environment.in_pod(environment.primary, "ip", "-d", "link", "show", "in1")
    check("it is a VXLAN to the other node, MTU 1450", "remote 192.168.1.33" in shown and "mtu 1450" in shown)
    environment.ping()
    environment.kubectl("get", "configmap", "-n", RATCHET_NAMESPACE, "-L", LABELS)
    environment.ratchet("links")


def _show_pair(environment: Environment) -> None:
    check("it is a vEth", "veth" in environment.in_pod(environment.primary, "ip", "-d", "link", "show", "in1"))
    environment.ping()
    environment.ratchet("links")


def _lose_the_pods(environment: Environment) -> None:
    show_heading("The pods vanish, and no DEL ever comes: garbage collection")
    for kubelet, sandbox in environment.pods.values():
        environment.bed.delete_pod(sandbox.pod)
        kubelet.hosts.remove_namespace(sandbox.netns)
        kubelet.forget(sandbox)
    environment.pods.clear()
    environment.ratchet("gc", "--grace", "0")
