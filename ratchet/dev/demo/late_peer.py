"""With agents, in panel wiring: a peer starts late, is killed, and moves to the other node. The interface stays."""

from __future__ import annotations

from ratchet.core.model import State
from ratchet.dev.demo.environment import Environment
from ratchet.dev.demo.terminal import check, show_command, show_heading, show_output
from ratchet.dev.testbed import wait_for

AGENTS = True
NO_WAIT_SECONDS = 3.0  # longest time of an ADD that does not wait for its peer, on a busy machine


def run(environment: Environment) -> None:
    """Run every step. Raises RatchetError if one fails."""
    _start_alone(environment)
    before = _identity(environment)
    show_heading("The pair starts on the other node: the panel patches the cable to a VXLAN")
    environment.link("example.yaml", "pair-pod")
    environment.ping()
    environment.ratchet("links")
    _check_identity(environment, before)
    _kill_the_pair(environment)
    _check_identity(environment, before)
    show_heading("The pair is created again, now on the primary's node: the panel patches both cables")
    environment.link("example-one-node.yaml", "pair-pod")
    environment.ping()
    environment.ratchet("links")
    environment.in_pod(environment.primary, "ip", "link", "show", "in1")
    _check_identity(environment, before)
    _stop_the_agents(environment)
    show_heading("The pods are deleted: the daemonless plugin beside the shim serves DEL")
    environment.end("primary-pod", "pair-pod")
    environment.check_nothing_left()


def stay(environment: Environment) -> None:
    """Start the agents again, create a link, and print commands that inspect them."""
    show_heading("The agents start again, and a link on two nodes, to look around")
    for agent in environment.bed.agents.values():
        agent.start()
    environment.link("example.yaml")
    agent = environment.bed.agents[environment.left.host.name]
    kubeconfig = f"--kubeconfig {environment.bed.access.kubeconfig}"
    environment.show_how_to_look(
        *environment.commands_to_inspect_pair(),
        f"kubectl {kubeconfig} get events -n {environment.bed.namespace}",
        f"tail -f {agent.log}",
        f"ip netns exec {environment.left.host.netns} curl -s http://127.0.0.1:9472/metrics",
    )


def _start_alone(environment: Environment) -> None:
    show_heading("The primary starts alone: its peer is not there yet, and ADD does not wait for it")
    environment.create("example.yaml", "primary-pod")
    # What the labels of 2017 declare is in direct wiring, unless another label says otherwise.
    environment.kubectl("label", "-n", environment.bed.namespace, "pod", "primary-pod", "ratchet.wiring=panel")
    took = environment.start("primary-pod")
    check(f"it returned at once, after {took:.2f} s", took < NO_WAIT_SECONDS)
    environment.in_pod(environment.primary, "ip", "address", "show", "in1")
    check("the pod has its interface already, without carrier", "NO-CARRIER" in environment.primary_end()["flags"])
    environment.ratchet("links")
    _show_event(environment, "WaitingForPeer")


def _kill_the_pair(environment: Environment) -> None:
    show_heading("The pair is killed")
    environment.kubectl("delete", "-n", environment.bed.namespace, "pod", "pair-pod", "--wait=false")
    with environment.showing_states(State.PRIMARY_READY):
        environment.end("pair-pod")
    wait_for("the loss of carrier", lambda: "LOWER_UP" not in environment.primary_end()["flags"])
    environment.in_pod(environment.primary, "ip", "link", "show", "in1")
    flags = environment.primary_end()["flags"]
    check("the primary's end has lost its carrier, so routing daemons notice at once", "NO-CARRIER" in flags)
    _show_event(environment, "LinkLost")


def _identity(environment: Environment) -> tuple[int, str]:
    """The ifindex and the MAC address of the primary's interface."""
    shown = environment.primary_end()
    return shown["ifindex"], shown["address"]


def _check_identity(environment: Environment, before: tuple[int, str]) -> None:
    index, mac = before
    check(f"it is the same interface: ifindex {index}, MAC address {mac}", _identity(environment) == before)


def _stop_the_agents(environment: Environment) -> None:
    show_heading("The agents are stopped: the link stays up")
    for name, agent in environment.bed.agents.items():
        show_command([f"kill -TERM {agent.pid}"])
        agent.stop()
        show_output(f"the agent of {name} has ended")
    environment.ping()


def _show_event(environment: Environment, reason: str) -> None:
    path = f"/api/v1/namespaces/{environment.bed.namespace}/events"
    which = f"involvedObject.name=primary-pod,reason={reason}"
    wait_for(f"the event {reason}", lambda: bool(environment.bed.api.list(path, fieldSelector=which)[0]))
    environment.kubectl("get", "events", "-n", environment.bed.namespace, "--field-selector", which)
