"""Nodes whose underlays differ in MTU or addresses: both ends of a tunnel agree, or ADD fails."""

from __future__ import annotations

from functools import partial

import pytest

from ratchet.core.model import State
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.support.cluster import CHAINED, PAIR, PRIMARY, Cluster

pytestmark = pytest.mark.own_cluster  # the nodes' addresses and MTUs change

V4 = {"a": "192.168.1.73", "b": "192.168.1.33"}
V6 = {"a": "fd00:1::73", "b": "fd00:1::33"}


def set_addresses(cluster: Cluster, a: str, b: str) -> None:
    """Give both nodes an IPv6 address, and list their InternalIPs in these orders: "4", "6", "46" or "64"."""
    for node, order in ((cluster.a, a), (cluster.b, b)):
        name = node.host.name
        ip(*f"-n {node.host.netns} addr add {V6[name]}/64 dev eth0 nodad".split())
        cluster.set_internal_ips(node, *({"4": V4, "6": V6}[family][name] for family in order))
        cluster.renew(node)


def test_both_ends_use_the_smaller_underlay_mtu(cluster: Cluster) -> None:
    ip("-n", cluster.b.host.netns, "link", "set", "eth0", "mtu", "9000")
    cluster.renew(cluster.b)
    primary, pair = cluster.linked_pair()
    assert [cluster.show(*end)["mtu"] for end in ((primary, "in1"), (pair, "in2"))] == [1450, 1450]
    for sandbox, address in ((primary, "192.168.2.101"), (pair, "192.168.2.100")):
        wait_for("a full-size ping", partial(cluster.carries, sandbox, address, 1450))
    record = cluster.bed.links()["default.pair-pod.in2.primary-pod.in1"]
    ends = (record.primary.sandbox, record.pair.sandbox)
    assert [end and (end.underlay_mtu, end.vteps) for end in ends] == [(1500, (V4["a"],)), (9000, (V4["b"],))]
    for node, sandbox in ((cluster.a, primary), (cluster.b, pair)):
        answer = node.call("CHECK", sandbox, config={**CHAINED, "prevResult": sandbox.result})
        assert answer.status == 0, answer
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


@pytest.mark.parametrize(("a", "b", "vteps"), [("46", "64", V4), ("46", "6", V6), ("4", "64", V4), ("64", "64", V6)])
def test_both_ends_use_a_common_address_family(cluster: Cluster, a: str, b: str, vteps: dict[str, str]) -> None:
    set_addresses(cluster, a, b)
    primary, pair = cluster.linked_pair()
    suffix, mtu = ("6", 1430) if vteps is V6 else ("", 1450)
    for sandbox, ifname, own, peer in ((primary, "in1", "a", "b"), (pair, "in2", "b", "a")):
        shown = cluster.show(sandbox, ifname)
        tunnel = shown["linkinfo"]["info_data"]
        assert (tunnel[f"local{suffix}"], tunnel[f"remote{suffix}"]) == (vteps[own], vteps[peer])
        assert shown["mtu"] == mtu
    wait_for("a full-size ping", lambda: cluster.carries(primary, "192.168.2.101", mtu))
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_the_error_names_nodes_without_a_common_address_family(cluster: Cluster) -> None:
    set_addresses(cluster, "4", "6")
    primary, pair = cluster.pod("primary-pod", PRIMARY, cluster.a), cluster.pod("pair-pod", PAIR, cluster.b)
    waiting = cluster.start("ADD", cluster.a, primary)
    cluster.wait_until(State.PRIMARY_READY)
    answer = cluster.b.add(pair)
    assert (answer.status, answer.json["code"]) == (1, 108)
    nodes = f"nodes b ({V6['b']}) and a ({V4['a']})"
    assert answer.json["msg"] == (
        f"cannot link pod default/pair-pod to pod default/primary-pod: {nodes} have no address family in common"
    )
    assert cluster.bed.store.vnis.list() == []
    waiting.kill()
    cluster.end(waiting)
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()
