"""The story that takes an agent: a pod starts alone, its peer comes late, is killed, and comes again elsewhere."""

from __future__ import annotations

from ratchet.core.model import State
from ratchet.dev.stage import Stage
from ratchet.dev.story import check, say, step, typed
from ratchet.dev.testbed import wait_for

AGENTS = True
AT_ONCE_SECONDS = 3.0  # on a machine that has other things to do; the peer comes when all of this has been shown


def tell(stage: Stage) -> None:
    """Every step, each of which has to hold."""
    _start_alone(stage)
    step("The pair comes, on the other node")
    stage.link("example.yaml", "pair-pod")
    shown = stage.in_pod(stage.primary, "ip", "-d", "link", "show", "in1")
    check("it is a VXLAN to the other node", "remote 192.168.1.33" in shown)
    stage.ping()
    stage.ratchet("links")
    _kill_the_pair(stage)
    step("The pair is created again under its name, this time on the primary's node")
    stage.link("example-one-node.yaml", "pair-pod")
    check("it is a vEth by now", "veth" in stage.in_pod(stage.primary, "ip", "-d", "link", "show", "in1"))
    stage.ping()
    stage.ratchet("links")
    _stop_the_agents(stage)
    step("The pods are deleted: the daemonless plugin beside the shim does what no agent is there for")
    stage.end("primary-pod", "pair-pod")
    stage.prove_nothing_left()


def stay(stage: Stage) -> None:
    """Bring the agents and a link up again and say how to look at them."""
    step("The agents start again, and a link on two nodes, to look around")
    for agent in stage.bed.agents.values():
        agent.start()
    stage.link("example.yaml")
    agent = stage.bed.agents[stage.left.host.name]
    kubeconfig = f"--kubeconfig {stage.bed.access.kubeconfig}"
    stage.say_how_to_look(
        *stage.ways_to_look_at_the_pair(),
        f"kubectl {kubeconfig} get events -n {stage.bed.namespace}",
        f"tail -f {agent.log}",
        f"ip netns exec {stage.left.host.netns} curl -s http://127.0.0.1:9472/metrics",
    )


def _start_alone(stage: Stage) -> None:
    step("The primary starts alone: its peer is not there yet, and ADD does not wait for it")
    stage.create("example.yaml", "primary-pod")
    stage.kubectl("annotate", "-n", stage.bed.namespace, "pod", "primary-pod", "ratchet.wait=0")
    took = stage.start("primary-pod")
    check(f"it returned at once, after {took:.2f} s", took < AT_ONCE_SECONDS)
    shown = stage.in_pod(stage.primary, "ip", "-br", "link")
    check("the pod runs, and has no link yet", "in1" not in shown)
    stage.ratchet("links")
    _show_event(stage, "WaitingForPeer")


def _kill_the_pair(stage: Stage) -> None:
    step("The pair is killed")
    before = stage.primary_end()["ifindex"]
    stage.kubectl("delete", "-n", stage.bed.namespace, "pod", "pair-pod", "--wait=false")
    with stage.states_told(State.PRIMARY_READY):
        stage.end("pair-pod")
    wait_for("the loss of carrier", lambda: "LOWER_UP" not in stage.primary_end()["flags"])
    stage.in_pod(stage.primary, "ip", "link", "show", "in1")
    after = stage.primary_end()
    check("the primary's end has lost its carrier: whoever routes there knows at once", "NO-CARRIER" in after["flags"])
    check(f"it is the same interface, number {before}", after["ifindex"] == before)
    _show_event(stage, "LinkLost")


def _stop_the_agents(stage: Stage) -> None:
    step("The agents are stopped: the link does not need them to stand")
    for name, agent in stage.bed.agents.items():
        typed([f"kill -TERM {agent.pid}"])
        agent.stop()
        say(f"the agent of {name} has ended")
    stage.ping()


def _show_event(stage: Stage, reason: str) -> None:
    path = f"/api/v1/namespaces/{stage.bed.namespace}/events"
    which = f"involvedObject.name=primary-pod,reason={reason}"
    wait_for(f"the event {reason}", lambda: bool(stage.bed.api.list(path, fieldSelector=which)[0]))
    stage.kubectl("get", "events", "-n", stage.bed.namespace, "--field-selector", which)
