"""The cloud router of 2017: four pods on two nodes, linked in a chain, with routes over the links."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import yaml

from ratchet.core.intent import TOPOLOGY_KEY, TOPOLOGY_LABEL
from ratchet.dev.demo import frr
from ratchet.dev.demo.environment import EXAMPLES, Environment
from ratchet.dev.demo.terminal import check, run_shown, runnable, show_heading, show_output
from ratchet.dev.hosts import command_in, run_in
from ratchet.dev.testbed import wait_for
from ratchet.errors import RatchetError

EXAMPLE = EXAMPLES / "cloud-router" / "topology.yaml"
SIDES = {"centosa": "left", "quagga-a": "left", "quagga-b": "right", "centosb": "right"}
ROUTERS = ("quagga-a", "quagga-b")
LOOPBACKS = {"centosa": "1.1.1.1/32", "centosb": "4.4.4.4/32"}
FAR = "192.168.4.101"
CONVERGED_SECONDS = 60.0
# The routes that OSPF would find: for each link of the topology, those via its first end and via its second.
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


def run(environment: Environment) -> None:
    """Run every step. Raises RatchetError if one fails."""
    _build(environment)
    _show(environment)
    _kill_a_router(environment)
    show_heading("The pods are deleted")
    environment.end(*SIDES)
    environment.kubectl("delete", "configmap", "-n", environment.bed.namespace, "cloud-router")
    environment.check_nothing_left()


def stay(environment: Environment) -> None:
    """Create everything again, and print commands that inspect it."""
    _build(environment)
    kubeconfig, centosa = f"--kubeconfig {environment.bed.access.kubeconfig}", environment.pods["centosa"][1]
    looks = [
        f"ratchet graph {kubeconfig} -n {environment.bed.namespace} -o svg > cloud-router.svg",
        f"{runnable('ratchet')} inspect {kubeconfig} -n {environment.bed.namespace} quagga-a:mid1",
        f"ip netns exec {centosa.netns} ping {FAR}",
        f"ip netns exec {environment.pods['quagga-a'][1].netns} ip route",
    ]
    if "quagga-a" in environment.routers:
        looks.append(f"{' '.join(environment.routers['quagga-a'].vtysh())} -c 'show ip ospf neighbor'")
    environment.show_how_to_look(*looks)


def _build(environment: Environment) -> None:
    how = "by OSPF: FRR is installed" if frr.is_usable() else "by routes in the topology, because FRR is not installed"
    show_heading(f"The cloud router of 2017: four pods and their links, applied at once. It routes {how}")
    _create(environment, "cloud-router", _objects())
    environment.start(*SIDES)
    environment.ratchet("wait", "-n", environment.bed.namespace)
    for name in SIDES:
        _set_up(environment, name)


def _create(environment: Environment, name: str, objects: Iterable[Mapping[str, Any]]) -> None:
    file = environment.bed.folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    environment.kubectl("create", "-n", environment.bed.namespace, "-f", str(file))


def _show(environment: Environment) -> None:
    show_heading("The graph and a ping")
    environment.ratchet("graph", "-n", environment.bed.namespace)
    _ping(environment)
    environment.in_pod(environment.pods["quagga-a"][1], "ip", "route")


def _kill_a_router(environment: Environment) -> None:
    show_heading("A router is killed and created again")
    environment.end("quagga-a")
    _create(environment, "quagga-a", (one for one in _objects() if one["metadata"]["name"] == "quagga-a"))
    environment.start("quagga-a")
    environment.ratchet("wait", "-n", environment.bed.namespace)
    _set_up(environment, "quagga-a")
    _ping(environment)


def _ping(environment: Environment) -> None:
    sandbox = environment.pods["centosa"][1]
    if "quagga-a" in environment.routers:
        neighbours = environment.routers["quagga-a"].vtysh("-c", "show ip ospf neighbor")
        wait_for("OSPF's neighbour", lambda: "Full/" in _stdout(neighbours), CONVERGED_SECONDS)
        run_shown(["kubectl", "exec", "quagga-a", "--", "vtysh", "-c", "'show ip ospf neighbor'"], neighbours)
    once = command_in(sandbox.netns, "ping", "-c", "1", "-W", "1", FAR)
    wait_for(f"the way to {FAR}", lambda: " 0% packet loss" in _stdout(once), CONVERGED_SECONDS)
    printed = environment.in_pod(sandbox, "ping", "-c", "1", "-W", "5", FAR)
    check(f"centosa reaches {FAR} by way of two routers", "ttl=62" in printed)


def _stdout(command: list[str]) -> str:
    """The stdout of a command, whether it succeeds or not."""
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def _set_up(environment: Environment, name: str) -> None:
    """Do what the pod's containers would do: forward packets, set an address on lo, run FRR."""
    sandbox = environment.pods[name][1]
    if name in ROUTERS:
        run_in(sandbox.netns, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    run_in(sandbox.netns, "ip", "link", "set", "lo", "up")
    if not frr.is_usable():
        if name in LOOPBACKS:
            run_in(sandbox.netns, "ip", "address", "add", LOOPBACKS[name], "dev", "lo")
        return
    environment.routers[name] = frr.Frr(sandbox.netns, environment.bed.folder / f"frr-{name}", _frr_config(name))
    environment.routers[name].start()
    show_output(f"FRR runs in {name}")


@cache
def _documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(EXAMPLE.read_text()))


def _objects() -> Iterator[Mapping[str, Any]]:
    """The topology of the example, and the pods of its workloads."""
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
