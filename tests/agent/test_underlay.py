"""Tunnels follow changes of their node's address, address family and MTU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from ratchet.core.kinds import Wiring
from ratchet.core.model import State
from ratchet.core.state_machine import derive
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.support.cluster import PATIENT, Cluster, running
from tests.support.wired import tunnels_of, wired_pair


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running(PATIENT, agent={"heartbeat": 1, "node_lost_after": 10}) as made:
        yield made


def vtep_of(cluster: Cluster, node: Kubelet) -> str:
    """The VTEP of a node according to its Lease."""
    return next(lease.vtep for lease in cluster.bed.store.nodes.list_leases() if lease.node == node.host.name)


def replace_address(node: Kubelet, old: str, new: str) -> None:
    """Replace the address of a node's eth0, if `old` is not empty, and restore the default route."""
    netns = node.host.netns
    if old:
        ip("-n", netns, "addr", "del", old, "dev", "eth0")
    ip("-n", netns, "addr", "add", new, "dev", "eth0")
    ip(*f"-n {netns} route replace default via 192.168.1.1 dev eth0".split())


def add_neighbour(sandbox: Sandbox, ifname: str) -> None:
    """Add a neighbour by hand. It is lost if the interface is recreated."""
    ip(*f"-n {sandbox.netns} neigh add 192.168.2.77 lladdr 02:00:00:00:00:77 dev {ifname} nud permanent".split())


def has_neighbour(sandbox: Sandbox, ifname: str) -> bool:
    return "192.168.2.77" in ip(*f"-n {sandbox.netns} neigh show dev {ifname} nud permanent".split())


def test_tunnels_follow_the_address_of_their_node(cluster: Cluster) -> None:
    """Both interfaces are changed in place."""
    primary, pair = cluster.linked_pair()
    ends = ((primary, "in1"), (pair, "in2"))
    assert cluster.pings(primary, "192.168.2.101")
    for end in ends:
        add_neighbour(*end)
    before = [cluster.identity(*end) for end in ends]
    replace_address(cluster.a, "192.168.1.73/24", "192.168.1.74/24")
    wait_for("the node's new address", lambda: vtep_of(cluster, cluster.a) == "192.168.1.74")
    wait_for("the tunnel to it", lambda: cluster.pings(pair, "192.168.2.100"))
    assert cluster.show(primary, "in1")["linkinfo"]["info_data"]["local"] == "192.168.1.74"
    assert cluster.show(pair, "in2")["linkinfo"]["info_data"]["remote"] == "192.168.1.74"
    assert [cluster.identity(*end) for end in ends] == before
    assert [has_neighbour(*end) for end in ends] == [True, True]
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def set_mtu(node: Kubelet, mtu: int) -> None:
    ip("-n", node.host.netns, "link", "set", "eth0", "mtu", str(mtu))


@pytest.mark.parametrize("wiring", Wiring)
def test_both_ends_of_a_tunnel_take_the_smaller_mtu_of_their_nodes(cluster: Cluster, wiring: Wiring) -> None:
    """The interfaces keep their ifindexes, and no end gets the Event LinkLost."""
    primary, pair = cluster.linked_pair() if wiring is Wiring.DIRECT else wired_pair(cluster, cluster.b)
    ends = ((primary, "in1"), (pair, "in2"))
    indexes = [cluster.show(*end)["ifindex"] for end in ends]

    def have_mtu(mtu: int) -> bool:
        return [cluster.show(*end)["mtu"] for end in ends] == [mtu, mtu]

    for node, mtu, least in ((cluster.a, 1400, 1400), (cluster.b, 9000, 1400), (cluster.a, 9000, 9000)):
        set_mtu(node, mtu)
        wait_for(f"MTU {least - 50} at both ends", partial(have_mtu, least - 50))
    set_mtu(cluster.b, 1500)
    wait_for("MTU 1450 at both ends", lambda: have_mtu(1450))
    wait_for("a full-size ping", lambda: cluster.carries(primary, "192.168.2.101", 1450))
    assert [cluster.show(*end)["ifindex"] for end in ends] == indexes
    assert cluster.pods_with_event("LinkLost") == set()
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_a_declared_mtu_above_the_changed_underlay_of_the_peer_is_an_event(cluster: Cluster) -> None:
    """In direct wiring. A tunnel in panel wiring sends such packets in fragments."""
    cluster.bed.create_topology("lab", "- {endpoints: [a:in1, b:in2], mtu: [1450, null], wiring: direct}")
    a, b = (cluster.pod(name, {"ratchet": "true"}, node) for name, node in (("a", cluster.a), ("b", cluster.b)))
    cluster.add_all((cluster.a, a), (cluster.b, b))
    cluster.wait_until(State.LINKED, "default.a.in1.b.in2")
    set_mtu(cluster.b, 1400)
    wait_for("an event", lambda: a.pod.uid in cluster.pods_with_event("InvalidIntent"))
    wait_for("the other end's MTU", lambda: cluster.show(b, "in2")["mtu"] == 1350)
    assert b.pod.uid not in cluster.pods_with_event("InvalidIntent")
    cluster.delete_all((cluster.a, a), (cluster.b, b))
    cluster.assert_nothing_left()


