"""The MTU of links in panel wiring: larger than the underlay's over IPv4, and the same on one node and across."""

from __future__ import annotations

from functools import partial

import pytest

from ratchet.core.fragments import outer_packets
from ratchet.core.interface import FRAGMENTED_MTU_MAX
from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.support.cluster import CHAINED, PAIR, Cluster, recreated
from tests.support.wired import has_carrier, wired_pair

R1, R2 = "10.1.0.1", "10.1.0.2"
RECORD = "default.r1.eth1.r2.eth1"
UNDERLAY = 1500
SNMP = "/proc/net/snmp"


def placed(cluster: Cluster, mtu: str) -> tuple[tuple[Kubelet, Sandbox], tuple[Kubelet, Sandbox]]:
    """Create the pods r1 on `a` and r2 on `b`, with a link of this MTU."""
    ends = f'endpoints: ["r1:eth1", "r2:eth1"], addresses: [{R1}/24, {R2}/24]'
    cluster.bed.create_topology("lab", f"- {{{ends}, wiring: panel, mtu: {mtu}}}")
    r1, r2 = (cluster.pod(name, {"ratchet": "true"}, node) for name, node in (("r1", cluster.a), ("r2", cluster.b)))
    return (cluster.a, r1), (cluster.b, r2)


def fragments(node: Kubelet) -> int:
    """The fragments that a node has sent so far (proc_net(5), snmp)."""
    names, values = (line.split() for line in ip("netns", "exec", node.host.netns, "grep", "^Ip:", SNMP).splitlines())
    return int(values[names.index("FragCreates")])


def add_ipv6(cluster: Cluster) -> None:
    """Give both nodes an IPv6 address only, as far as tunnels are concerned."""
    for node in (cluster.a, cluster.b):
        address = f"fd00:1::{node.host.address.rpartition('.')[2]}"
        ip(*f"-n {node.host.netns} addr add {address}/64 dev eth0 nodad".split())
        cluster.set_internal_ips(node, address)
        cluster.renew(node)


@pytest.mark.parametrize("mtu", [9000, FRAGMENTED_MTU_MAX])
def test_a_link_may_have_a_larger_mtu_than_its_underlay(cluster: Cluster, mtu: int) -> None:
    """Outer packets are fragmented. A full-size packet that must not be fragmented passes both ways, and again."""
    ends = placed(cluster, str(mtu))
    cluster.add_all(*ends)
    cluster.wait_until(State.LINKED, RECORD)
    (_, r1), (_, r2) = ends
    assert [cluster.show(one, "eth1")["mtu"] for one in (r1, r2)] == [mtu, mtu]
    for _ in range(2):
        wait_for("a full-size ping", partial(cluster.carries, r1, R2, mtu))
        wait_for("a full-size ping back", partial(cluster.carries, r2, R1, mtu))
    before = fragments(cluster.a)
    assert cluster.carries(r1, R2, mtu)
    assert fragments(cluster.a) - before == outer_packets(mtu, UNDERLAY)
    assert not cluster.carries(r1, R2, mtu + 1)
    cluster.delete_all(*ends)
    cluster.assert_nothing_left()


@pytest.mark.own_cluster  # the nodes' addresses change
@pytest.mark.parametrize(("ipv6", "most"), [(False, FRAGMENTED_MTU_MAX), (True, UNDERLAY - 70)])
def test_a_larger_mtu_than_the_limit_is_rejected(cluster: Cluster, ipv6: bool, most: int) -> None:
    if ipv6:
        add_ipv6(cluster)
    first, (node, r2) = ends = placed(cluster, str(most + 1))
    cluster.a.config = {**CHAINED, "wait": 5}
    waiting = cluster.start("ADD", *first)
    cluster.wait_until(State.PRIMARY_READY, RECORD)
    answer = node.add(r2)
    assert answer.status == 1
    assert answer.json["msg"] == (
        f"cannot link pod default/r2: mtu: {most + 1} for eth1 exceeds {most}, the maximum of a tunnel "
        "over the underlay of node b"
    )
    assert answer.json["details"].startswith(f"Set mtu to at most {most}, or omit it.")
    assert cluster.interfaces(r2) == []
    assert cluster.end(waiting).status == 1, "for the MTU, or because its peer has left again"
    cluster.delete_all(*ends)
    cluster.assert_nothing_left()


@pytest.mark.own_cluster  # the nodes' addresses change
def test_the_largest_mtu_over_ipv6_passes(cluster: Cluster) -> None:
    add_ipv6(cluster)
    ends = placed(cluster, str(UNDERLAY - 70))
    cluster.add_all(*ends)
    cluster.wait_until(State.LINKED, RECORD)
    (_, r1), (_, r2) = ends
    for sandbox, address in ((r1, R2), (r2, R1)):
        wait_for("a full-size ping", partial(cluster.carries, sandbox, address, UNDERLAY - 70))
    cluster.delete_all(*ends)
    cluster.assert_nothing_left()


def test_without_an_mtu_both_ends_have_the_same_on_one_node_and_across(cluster: Cluster, host: str) -> None:
    """With agents, also after the peer has moved there and back."""
    primary, pair = wired_pair(cluster, cluster.a)
    node = cluster.a
    before = cluster.show(primary, "in1")["ifindex"]
    for target in (cluster.b, cluster.a) if host == "agent" else ():
        assert [cluster.show(*end)["mtu"] for end in ((primary, "in1"), (pair, "in2"))] == [UNDERLAY - 50] * 2
        cluster.delete_all((node, pair))
        pair, node = recreated(cluster, pair, PAIR, target), target
        cluster.add_all((node, pair))
        cluster.wait_until(State.LINKED)
        wait_for("a full-size ping", partial(cluster.carries, primary, "192.168.2.101", UNDERLAY - 50))
    assert [cluster.show(*end)["mtu"] for end in ((primary, "in1"), (pair, "in2"))] == [UNDERLAY - 50] * 2
    assert cluster.show(primary, "in1")["ifindex"] == before


@pytest.mark.own_cluster  # a node's MTU changes
def test_a_peer_on_a_smaller_underlay_lowers_both_ends_in_place(cluster: Cluster, host: str) -> None:
    """The primary starts first. With an agent, its interface exists before the record names the peer's node."""
    ip("-n", cluster.b.host.netns, "link", "set", "eth0", "mtu", "1400")
    cluster.renew(cluster.b)
    primary, pair = cluster.primary(cluster.a, **{"ratchet.wiring": "panel"}), cluster.pair(cluster.b)
    waiting = cluster.start("ADD", cluster.a, primary)
    wait_for("the cable", lambda: cluster.interfaces(primary) == ["in1"])
    before = cluster.show(primary, "in1")
    assert before["mtu"] == UNDERLAY - 50
    cluster.add_all((cluster.b, pair))
    assert cluster.end(waiting).status == 0
    cluster.wait_until(State.LINKED)
    wait_for("the smaller MTU", lambda: cluster.show(primary, "in1")["mtu"] == 1350)
    assert cluster.show(pair, "in2")["mtu"] == 1350
    after = cluster.show(primary, "in1")
    assert (after["ifindex"], after["address"]) == (before["ifindex"], before["address"])
    for sandbox, address in ((primary, "192.168.2.101"), (pair, "192.168.2.100")):
        wait_for("a full-size ping", partial(cluster.carries, sandbox, address, 1350))
    assert has_carrier(cluster, primary, "in1")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()
