"""What becomes of tunnels when the node under them changes: another address, another MTU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratchet.dev.bed import wait_for
from ratchet.dev.hosts import ip
from ratchet.dev.kubelet import Kubelet
from tests.support.cluster import PATIENT, Cluster, running


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running(PATIENT, agent={"heartbeat": 1, "node_lost_after": 10}) as made:
        yield made


def vtep_of(cluster: Cluster, node: Kubelet) -> str:
    """Where others are to reach a node's tunnels, as its Lease says."""
    return next(lease.vtep for lease in cluster.bed.records.node_leases() if lease.node == node.host.name)


def give_address(node: Kubelet, old: str, new: str) -> None:
    """An address in the place of another, with the route that goes with it."""
    netns = node.host.netns
    if old:
        ip("-n", netns, "addr", "del", old, "dev", "eth0")
    ip("-n", netns, "addr", "add", new, "dev", "eth0")
    ip(*f"-n {netns} route replace default via 192.168.1.1 dev eth0".split())


def name_addresses(cluster: Cluster, node: Kubelet, *addresses: str) -> None:
    """Have the node's object list these InternalIP addresses."""
    listed = [{"type": "InternalIP", "address": address} for address in addresses]
    cluster.bed.api.patch(f"/api/v1/nodes/{node.host.name}/status", {"status": {"addresses": listed}})


def test_tunnels_follow_the_address_of_their_node(cluster: Cluster) -> None:
    """Their interfaces stay: the pods' addresses, MACs and indexes are what they were."""
    primary, pair = cluster.linked_pair()
    assert cluster.pings(primary, "192.168.2.101")
    before = [cluster.show(primary, "in1"), cluster.show(pair, "in2")]
    give_address(cluster.a, "192.168.1.73/24", "192.168.1.74/24")
    wait_for("the node's new address", lambda: vtep_of(cluster, cluster.a) == "192.168.1.74")
    wait_for("the tunnel to it", lambda: cluster.pings(pair, "192.168.2.100"))
    after = [cluster.show(primary, "in1"), cluster.show(pair, "in2")]
    assert after[0]["linkinfo"]["info_data"]["local"] == "192.168.1.74"
    assert after[1]["linkinfo"]["info_data"]["remote"] == "192.168.1.74"
    kept = ("address", "ifname")
    assert [[one[key] for key in kept] for one in after] == [[one[key] for key in kept] for one in before]
    assert after[1]["ifindex"] == before[1]["ifindex"]
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


@pytest.mark.parametrize("mtu", [1400, 9000])
def test_tunnels_follow_the_mtu_of_their_node(cluster: Cluster, mtu: int) -> None:
    primary, pair = cluster.linked_pair()
    index = cluster.show(primary, "in1")["ifindex"]
    ip("-n", cluster.a.host.netns, "link", "set", "eth0", "mtu", str(mtu))
    wait_for("the tunnel's MTU", lambda: cluster.show(primary, "in1")["mtu"] == mtu - 50)
    assert cluster.show(primary, "in1")["ifindex"] == index
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_a_tunnel_whose_node_has_no_address_for_a_while_stands_again_with_the_next(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    ip(*f"-n {cluster.a.host.netns} addr del 192.168.1.73/24 dev eth0".split())
    asked = {**PATIENT, "cniVersion": "1.1.0"}
    wait_for("a STATUS that says so", lambda: cluster.a.call("STATUS", config=asked).status != 0)
    assert cluster.a.call("STATUS", config=asked).json["code"] == 50
    give_address(cluster.a, "", "192.168.1.73/24")
    wait_for("the tunnel", lambda: cluster.pings(primary, "192.168.2.101"))
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_tunnels_follow_another_internal_ip_of_their_node_at_the_next_heartbeat(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    ip("-n", cluster.a.host.netns, "addr", "add", "192.168.1.74/24", "dev", "eth0")
    name_addresses(cluster, cluster.a, "192.168.1.74")
    wait_for("the node's new address", lambda: vtep_of(cluster, cluster.a) == "192.168.1.74")
    wait_for("the tunnel to it", lambda: cluster.pings(pair, "192.168.2.100"))
    assert cluster.show(pair, "in2")["linkinfo"]["info_data"]["remote"] == "192.168.1.74"
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_a_node_whose_object_lists_no_address_yet_is_followed_once_it_does(cluster: Cluster) -> None:
    agent = cluster.bed.agents["a"]
    agent.stop()
    ip("-n", cluster.a.host.netns, "addr", "add", "192.168.1.74/24", "dev", "eth0")
    name_addresses(cluster, cluster.a)
    agent.start()
    primary, pair = cluster.linked_pair()
    assert cluster.show(primary, "in1")["linkinfo"]["info_data"]["local"] == "192.168.1.73"
    name_addresses(cluster, cluster.a, "192.168.1.74")
    wait_for("the node's address", lambda: vtep_of(cluster, cluster.a) == "192.168.1.74")
    wait_for("the tunnel to it", lambda: cluster.pings(pair, "192.168.2.100"))
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_a_virtual_ip_that_comes_first_on_the_named_interface_is_not_the_vtep() -> None:
    """It is on another node tomorrow."""
    with running(PATIENT, agent={"parent_interface": "eth0", "heartbeat": 1, "node_lost_after": 10}) as cluster:
        give_address(cluster.a, "192.168.1.73/24", "192.168.1.200/24")
        give_address(cluster.a, "", "192.168.1.73/24")
        cluster.renew(cluster.a)
        primary, pair = cluster.linked_pair()
        assert vtep_of(cluster, cluster.a) == "192.168.1.73"
        assert cluster.show(primary, "in1")["linkinfo"]["info_data"]["local"] == "192.168.1.73"
        assert cluster.pings(pair, "192.168.2.100")
        cluster.delete_all((cluster.a, primary), (cluster.b, pair))
        cluster.assert_nothing_left()


def test_nodes_whose_address_is_on_lo_are_linked(cluster: Cluster) -> None:
    """As where each node announces its address over several uplinks. A pod's tunnel is remade on it in place."""
    primary, pair = cluster.linked_pair()
    addresses = {"a": ("10.255.0.1", "192.168.1.73"), "b": ("10.255.0.2", "192.168.1.33")}
    for node, other in ((cluster.a, "b"), (cluster.b, "a")):
        own, (far, via) = addresses[node.host.name][0], addresses[other]
        ip("-n", node.host.netns, "addr", "add", f"{own}/32", "dev", "lo")
        ip("-n", node.host.netns, "route", "add", far, "via", via, "src", own)
        name_addresses(cluster, node, own)
    own_addresses = {own for own, _ in addresses.values()}
    wait_for("the addresses", lambda: {vtep_of(cluster, node) for node in (cluster.a, cluster.b)} == own_addresses)
    wait_for("the tunnel between them", lambda: cluster.pings(primary, "192.168.2.101"))
    shown = cluster.show(primary, "in1")
    assert (shown["linkinfo"]["info_data"]["local"], shown["mtu"]) == ("10.255.0.1", 1450)
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()