def add_ipv6(node: Kubelet) -> str:
    """Add an IPv6 address to a node's eth0, and return it."""
    address = f"fd00:1::{node.host.address.rpartition('.')[2]}"
    ip("-n", node.host.netns, "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
    return address


def test_tunnels_follow_their_nodes_to_another_address_family(cluster: Cluster) -> None:
    """While the nodes have no common family, the link is not linked and both pods get an Event."""
    primary, pair = cluster.linked_pair()
    v6_a, v6_b = add_ipv6(cluster.a), add_ipv6(cluster.b)
    cluster.set_internal_ips(cluster.b, v6_b)
    both = {primary.pod.uid, pair.pod.uid}
    wait_for("an event at both", lambda: cluster.pods_with_event("NoCommonAddressFamily") == both)
    assert cluster.state() is State.PAIR_READY
    cluster.set_internal_ips(cluster.a, cluster.a.host.address, v6_a)
    cluster.wait_until(State.LINKED)
    for sandbox, ifname, local, remote in ((primary, "in1", v6_a, v6_b), (pair, "in2", v6_b, v6_a)):
        shown = cluster.show(sandbox, ifname)
        tunnel = shown["linkinfo"]["info_data"]
        assert (tunnel["local6"], tunnel["remote6"], shown["mtu"]) == (local, remote, 1430)
    wait_for("a full-size ping", lambda: cluster.carries(primary, "192.168.2.101", 1430))
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


@pytest.mark.parametrize("wiring", Wiring)
def test_a_tunnel_within_a_node_follows_it_to_another_address_family_and_mtu(cluster: Cluster, wiring: Wiring) -> None:
    """The agent changes one end after the other, so that they differ for a moment."""
    cluster.bed.create_topology("lab", f"- {{endpoints: [a:in1, b:in2], kind: vxlan, mtu: 1400, wiring: {wiring}}}")
    a, b = (cluster.pod(name, {"ratchet": "true"}, cluster.a) for name in ("a", "b"))
    cluster.add_all((cluster.a, a), (cluster.a, b))
    link = "default.a.in1.b.in2"
    cluster.wait_until(State.LINKED, link)
    v6 = add_ipv6(cluster.a)
    cluster.set_internal_ips(cluster.a, v6)

    def has_recorded(mtu: int) -> bool:
        record = cluster.bed.links()[link]
        sandboxes = (record.primary.sandbox, record.pair.sandbox)
        underlays = [(one.underlay_mtu, one.vteps) for one in sandboxes if one is not None]
        return underlays == [(mtu, (v6,))] * 2 and derive(record) is State.LINKED

    wait_for("a tunnel over IPv6", lambda: has_recorded(1500))
    tunnels = tunnels_of(cluster, cluster.a, [(a, "in1"), (b, "in2")])
    assert [one["local6"] for one in tunnels] == [v6, v6]
    set_mtu(cluster.a, 1400)
    wait_for("an event at both", lambda: cluster.pods_with_event("InvalidIntent") == {a.pod.uid, b.pod.uid})
    set_mtu(cluster.a, 1500)
    wait_for("the MTU in the record", lambda: has_recorded(1500))
    cluster.delete_all((cluster.a, a), (cluster.a, b))
    cluster.assert_nothing_left()


def test_a_tunnel_recovers_when_its_node_gets_an_address_again(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    ip(*f"-n {cluster.a.host.netns} addr del 192.168.1.73/24 dev eth0".split())
    asked = {**PATIENT, "cniVersion": "1.1.0"}
    wait_for("a STATUS that says so", lambda: cluster.a.call("STATUS", config=asked).status != 0)
    assert cluster.a.call("STATUS", config=asked).json["code"] == 50
    replace_address(cluster.a, "", "192.168.1.73/24")
    wait_for("the tunnel", lambda: cluster.pings(primary, "192.168.2.101"))
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_tunnels_follow_a_new_internal_ip_of_their_node(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    ip("-n", cluster.a.host.netns, "addr", "add", "192.168.1.74/24", "dev", "eth0")
    cluster.set_internal_ips(cluster.a, "192.168.1.74")
    wait_for("the node's new address", lambda: vtep_of(cluster, cluster.a) == "192.168.1.74")
    wait_for("the tunnel to it", lambda: cluster.pings(pair, "192.168.2.100"))
    assert cluster.show(pair, "in2")["linkinfo"]["info_data"]["remote"] == "192.168.1.74"
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_a_tunnel_follows_the_first_internal_ip_of_a_node_object(cluster: Cluster) -> None:
    agent = cluster.bed.agents["a"]
    agent.stop()
    ip("-n", cluster.a.host.netns, "addr", "add", "192.168.1.74/24", "dev", "eth0")
    cluster.set_internal_ips(cluster.a)
    agent.start()
    primary, pair = cluster.linked_pair()
    assert cluster.show(primary, "in1")["linkinfo"]["info_data"]["local"] == "192.168.1.73"
    cluster.set_internal_ips(cluster.a, "192.168.1.74")
    wait_for("the node's address", lambda: vtep_of(cluster, cluster.a) == "192.168.1.74")
    wait_for("the tunnel to it", lambda: cluster.pings(pair, "192.168.2.100"))
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_a_virtual_ip_that_comes_first_on_the_parent_interface_is_not_the_vtep() -> None:
    """A virtual IP may move to another node at any time."""
    with running(PATIENT, agent={"parent_interface": "eth0", "heartbeat": 1, "node_lost_after": 10}) as cluster:
        replace_address(cluster.a, "192.168.1.73/24", "192.168.1.200/24")
        replace_address(cluster.a, "", "192.168.1.73/24")
        cluster.renew(cluster.a)
        primary, pair = cluster.linked_pair()
        assert vtep_of(cluster, cluster.a) == "192.168.1.73"
        assert cluster.show(primary, "in1")["linkinfo"]["info_data"]["local"] == "192.168.1.73"
        assert cluster.pings(pair, "192.168.2.100")
        cluster.delete_all((cluster.a, primary), (cluster.b, pair))
        cluster.assert_nothing_left()


def test_nodes_whose_address_is_on_lo_are_linked(cluster: Cluster) -> None:
    """As on nodes that announce their address over several uplinks. The tunnels move to it and keep their identity."""
    primary, pair = cluster.linked_pair()
    ends = ((primary, "in1"), (pair, "in2"))
    assert cluster.pings(primary, "192.168.2.101")  # both ends have carrier, and so their link-local addresses
    before = [cluster.identity(*end) for end in ends]
    addresses = {"a": ("10.255.0.1", "192.168.1.73"), "b": ("10.255.0.2", "192.168.1.33")}
    for node, other in ((cluster.a, "b"), (cluster.b, "a")):
        own, (far, via) = addresses[node.host.name][0], addresses[other]
        ip("-n", node.host.netns, "addr", "add", f"{own}/32", "dev", "lo")
        ip("-n", node.host.netns, "route", "add", far, "via", via, "src", own)
        cluster.set_internal_ips(node, own)
    own_addresses = {own for own, _ in addresses.values()}
    wait_for("the addresses", lambda: {vtep_of(cluster, node) for node in (cluster.a, cluster.b)} == own_addresses)
    wait_for("the tunnel between them", lambda: cluster.pings(primary, "192.168.2.101"))
    for end, local, remote in zip(ends, ("10.255.0.1", "10.255.0.2"), ("10.255.0.2", "10.255.0.1"), strict=True):
        shown = cluster.show(*end)
        tunnel = shown["linkinfo"]["info_data"]
        assert (tunnel["local"], tunnel["remote"], shown["mtu"]) == (local, remote, 1450)
    assert [cluster.identity(*end) for end in ends] == before
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()
