"""Routers with several links: each with its own properties, all in one ADD, whoever comes first."""

from __future__ import annotations

import json
from functools import partial

import pytest

from ratchet.core.model import State
from ratchet.dev.bed import wait_for
from ratchet.dev.hosts import ip
from ratchet.dev.kubelet import Sandbox
from tests.support.cluster import Cluster

ASKS = {"ratchet": "true"}
WAITS = {"ratchet": "true", "ratchet.primary": "false"}


def hub(**properties: object) -> dict[str, str]:
    """The annotation of a pod with a link to a pod on each node."""
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


def test_a_router_has_all_its_links_each_with_its_properties(cluster: Cluster) -> None:
    mac = "02:11:22:33:44:55"
    router, x, y = pods(cluster, mtu=1400, mac=[None, mac])
    cluster.add_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    for name in ("default.hub.eth1.x.up0", "default.hub.eth2.y.up0"):
        cluster.wait_until(State.LINKED, name)
    kinds = {ifname: cluster.show(router, ifname)["linkinfo"]["info_kind"] for ifname in ("eth1", "eth2")}
    assert kinds == {"eth1": "veth", "eth2": "vxlan"}
    for sandbox, ifname in ((router, "eth1"), (router, "eth2"), (x, "up0"), (y, "up0")):
        assert cluster.show(sandbox, ifname)["mtu"] == 1400
    assert [cluster.show(one, "up0")["address"] for one in (x, y)] == [mac, mac]
    assert cluster.show(router, "eth1")["address"] != mac
    for address in ("10.0.1.2", "10.0.2.2"):
        wait_for(f"a ping to {address}", partial(cluster.pings, router, address))
    cluster.delete_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    cluster.assert_nothing_left()


def test_a_link_has_its_routes_settings_and_rate_however_it_is_made(cluster: Cluster) -> None:
    router, x, y = pods(
        cluster,
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
        assert [route["dst"] for route in answer.json["routes"]] == ["0.0.0.0/0"]
    cluster.delete_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    cluster.assert_nothing_left()


def test_a_link_may_be_a_tunnel_wherever_its_pods_are(cluster: Cluster) -> None:
    router, x, y = pods(cluster, kind="vxlan", vxlan_port=4800)
    cluster.add_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    for name in ("default.hub.eth1.x.up0", "default.hub.eth2.y.up0"):
        cluster.wait_until(State.LINKED, name)
    ports = [
        cluster.show(sandbox, ifname)["linkinfo"]["info_data"]["port"]
        for sandbox, ifname in ((router, "eth1"), (x, "up0"), (router, "eth2"), (y, "up0"))
    ]
    assert ports == [4801, 4802, 4800, 4800]
    for address in ("10.0.1.2", "10.0.2.2"):
        wait_for(f"a ping to {address}", partial(cluster.pings, router, address))
    cluster.delete_all((cluster.a, router), (cluster.a, x), (cluster.b, y))
    cluster.assert_nothing_left()


@pytest.mark.daemonless
def test_an_mtu_that_the_tunnel_cannot_carry_is_refused_with_the_largest_that_fits(cluster: Cluster) -> None:
    router, x, y = pods(cluster, mtu=[1451, None])
    waiting = [cluster.start("ADD", *one) for one in ((cluster.a, x), (cluster.b, y))]
    refused = cluster.a.add(router)
    assert refused.status == 1
    assert refused.json["msg"] == (
        "cannot link pod default/hub: mtu: eth2 is to have 1451, and 1450 is the most that fits into a tunnel over eth0"
    )
    assert refused.json["details"] == "say at most 1450, or nothing; the MTU of eth0 is 1500"
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
DRAWN = ("default.a.in1.b.in2", "default.b.mid1.c.mid2")


def test_a_topology_links_pods_that_say_nothing_of_it(cluster: Cluster) -> None:
    cluster.bed.create_topology("lab", LAB)
    nodes = (cluster.a, cluster.b, cluster.b)
    placed = [(node, cluster.pod(name, ASKS, node)) for name, node in zip("abc", nodes, strict=True)]
    cluster.add_all(*placed)
    for name in DRAWN:
        cluster.wait_until(State.LINKED, name)
    (_, a), (_, b), (_, c) = placed
    assert [cluster.show(b, ifname)["linkinfo"]["info_kind"] for ifname in ("in2", "mid1")] == ["vxlan", "veth"]
    assert cluster.show(c, "mid2")["mtu"] == 1400
    for sandbox, address in ((a, "10.0.1.2"), (c, "10.0.2.1")):
        wait_for(f"a ping to {address}", partial(cluster.pings, sandbox, address))
    cluster.delete_all(*placed)
    cluster.assert_nothing_left()


def test_what_is_wrong_with_a_topology_is_told_to_its_pods(cluster: Cluster) -> None:
    cluster.bed.create_topology("lab", "- endpoints: [a:in1, b:in2]\n  mtu: 1\n")
    a, c = cluster.pod("a", ASKS, cluster.a), cluster.pod("c", ASKS, cluster.a)
    answer = cluster.a.add(a)
    assert answer.status == 1
    assert answer.json["msg"].startswith('cannot link pod default/a: topology default/lab: line 2: mtu: "1" is no MTU')
    assert cluster.a.add(c).status == 0, "it is no affair of this pod"
    cluster.delete_all((cluster.a, a), (cluster.a, c))
    cluster.assert_nothing_left()


def test_a_link_that_is_said_in_two_ways_is_refused_to_both_pods(cluster: Cluster) -> None:
    def listed(peer: str, ifname: str, peer_ifname: str, mtu: int) -> dict[str, str]:
        link = {"peer": peer, "ifname": ifname, "peer_ifname": peer_ifname, "mtu": mtu}
        return {"ratchet.links": json.dumps([link])}

    a = cluster.pod("a", ASKS, cluster.a, **listed("b", "in1", "in2", 1400))
    b = cluster.pod("b", ASKS, cluster.b, **listed("a", "in2", "in1", 1300))
    places = "ratchet.links: line 1 of pod default/a and ratchet.links: line 1 of pod default/b"
    for node, sandbox in ((cluster.a, a), (cluster.b, b)):
        answer = node.add(sandbox)
        assert answer.status == 1
        assert f"{places} say different things of one link" in answer.json["msg"]
    cluster.delete_all((cluster.a, a), (cluster.b, b))
    cluster.assert_nothing_left()
