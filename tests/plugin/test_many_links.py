"""Pods with several links: their properties, topologies, and concurrent work in one ADD."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from aiohttp import web

from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import State
from ratchet.core.naming import record_name
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.support.cluster import Cluster, sent_by
from tests.support.faults import Rule

ASKS = {"ratchet": "true"}
WAITS = {"ratchet": "true", "ratchet.primary": "false"}


def hub(**properties: object) -> dict[str, str]:
    """Build the annotation of a pod with two links: to the pod x on its node, and to y on the other node."""
    links = [
        {
            "peer": "x",
            "ifname": "eth1",
            "peer_ifname": "up0",
            "addresses": ["10.0.1.1/24", "10.0.1.2/24"],
            **properties,
        },
        {
            "peer": "y",
            "ifname": "eth2",
            "peer_ifname": "up0",
            "addresses": ["10.0.2.1/24", "10.0.2.2/24"],
            **properties,
        },
    ]
    return {"ratchet.links": json.dumps(links)}


def pods(cluster: Cluster, **properties: object) -> tuple[Sandbox, Sandbox, Sandbox]:
    return (
        cluster.pod("hub", ASKS, cluster.a, **hub(**properties)),
        cluster.pod("x", WAITS, cluster.a),
        cluster.pod("y", WAITS, cluster.b),
    )


@pytest.mark.parametrize("wiring", Wiring)
def test_a_router_gets_each_link_with_its_properties(cluster: Cluster, wiring: Wiring) -> None:
    mac = "02:11:22:33:44:55"
    router, x, y = pods(cluster, mtu=1400, mac=[None, mac], wiring=wiring)
    cluster.add_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    for name in ("default.hub.eth1.x.up0", "default.hub.eth2.y.up0"):
        cluster.wait_until(State.LINKED, name)
    kinds = {ifname: cluster.show(router, ifname)["linkinfo"]["info_kind"] for ifname in ("eth1", "eth2")}
    assert kinds == {"eth1": "veth", "eth2": "vxlan" if wiring is Wiring.DIRECT else "veth"}
    for sandbox, ifname in ((router, "eth1"), (router, "eth2"), (x, "up0"), (y, "up0")):
        assert cluster.show(sandbox, ifname)["mtu"] == 1400
    assert [cluster.show(one, "up0")["address"] for one in (x, y)] == [mac, mac]
    assert cluster.show(router, "eth1")["address"] != mac
    for address in ("10.0.1.2", "10.0.2.2"):
        wait_for(f"a ping to {address}", partial(cluster.pings, router, address))
    cluster.delete_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    cluster.assert_nothing_left()


@pytest.mark.parametrize("wiring", Wiring)
def test_links_on_one_node_and_across_nodes_get_routes_sysctls_and_rate(cluster: Cluster, wiring: Wiring) -> None:
    router, x, y = pods(
        cluster,
        wiring=wiring,
        routes=[None, {"to": "0.0.0.0/0", "metric": 900}],
        sysctls={"net.ipv4.conf.IFNAME.forwarding": 1},
        txqlen=77,
        offloads="off",
        rate=["50mbit", None],
    )
    _, *answers = cluster.add_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    for name in ("default.hub.eth1.x.up0", "default.hub.eth2.y.up0"):
        cluster.wait_until(State.LINKED, name)
    for sandbox, ifname in ((router, "eth1"), (router, "eth2"), (x, "up0"), (y, "up0")):
        assert cluster.show(sandbox, ifname)["txqlen"] == 77
        shown = ip("netns", "exec", sandbox.netns, "cat", f"/proc/sys/net/ipv4/conf/{ifname}/forwarding")
        assert shown == "1\n"
    for ifname in ("eth1", "eth2"):
        assert "rate 50Mbit" in ip("netns", "exec", router.netns, "tc", "qdisc", "show", "dev", ifname)
    for sandbox, answer in zip((x, y), answers, strict=True):
        (route,) = ip("-n", sandbox.netns, "route", "show", "default", "dev", "up0").splitlines()
        assert route.split() == ["default", "proto", "82", "scope", "link", "metric", "900"]
        assert "routes" not in answer.json, "they are the link's, not the attachment's"
    cluster.delete_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    cluster.assert_nothing_left()


def test_kind_vxlan_makes_a_tunnel_on_one_node_and_across_nodes(cluster: Cluster) -> None:
    """In direct wiring. test_panel_links.py has the same in panel wiring."""
    router, x, y = pods(cluster, kind="vxlan", vxlan_port=4797, wiring="direct")
    cluster.add_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    for name in ("default.hub.eth1.x.up0", "default.hub.eth2.y.up0"):
        cluster.wait_until(State.LINKED, name)
    ports = [
        cluster.show(sandbox, ifname)["linkinfo"]["info_data"]["port"]
        for sandbox, ifname in ((router, "eth1"), (x, "up0"), (router, "eth2"), (y, "up0"))
    ]
    assert ports == [4798, 4799, 4797, 4797]
    for address in ("10.0.1.2", "10.0.2.2"):
        wait_for(f"a ping to {address}", partial(cluster.pings, router, address))
    cluster.delete_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    cluster.assert_nothing_left()


@pytest.mark.daemonless
@pytest.mark.parametrize(
    ("port", "cause"),
    [
        (53, "53 is not in vxlan_ports, 4789-4799"),
        (4799, "4799 needs 4800 and 4801 on one node, which are not in vxlan_ports, 4789-4799"),
    ],
)
def test_a_tunnel_on_a_port_that_is_not_allowed_is_rejected(cluster: Cluster, port: int, cause: str) -> None:
    """A service of the node could not use the port."""
    router, x, y = pods(cluster, kind="vxlan", vxlan_port=port)
    waiting = [cluster.start("ADD", *one) for one in ((cluster.a, x), (cluster.b, y))]
    for name in ("default.hub.eth1.x.up0", "default.hub.eth2.y.up0"):
        wait_for(f"the pair of {name}", partial(has_pair, cluster, name))
    refused = cluster.a.add(router)
    assert (refused.json["code"], refused.error) == (101, f"cannot link pod default/hub: vxlan_port: {cause}")
    assert cluster.interfaces(router) == []
    for one in waiting:
        one.kill()
        cluster.end(one)
    cluster.delete_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    cluster.assert_nothing_left()


@pytest.mark.daemonless
def test_the_error_of_an_excessive_mtu_names_the_maximum(cluster: Cluster) -> None:
    """In direct wiring. test_panel_mtu.py has the same in panel wiring."""
    router, x, y = pods(cluster, mtu=[1451, None], wiring="direct")
    waiting = [cluster.start("ADD", *one) for one in ((cluster.a, x), (cluster.b, y))]
    refused = cluster.a.add(router)
    assert refused.status == 1
    assert refused.json["msg"] == (
        "cannot link pod default/hub: mtu: 1451 for eth2 exceeds 1450, the maximum of a tunnel "
        "over the underlay of node a"
    )
    assert refused.json["details"] == "Set mtu to at most 1450, or omit it. The underlay MTU of node a is 1500."
    for one in waiting:
        one.kill()
        cluster.end(one)
    cluster.delete_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    cluster.assert_nothing_left()


LAB = """\
- endpoints: ["a:in1", "b:in2"]
  addresses: ["10.0.1.1/24", "10.0.1.2/24"]
