"""The walk-through of 2017 with its original labels, annotations and topologies, and Events of pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ratchet.dev.testbed import wait_for
from tests.e2e.walkthrough import run_page, walk_through
from tests.e2e.world import PAIR, World, pod, primary


def test_the_page_from_2017_works_as_written(world: World, tmp_path: Path) -> None:
    assert run_page(world, tmp_path, "from-2017.md", "## Two pods", "## What is different") == 9


@pytest.mark.parametrize("file", ["example.yaml", "example-one-node.yaml"])
def test_the_example_of_2017_is_linked(world: World, file: str) -> None:
    walk_through(world, file)


def test_a_pod_without_labels_has_only_the_cluster_network(world: World) -> None:
    world.apply(pod("plain", "node-a", {}), pod("other", "node-b", {}))
    world.wait("condition=Ready", "pod/plain", "pod/other")
    assert world.interfaces("plain") == ["lo", "eth0"]
    assert world.pings("plain", world.address("other", "eth0"))


def test_a_linked_pod_keeps_the_cluster_network(world: World) -> None:
    world.apply(pod("p", "node-a", primary("q")), pod("q", "node-b", PAIR))
    world.wait("condition=Ready", "pod/p", "pod/q")
    for name in ("p", "q"):
        assert world.pod_ips(name) == [world.address(name, "eth0")]
    assert world.pings("p", world.address("q", "eth0"))
    assert world.pings("p", "10.99.1.2")


def test_an_annotation_declares_several_links(world: World) -> None:
    links = [
        {"peer": "x", "ifname": "eth1", "peer_ifname": "up0", "addresses": ["10.0.1.1/24", "10.0.1.2/24"]},
        {"peer": "y", "ifname": "eth2", "peer_ifname": "up0", "addresses": ["10.0.2.1/24", "10.0.2.2/24"], "mtu": 1400},
    ]
    hub = pod("hub", "node-a", {"ratchet": "true"})
    hub["metadata"]["annotations"] = {"ratchet.links": json.dumps(links)}
    world.apply(hub, pod("x", "node-a", {"ratchet": "true"}), pod("y", "node-b", {"ratchet": "true"}))
    world.wait("condition=Ready", "pod", "--all")
    world.wait_until_linked(2)
    assert sorted((data["wiring"], data["kind"]) for data in world.records().values()) == [
        ("panel", "patch"),
        ("panel", "vxlan"),
    ]
    assert {world.device("hub", ifname)["linkinfo"]["info_kind"] for ifname in ("eth1", "eth2")} == {"veth"}
    assert world.device("y", "up0")["mtu"] == 1400
    for address in ("10.0.1.2", "10.0.2.2"):
        world.wait_for_ping("hub", address)


def test_a_topology_and_its_pods_are_linked_by_one_apply(world: World) -> None:
    links = [
        {"endpoints": ["a:in1", "b:in2"], "addresses": ["10.0.1.1/24", "10.0.1.2/24"]},
        {"endpoints": ["b:mid1", "c:mid2"], "addresses": ["10.0.2.1/24", "10.0.2.2/24"], "mtu": 1400},
    ]
    metadata = {"name": "lab", "labels": {"ratchet.topology": "true"}}
    lab = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"links": json.dumps(links)}}
    nodes = {"a": "node-a", "b": "node-b", "c": "node-b"}
    pods = [pod(name, node, {"ratchet": "true"}) for name, node in nodes.items()]
    world.apply(*pods[:1], lab, *pods[1:])
    assert world.ratchet("wait", "-n", world.namespace).splitlines()[-1] == "2 of 2 links are linked"
    world.wait("condition=Ready", "pod", "--all")
    assert world.device("c", "mid2")["mtu"] == 1400
    world.wait_for_ping("a", "10.0.1.2")
    world.wait_for_ping("c", "10.0.2.1")
    link = json.loads(world.ratchet("inspect", "b:mid1", "-n", world.namespace, "-o", "json"))
    assert link["name"] == f"{world.namespace}.b.mid1.c.mid2"
    for end, node in ((link["observed"]["primary"], nodes["b"]), (link["observed"]["pair"], nodes["c"])):
        assert (end["node"], end["fault"], end["differences"]) == (node, "", [])
        assert (end["device"]["mtu"], end["live"]["carrier"]) == (1400, True)
        assert min(end["live"][way]["packets"] for way in ("rx", "tx")) > 0
    assert "Not observed" not in world.ratchet("inspect", "a:in1", "-n", world.namespace)


def test_link_properties_are_applied_and_edits_apply_at_once_or_at_the_restart(world: World) -> None:
    wanted = {
        "mtu": 1400,
        "txqlen": 77,
        "routes": [{"to": "10.9.0.0/16", "metric": 5}, None],
        "sysctls": {"net.ipv4.conf.IFNAME.rp_filter": 2, "net.ipv6.conf.IFNAME.ndisc_notify": 1},
        "offloads": "off",
        "rate": ["50mbit", None],
    }
    links: list[dict[str, Any]] = [
        {"endpoints": ["a:in1", "b:in2"], "addresses": ["10.0.1.1/24", "10.0.1.2/24"], **wanted},
        {"endpoints": ["b:mid1", "c:mid2"], "addresses": ["10.0.2.1/24", "10.0.2.2/24"], **wanted, "wiring": "direct"},
        {"endpoints": ["a:own1", "b:own2"], "addresses": ["10.0.3.1/24", "10.0.3.2/24"], "kind": "vxlan"},
    ]
    metadata = {"name": "lab", "labels": {"ratchet.topology": "true"}}
    lab = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"links": json.dumps(links)}}
    nodes = {"a": "node-a", "b": "node-a", "c": "node-b"}
    world.apply(lab, *(pod(name, node, {"ratchet": "true"}) for name, node in nodes.items()))
    assert world.ratchet("wait", "-n", world.namespace).splitlines()[-1] == "3 of 3 links are linked"
    world.wait("condition=Ready", "pod", "--all")
    for end, kind in (("a:in1", "cable"), ("b:mid1", "vxlan")):
        seen = json.loads(world.ratchet("inspect", end, "-n", world.namespace, "-o", "json"))["observed"]["primary"]
        device = seen["device"]
        assert (seen["fault"], seen["differences"], device["kind"]) == ("", [], kind)
        assert (device["txqlen"], device["offloads"], device["rate"]) == (77, False, 50_000_000)
        assert [route["to"] for route in device["routes"]] == ["10.9.0.0/16"]
    assert world.kubectl("exec", "b", "--", "cat", "/proc/sys/net/ipv4/conf/in2/rp_filter").strip() == "2"
    for name, address in (("a", "10.0.1.2"), ("b", "10.0.2.2"), ("a", "10.0.3.2")):
        world.wait_for_ping(name, address)

    before = world.device("a", "in1")["ifindex"], world.device("b", "in2")["ifindex"]
    links[0]["mtu"], links[0]["rate"] = 1350, None
    world.apply({**lab, "data": {"links": json.dumps(links)}})
    for name, ifname in (("a", "in1"), ("b", "in2")):
        wait_for("the edited MTU", lambda at=(name, ifname): world.device(*at)["mtu"] == 1350)  # type: ignore[misc]
    assert (world.device("a", "in1")["ifindex"], world.device("b", "in2")["ifindex"]) == before
    world.wait_for_ping("a", "10.0.1.2")

    links[0]["mtu"], links[0]["on_edit"] = 1300, "restart"
    world.apply({**lab, "data": {"links": json.dumps(links)}})
    world.kubectl("wait", "--for=create", "event", "--field-selector=reason=WantsRestart", "--timeout=20s")
    assert "wants a restart" in world.kubectl("describe", "pod", "a")
    world.delete_pods("a")
    world.apply(pod("a", "node-b", {"ratchet": "true"}))
    assert world.ratchet("wait", "-n", world.namespace).splitlines()[-1] == "3 of 3 links are linked"
    world.wait("condition=Ready", "pod/a")
    assert world.device("a", "in1")["mtu"] == world.device("b", "in2")["mtu"] == 1300
    world.wait_for_ping("a", "10.0.1.2")
    world.wait_for_ping("a", "10.0.3.2")


def test_the_readiness_gate_waits_for_the_link_and_events_show_it(world: World) -> None:
    gate = [{"conditionType": "ratchet/linked"}]
    world.apply(pod("p", "node-a", primary("q"), readinessGates=gate))
    world.wait("condition=ContainersReady", "pod/p")
    assert world.try_kubectl("wait", "--for=condition=ratchet/linked", "pod/p", "--timeout=2s").returncode != 0
    assert "WaitingForPeer" in world.kubectl("describe", "pod", "p")
    world.apply(pod("q", "node-b", PAIR, readinessGates=gate))
    world.wait("condition=ratchet/linked", "pod/p", "pod/q")
    world.wait("condition=Ready", "pod/p", "pod/q", seconds=10)
    # Events follow the condition: the agent collects them for a second.
    linked = "--field-selector=reason=Linked,involvedObject.name=p"
    world.kubectl("wait", "--for=create", "event", linked, "--timeout=20s")
    described = world.kubectl("describe", "pod", "p")
    assert "in1 is linked to in2 of q (vxlan" in described


def test_an_invalid_label_is_an_event_of_its_pod(world: World) -> None:
    world.apply(pod("p", "node-a", {**primary("q"), "ratchet.local_ip": "192.168.2.300"}))
    world.wait("jsonpath={.status.phase}=Pending", "pod/p")
    world.kubectl("wait", "--for=create", "event", "--field-selector=reason=InvalidIntent", "--timeout=20s")
    described = world.kubectl("describe", "pod", "p")
    assert "InvalidIntent" in described
    assert "ratchet.local_ip" in described
