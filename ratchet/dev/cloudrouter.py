"""The story of the cloud router: four pods on two nodes, their links in one topology, and what is routed over them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import yaml

from ratchet.core.intent import TOPOLOGY_KEY, TOPOLOGY_LABEL
from ratchet.dev import frr
from ratchet.dev.hosts import command_in, run_in
from ratchet.dev.stage import EXAMPLES, Stage
from ratchet.dev.story import check, say, shell, step
from ratchet.dev.testbed import wait_for
from ratchet.errors import RatchetError

EXAMPLE = EXAMPLES / "cloud-router" / "topology.yaml"
SIDES = {"centosa": "left", "quagga-a": "left", "quagga-b": "right", "centosb": "right"}
ROUTERS = ("quagga-a", "quagga-b")
BEHIND = {"centosa": "1.1.1.1/32", "centosb": "4.4.4.4/32"}
FAR = "192.168.4.101"
CONVERGED_SECONDS = 60.0
# What OSPF finds out by itself: for each link of the topology, by way of its first end and of its second.
ROUTES = (
    (
        [{"to": to, "via": "192.168.2.101"} for to in ("192.168.3.0/24", "192.168.4.0/24", "4.4.4.4/32")],
        [{"to": "1.1.1.1/32", "via": "192.168.2.100"}],
    ),
    (
        [{"to": to, "via": "192.168.3.101"} for to in ("192.168.4.0/24", "4.4.4.4/32")],
        [{"to": to, "via": "192.168.3.100"} for to in ("192.168.2.0/24", "1.1.1.1/32")],
    ),
    (
        [{"to": "4.4.4.4/32", "via": "192.168.4.101"}],
        [{"to": to, "via": "192.168.4.100"} for to in ("192.168.2.0/24", "192.168.3.0/24", "1.1.1.1/32")],
    ),
)

AGENTS = True


def tell(stage: Stage) -> None:
    """Every step, each of which has to hold."""
    _build(stage)
    _show(stage)
    _kill_a_router(stage)
    step("The pods are deleted")
    stage.end(*SIDES)
    stage.kubectl("delete", "configmap", "-n", stage.bed.namespace, "cloud-router")
    stage.prove_nothing_left()


def stay(stage: Stage) -> None:
    """Bring it up again and say how to look at it."""
    _build(stage)
    kubeconfig, centosa = f"--kubeconfig {stage.bed.access.kubeconfig}", stage.pods["centosa"][1]
    looks = [
        f"ratchet graph {kubeconfig} -n {stage.bed.namespace} -o svg > cloud-router.svg",
        f"ratchet inspect {kubeconfig} -n {stage.bed.namespace} quagga-a:mid1",
        f"ip netns exec {centosa.netns} ping {FAR}",
        f"ip netns exec {stage.pods['quagga-a'][1].netns} ip route",
    ]
    if "quagga-a" in stage.routers:
        looks.append(f"{' '.join(stage.routers['quagga-a'].vtysh())} -c 'show ip ospf neighbor'")
    stage.say_how_to_look(*looks)


def _build(stage: Stage) -> None:
    how = "by OSPF: FRR is installed" if frr.is_usable() else "by routes in the topology, as FRR is not to be had here"
    step(f"The cloud router of 2017: four pods and their links, applied at once. It routes {how}")
    _create(stage, "cloud-router", _objects())
    stage.start(*SIDES)
    stage.ratchet("wait", "-n", stage.bed.namespace)
    for name in SIDES:
        _set_up(stage, name)


def _create(stage: Stage, name: str, objects: Iterable[Mapping[str, Any]]) -> None:
    file = stage.bed.folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    stage.kubectl("create", "-n", stage.bed.namespace, "-f", str(file))


def _show(stage: Stage) -> None:
    step("Its picture, and its ping")
    stage.ratchet("graph", "-n", stage.bed.namespace)
    _ping(stage)
    stage.in_pod(stage.pods["quagga-a"][1], "ip", "route")


def _kill_a_router(stage: Stage) -> None:
    step("A router is killed, and comes again")
    stage.end("quagga-a")
    _create(stage, "quagga-a", (one for one in _objects() if one["metadata"]["name"] == "quagga-a"))
    stage.start("quagga-a")
    stage.ratchet("wait", "-n", stage.bed.namespace)
    _set_up(stage, "quagga-a")
    _ping(stage)


def _ping(stage: Stage) -> None:
    sandbox = stage.pods["centosa"][1]
    if "quagga-a" in stage.routers:
        neighbours = stage.routers["quagga-a"].vtysh("-c", "show ip ospf neighbor")
        wait_for("OSPF's neighbour", lambda: "Full/" in _printed(neighbours), CONVERGED_SECONDS)
        shell(["kubectl", "exec", "quagga-a", "--", "vtysh", "-c", "'show ip ospf neighbor'"], neighbours)
    once = command_in(sandbox.netns, "ping", "-c", "1", "-W", "1", FAR)
    wait_for(f"the way to {FAR}", lambda: " 0% packet loss" in _printed(once), CONVERGED_SECONDS)
    answer = stage.in_pod(sandbox, "ping", "-c", "1", "-W", "5", FAR)
    check(f"centosa reaches {FAR} by way of two routers", "ttl=62" in answer)


def _printed(command: list[str]) -> str:
    """What a command prints, whether it succeeds or not."""
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def _set_up(stage: Stage, name: str) -> None:
    """What a pod's own containers would do: forward, have an address of its own, run FRR."""
    sandbox = stage.pods[name][1]
    if name in ROUTERS:
        run_in(sandbox.netns, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    run_in(sandbox.netns, "ip", "link", "set", "lo", "up")
    if not frr.is_usable():
        if name in BEHIND:
            run_in(sandbox.netns, "ip", "address", "add", BEHIND[name], "dev", "lo")
        return
    stage.routers[name] = frr.Frr(sandbox.netns, stage.bed.folder / f"frr-{name}", _frr_config(name))
    stage.routers[name].start()
    say(f"FRR runs in {name}")


# The example as it is shipped


@cache
def _documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(EXAMPLE.read_text()))


def _objects() -> Iterator[Mapping[str, Any]]:
    """The example's topology, and its pods as they would be made of its workloads."""
    topology = next(one for one in _documents() if TOPOLOGY_LABEL in one["metadata"].get("labels", {}))
    if frr.is_usable():
        yield topology
    else:
        links = yaml.safe_load(topology["data"][TOPOLOGY_KEY])
        routed = [{**link, "routes": list(routes)} for link, routes in zip(links, ROUTES, strict=True)]
        yield {**topology, "data": {TOPOLOGY_KEY: json.dumps(routed)}}
    for one in _documents():
        if one["kind"] in ("Pod", "Deployment"):
            template = one if one["kind"] == "Pod" else one["spec"]["template"]
            name = one["metadata"]["name"]
            spec = {"containers": [{"name": "frr", "image": "none"}], "nodeSelector": {"ratchetside": SIDES[name]}}
            metadata = {"name": name, "labels": template["metadata"]["labels"]}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _frr_config(name: str) -> str:
    configs = next(one["data"] for one in _documents() if f"{name}.conf" in one.get("data", {}))
    if not isinstance(config := configs[f"{name}.conf"], str):
        raise RatchetError(f"cannot read {EXAMPLE}: {name}.conf is no text")
    return config