- endpoints: ["b:mid1", "c:mid2"]
  addresses: ["10.0.2.1/24", "10.0.2.2/24"]
  mtu: 1400
"""
LAB_LINKS = ("default.a.in1.b.in2", "default.b.mid1.c.mid2")


def test_a_topology_links_pods_without_declarations(cluster: Cluster) -> None:
    cluster.bed.create_topology("lab", LAB)
    nodes = (cluster.a, cluster.b, cluster.b)
    placed = [(node, cluster.pod(name, ASKS, node)) for name, node in zip("abc", nodes, strict=True)]
    cluster.add_all(*placed)
    for name in LAB_LINKS:
        cluster.wait_until(State.LINKED, name)
    (_, a), _, (_, c) = placed
    assert [cluster.bed.links()[name].kind for name in LAB_LINKS] == [Kind.VXLAN, Kind.PATCH]
    assert cluster.show(c, "mid2")["mtu"] == 1400
    for sandbox, address in ((a, "10.0.1.2"), (c, "10.0.2.1")):
        wait_for(f"a ping to {address}", partial(cluster.pings, sandbox, address))
    cluster.delete_all(*placed)
    cluster.assert_nothing_left()


def test_an_invalid_topology_rejects_only_the_pods_of_the_link(cluster: Cluster) -> None:
    cluster.bed.create_topology("lab", "- endpoints: [a:in1, b:in2]\n  mtu: 1\n")
    a, c = cluster.pod("a", ASKS, cluster.a), cluster.pod("c", ASKS, cluster.a)
    answer = cluster.a.add(a)
    assert answer.status == 1
    assert answer.json["msg"].startswith(
        'cannot link pod default/a: topology default/lab: line 2: mtu: invalid MTU "1"'
    )
    assert cluster.a.add(c).status == 0, "it is no affair of this pod"
    cluster.delete_all((cluster.a, a), (cluster.a, c))
    cluster.assert_nothing_left()


def test_both_pods_are_rejected_if_they_declare_one_link_differently(cluster: Cluster) -> None:
    def links_annotation(peer: str, ifname: str, peer_ifname: str, mtu: int) -> dict[str, str]:
        link = {"peer": peer, "ifname": ifname, "peer_ifname": peer_ifname, "mtu": mtu}
        return {"ratchet.links": json.dumps([link])}

    a = cluster.pod("a", ASKS, cluster.a, **links_annotation("b", "in1", "in2", 1400))
    b = cluster.pod("b", ASKS, cluster.b, **links_annotation("a", "in2", "in1", 1300))
    places = "ratchet.links: line 1 of pod default/a and ratchet.links: line 1 of pod default/b"
    for node, sandbox in ((cluster.a, a), (cluster.b, b)):
        answer = node.add(sandbox)
        assert answer.status == 1
        assert f"{places} declare one link differently" in answer.json["msg"]
    cluster.delete_all((cluster.a, a), (cluster.b, b))
    cluster.assert_nothing_left()


# Many links: their records are written concurrently

MANY = 8
GATE_SECONDS = 20.0


@dataclass
class ConcurrencyGate:
    """A fault that holds requests until `size` are held at once, or a timeout. `most` is the maximum."""

    size: int
    held: int = 0
    most: int = 0

    async def __call__(self, _: web.Request) -> None:
        self.held += 1
        self.most = max(self.most, self.held)
        until = time.monotonic() + GATE_SECONDS
        while self.most < self.size and time.monotonic() < until:
            await asyncio.sleep(0.01)
        self.held -= 1


def star(cluster: Cluster, *nodes: Kubelet) -> Iterator[tuple[Kubelet, Sandbox]]:
    """Create the topology of a star. Yield its hub on node a, then the other pods, on these nodes in turn."""
    lines = (f"- endpoints: [hub:e{number}, p{number}:in1]" for number in range(MANY))
    cluster.bed.create_topology("star", "\n".join(lines))
    yield cluster.a, cluster.pod("hub", ASKS, cluster.a)
    for number in range(MANY):
        node = nodes[number % len(nodes)]
        yield node, cluster.pod(f"p{number}", ASKS, node)


def test_add_writes_the_records_of_many_links_concurrently(cluster: Cluster) -> None:
    hub, *around = star(cluster, cluster.a, cluster.b)
    waiting = [cluster.start("ADD", *one) for one in around]
    names = [f"default.hub.e{number}.p{number}.in1" for number in range(MANY)]
    for name in names:
        wait_for(f"the pair of {name}", partial(has_pair, cluster, name))
    gate = ConcurrencyGate(MANY)
    writes = sent_by(cluster.a, "POST", "PATCH", path="/configmaps")
    cluster.faults.add(Rule(writes, before=gate, times=sys.maxsize))
    cluster.add_all(hub)
    assert gate.most == MANY, "records are not written one after another"
    cluster.faults.clear()
    for (_, sandbox), process in zip(around, waiting, strict=True):
        answer = cluster.end(process)
        assert answer.status == 0, answer
        sandbox.result = answer.json
    for name in names:
        cluster.wait_until(State.LINKED, name)
    cluster.delete_all(hub, *around)
    cluster.assert_nothing_left()


def has_pair(cluster: Cluster, name: str) -> bool:
    record = cluster.bed.store.links.get(name)
    return record is not None and record.pair.sandbox is not None


def test_add_creates_none_of_many_links_if_one_fails(cluster: Cluster) -> None:
    (_, hub), *around = star(cluster, cluster.a)
    waiting = [cluster.start("ADD", *one) for one in around]
    names = [f"default.hub.e{number}.p{number}.in1" for number in range(MANY)]
    for name in names:
        wait_for(f"the pair of {name}", partial(has_pair, cluster, name))
    ip("-n", hub.netns, "link", "add", "e5", "type", "bridge")
    refused = cluster.a.add(hub)
    assert refused.status == 1
    assert "an interface of that name exists and is not Ratchet's" in refused.json["msg"]
    assert cluster.interfaces(hub) == ["e5"]
    for name in names:
        wait_for(f"{name} without the hub", partial(has_no_primary, cluster, name))
    ip("-n", hub.netns, "link", "del", "e5")
    cluster.add_all((cluster.a, hub))
    assert sorted(cluster.interfaces(hub)) == [f"e{number}" for number in range(MANY)]
    for (_, sandbox), process in zip(around, waiting, strict=True):
        answer = cluster.end(process)
        assert answer.status == 0, answer
        sandbox.result = answer.json
    cluster.delete_all((cluster.a, hub), *around)
    cluster.assert_nothing_left()


def has_no_primary(cluster: Cluster, name: str) -> bool:
    record = cluster.bed.store.links.get(name)
    return record is not None and record.primary.sandbox is None


def test_pods_with_many_links_to_each_other_do_not_deadlock(cluster: Cluster) -> None:
    """Start three pods with six links between each two. Each ADD joins all its links before it waits."""
    pods = ("x", "y", "z")
    pairs = [(one, other) for one in pods for other in pods if one != other]
    lines = (
        f"- endpoints: [{one}:{one}{other}{number}, {other}:{one}{other}{number}]"
        for one, other in pairs
        for number in range(3)
    )
    cluster.bed.create_topology("full", "\n".join(lines))
    placed = [
        (node, cluster.pod(pod, ASKS, node)) for pod, node in zip(pods, (cluster.a, cluster.a, cluster.b), strict=True)
    ]
    cluster.add_all(*placed)
    for one, other in pairs:
        for number in range(3):
            ifname = f"{one}{other}{number}"
            cluster.wait_until(State.LINKED, record_name("default", (one, ifname), (other, ifname)))
    cluster.delete_all(*placed)
    cluster.assert_nothing_left()
