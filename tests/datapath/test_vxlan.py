from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from ratchet.core.differences import differences
from ratchet.core.interface import Observed, VxlanWire, tunnel_mtu
from ratchet.core.sandbox import Location
from ratchet.datapath import build, ensure, make, messages, observe, observe_port, remove
from ratchet.errors import DatapathError, ForeignInterfaceError, VniInUseError
from tests.support.namespaces import Bed
from tests.support.wires import Wires

GROUP = str(messages.GROUP)
ONE, TWO, THREE = "10.9.0.1", "10.9.0.2", "10.9.0.3"


def _ensure_both(bed: Bed, wires: Wires, one: str = ONE, two: str = TWO) -> None:
    with bed.inside("node-1"):
        assert ensure(wires.tunnel("pod-a", 0, one, two)) is True
    with bed.inside("node-2"):
        assert ensure(wires.tunnel("pod-b", 1, two, one)) is True


def _assert_connected(bed: Bed) -> None:
    assert bed.pings("pod-a", "192.168.2.2")
    assert bed.pings("pod-b", "192.168.2.1")
    assert bed.pings("pod-a", "fd00::2")
    assert bed.pings("pod-b", "fd00::1")


def _assert_unchanged(bed: Bed, wire: VxlanWire, node: str = "node-1") -> None:
    with bed.inside(node):
        assert differences(wire, observe(wire)) == ()
        assert ensure(wire) is False


def test_a_tunnel_carries_packets_between_pods_of_two_nodes(nodes: Bed, wires: Wires) -> None:
    _ensure_both(nodes, wires)
    _assert_connected(nodes)
    shown = nodes.show("pod-a", "in1")
    data = shown["linkinfo"]["info_data"]
    assert (data["id"], data["remote"], data["local"], data["port"]) == (11, TWO, ONE, 4789)
    assert (shown["mtu"], shown["group"], shown["ifalias"]) == (1400, GROUP, "ratchet/a-b")
    assert [one["broadcast"] for one in shown["addr_info"] if one["family"] == "inet"] == ["192.168.2.255"]
    assert [one.get("tentative") for one in shown["addr_info"] if one["local"].startswith("fd00")] == [None]
    assert nodes.run("pod-a", "cat", "/proc/sys/net/ipv6/conf/in1/accept_ra") == "0\n"
    assert nodes.interfaces("node-1") == nodes.interfaces("node-2") == ["eth0"], "made in the pod, not in the node"


def test_a_tunnel_over_an_ipv6_underlay_carries_packets(bed: Bed, wires: Wires) -> None:
    bed.fabric(**{"node-1": "fd09::1/64", "node-2": "fd09::2/64"})
    bed.add("pod-a", "pod-b")
    _ensure_both(bed, wires, "fd09::1", "fd09::2")
    _assert_connected(bed)
    with bed.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, "fd09::1", "fd09::2")
        assert (wire.parent.ifname, wire.parent.address) == ("eth0", "fd09::1")
        assert observe(wire).near is not None
    _assert_unchanged(bed, wire)


def test_ensure_does_not_change_a_matching_tunnel(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(wire)
        before = observe(wire)
        assert before.near is not None
        assert replace(before.near, entries=None) == observe_port(Location(wire.near.netns), "in1")
        assert ensure(wire) is False
        assert observe(wire) == before


def test_a_moved_peer_is_followed_in_place_and_immediately(nodes: Bed, wires: Wires) -> None:
    """The peer's pod is recreated on another node, with another MAC. Ours keeps its interface."""
    _ensure_both(nodes, wires)
    _assert_connected(nodes)
    before = nodes.show("pod-a", "in1")
    nodes.ip("pod-a", "neigh", "add", "192.168.2.77", "lladdr", "02:00:00:00:00:77", "dev", "in1", "nud", "permanent")
    nodes.delete("pod-b")
    with nodes.inside("node-3"):
        ensure(wires.tunnel("pod-c", 1, THREE, ONE))
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, THREE)
        assert differences(wire, observe(wire)) == (f"in1 has remote {TWO}, wanted {THREE}",)
        assert ensure(wire) is True
    assert nodes.pings("pod-a", "192.168.2.2"), "the neighbour that the old peer was is forgotten"
    assert nodes.pings("pod-a", "fd00::2")
    after = nodes.show("pod-a", "in1")
    assert [after[key] for key in ("ifindex", "address")] == [before[key] for key in ("ifindex", "address")]
    assert after["addr_info"] == before["addr_info"]
    assert "192.168.2.77" in nodes.ip("pod-a", "neigh", "show", "nud", "permanent")
    _assert_unchanged(nodes, wire)


def test_a_moved_peer_without_a_neighbour_entry_is_followed(nodes: Bed, wires: Wires) -> None:
    """No traffic was sent, so there is no neighbour entry to flush."""
    with nodes.inside("node-1"):
        ensure(wires.tunnel("pod-a", 0, ONE, TWO))
        index = nodes.show("pod-a", "in1")["ifindex"]
        wire = wires.tunnel("pod-a", 0, ONE, THREE)
        assert ensure(wire) is True
    assert nodes.show("pod-a", "in1")["ifindex"] == index
    _assert_unchanged(nodes, wire)


@pytest.mark.parametrize("change", ["vni", "port"])
def test_a_change_of_vni_or_port_recreates_the_end(change: str, nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        old = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(old)
        index = nodes.show("pod-a", "in1")["ifindex"]
        wire = replace(old, vni=12) if change == "vni" else replace(old, port=8472, remote_port=8472)
        assert ensure(wire) is True
    _assert_unchanged(nodes, wire)
    assert nodes.interfaces("pod-a") == ["in1"]
    assert nodes.show("pod-a", "in1")["ifindex"] != index


def test_a_change_of_the_local_address_is_made_in_place(nodes: Bed, wires: Wires) -> None:
    nodes.ip("node-1", "addr", "add", "10.9.0.11/24", "dev", "eth0")
    with nodes.inside("node-1"):
        old = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(old)
        index = nodes.show("pod-a", "in1")["ifindex"]
        wire = replace(old, local="10.9.0.11")
        assert ensure(wire) is True
    with nodes.inside("node-2"):
        ensure(wires.tunnel("pod-b", 1, TWO, "10.9.0.11"))
    _assert_unchanged(nodes, wire)
    _assert_connected(nodes)
    assert nodes.show("pod-a", "in1")["ifindex"] == index


def test_a_tunnel_follows_a_change_of_the_underlay_address_family(nodes: Bed, wires: Wires) -> None:
    nodes.ip("node-1", "addr", "add", "fd09::1/64", "dev", "eth0", "nodad")
    nodes.ip("node-2", "addr", "add", "fd09::2/64", "dev", "eth0", "nodad")
    _ensure_both(nodes, wires)
    before = [nodes.show(pod, "in1") for pod in ("pod-a", "pod-b")]
    _ensure_both(nodes, wires, "fd09::1", "fd09::2")
    _assert_connected(nodes)
    after = [nodes.show(pod, "in1") for pod in ("pod-a", "pod-b")]
    assert [one["linkinfo"]["info_data"]["remote6"] for one in after] == ["fd09::2", "fd09::1"]
    assert all(new["ifindex"] != old["ifindex"] for old, new in zip(before, after, strict=True))


def test_mtu_and_addresses_are_changed_in_place(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        old = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(old)
        before = observe(old).near
        wire = replace(old, near=replace(old.near, mtu=1300, addresses=(ip_interface("192.168.7.1/28"),)))
        assert ensure(wire) is True
        after = observe(wire).near
    assert before is not None
    assert after is not None
    assert (after.index, after.mac) == (before.index, before.mac)
    assert (after.mtu, after.addresses) == (1300, wire.near.addresses)


def test_an_mtu_above_the_limit_of_the_parent_is_rejected(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO, mtu=1451)
        with pytest.raises(DatapathError, match="MTU 1451 does not fit into eth0") as caught:
            ensure(wire)
        assert "At most 1450" in caught.value.details
        assert nodes.interfaces("pod-a") == []
        assert ensure(wires.tunnel("pod-a", 0, ONE, TWO, mtu=1450)) is True


@pytest.mark.parametrize("half", ["down", "up without addresses"])
def test_ensure_completes_a_half_made_tunnel(half: str, nodes: Bed, wires: Wires) -> None:
    _create_half_made(nodes, "in1")
    if half != "down":
        nodes.ip("pod-a", "link", "set", "in1", "up")
    index = nodes.show("pod-a", "in1")["ifindex"]
    _ensure_both(nodes, wires)
    _assert_connected(nodes)
    assert nodes.show("pod-a", "in1")["ifindex"] == index
    assert nodes.run("pod-a", "cat", "/proc/sys/net/ipv6/conf/in1/accept_ra") == "0\n"


def test_an_interface_of_the_node_can_have_the_same_name(nodes: Bed, wires: Wires) -> None:
    nodes.ip("node-1", "link", "add", "in1", "type", "veth", "peer", "name", "other")
    before = nodes.show("node-1", "in1")
    _ensure_both(nodes, wires)
    _assert_connected(nodes)
    assert nodes.interfaces("pod-a") == ["in1"]
    assert nodes.show("node-1", "in1") == before


def test_a_tunnel_left_with_its_temporary_name_is_removed(nodes: Bed, wires: Wires) -> None:
    """The node has an interface in1, so the tunnel had another name before a crash."""
    nodes.ip("node-1", "link", "add", "in1", "type", "veth", "peer", "name", "other")
    _create_half_made(nodes, "ratchetb")
    _ensure_both(nodes, wires)
    _assert_connected(nodes)
    assert nodes.interfaces("pod-a") == ["in1"]


def test_a_foreign_interface_is_left_alone(nodes: Bed, wires: Wires) -> None:
    nodes.ip("pod-a", "link", "add", "in1", "type", "vxlan", "id", "99", "dstport", "4789", "remote", TWO)
    before = nodes.show("pod-a", "in1")
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        message = f"cannot make in1 in {wire.near.netns}: an interface of that name exists and is not Ratchet's"
        with pytest.raises(ForeignInterfaceError, match=message):
            ensure(wire)
        with pytest.raises(ForeignInterfaceError):
            remove(Location(wire.near.netns), "in1")
    assert nodes.show("pod-a", "in1") == before


def test_concurrent_threads_create_one_tunnel(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
    start = threading.Barrier(8)

    def make(_: int) -> bool:
        with nodes.inside("node-1"):
            start.wait(10)
            return ensure(wire)

    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            assert any(pool.map(make, range(8)))
        assert nodes.interfaces("pod-a") == ["in1"]
        _assert_unchanged(nodes, wire)
        remove(Location(wire.near.netns), "in1")


def test_a_veth_of_ratchet_is_replaced(nodes: Bed, wires: Wires) -> None:
    """The pods were on one node and are now on two."""
    ensure(wires.veth("pod-a", "pod-c"))
    _ensure_both(nodes, wires)
    _assert_connected(nodes)
    assert nodes.interfaces("pod-c") == []


def test_a_missing_parent_is_an_error_that_names_it(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        without_parent = replace(wire, parent=replace(wire.parent, ifname="eth7", index=777))
        with pytest.raises(DatapathError, match=f"cannot make in1 in {wire.near.netns}: .*eth7"):
            ensure(without_parent)
    assert nodes.interfaces("pod-a") == []


def test_remove_frees_the_vni(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(wire)
        assert remove(Location(wire.near.netns), "in1") is True
        assert remove(Location(wire.near.netns), "in1") is False
        assert observe(wire).near is None
        assert ensure(replace(wire, near=replace(wire.near, netns=nodes.path("pod-c")))) is True


def _create_half_made(nodes: Bed, ifname: str) -> None:
    """Create a tunnel end as the first message leaves it: in the pod, in Ratchet's group, and down."""
    head = ("link", "add", ifname, "netns", nodes.name("pod-a"), "mtu", "1400", "group", GROUP)
    tunnel = ("id", "11", "remote", TWO, "local", ONE, "dev", "eth0", "dstport", "4789", "nolearning")
    nodes.ip("node-1", *head, "type", "vxlan", *tunnel)


def test_build_without_evict_keeps_an_existing_tunnel_of_the_vni(nodes: Bed, wires: Wires) -> None:
    """A cached record may be of a deleted link, whose VNI another link has by now."""
    with nodes.inside("node-1"):
        existing = wires.tunnel("pod-c", 0, ONE, TWO)
        ensure(existing)
        with pytest.raises(VniInUseError, match=f"VNI {existing.vni} is in use on this node"):
            build(wires.tunnel("pod-a", 0, ONE, TWO), evict=False)
        assert nodes.interfaces("pod-a") == []
        assert not differences(existing, observe(existing))
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        assert not differences(wire, build(wire))
    assert nodes.interfaces("pod-c") == []


def test_make_creates_a_tunnel_if_nothing_is_in_the_way(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        made = make(wire)
        assert not differences(wire, made)
        assert made.near is not None
        assert made.near.entries is None, "a new end has no entries but its own"
        assert make(wire) == observe(wire) == Observed(replace(made.near, entries=(wire.entry,)))
        moved = make(replace(wire, remote=THREE))
        assert moved.near is not None and moved.near.remote == TWO, "what stands is left as it is"
        assert make(wires.tunnel("pod-c", 1, ONE, TWO)).near is None, "its VNI is another's"
    assert nodes.interfaces("pod-c") == []
    _assert_unchanged(nodes, wire)


LOOPBACKS = {4: ("10.255.0.1", "10.255.0.2"), 6: ("fd55::1", "fd55::2")}


def _add_routed_nodes(bed: Bed, where: str, family: int) -> tuple[str, str]:
    """Create two nodes with routed addresses on an interface without egress; return the addresses."""
    bed.fabric(**{"node-1": "10.9.0.1/24", "node-2": "10.9.0.2/24"})
    bed.add("pod-a", "pod-b", "pod-c")
    for number, node in enumerate(("node-1", "node-2")):
        own = LOOPBACKS[family][number]
        if where != "lo":
            bed.ip(node, "link", "add", where, "up", "type", "bridge")
        if family == 4:
            bed.ip(node, "addr", "add", f"{own}/32", "dev", where)
            bed.ip(node, "route", "add", "default", "via", ("10.9.0.2", "10.9.0.1")[number])
        else:
            bed.ip(node, "addr", "add", f"{own}/128", "dev", where, "nodad")
            bed.ip(node, "addr", "add", f"fd09::{number + 1}/64", "dev", "eth0", "nodad")
            bed.ip(node, "-6", "route", "add", "default", "via", ("fd09::2", "fd09::1")[number])
    return LOOPBACKS[family]


@pytest.mark.parametrize(("where", "family"), [("lo", 4), ("br7", 4), ("lo", 6)])
def test_a_tunnel_from_an_interface_without_egress_carries_packets(
    where: str, family: int, bed: Bed, wires: Wires
) -> None:
    one, two = _add_routed_nodes(bed, where, family)
    link_mtu = 1450 if family == 4 else 1430
    for node, pod, number, local, remote in (("node-1", "pod-a", 0, one, two), ("node-2", "pod-b", 1, two, one)):
        with bed.inside(node):
            wire = wires.tunnel(pod, number, local, remote, mtu=link_mtu)
            assert tunnel_mtu(wire.parent.mtu, wire.local) == link_mtu
            assert ensure(wire) is True
        _assert_unchanged(bed, wire, node)
    _assert_connected(bed)
    assert bed.show("pod-a", "in1")["mtu"] == link_mtu
    assert "link" not in bed.show("pod-a", "in1")["linkinfo"]["info_data"]
    whole = ("ping", "-n", "-c", "1", "-W", "3", "-M", "do", "-s", str(link_mtu - 28), "192.168.2.2")
    bed.run("pod-a", *whole)


def test_a_pinned_tunnel_is_recreated_when_its_address_moves_to_lo(nodes: Bed, wires: Wires) -> None:
    nodes.ip("node-1", "addr", "add", "10.9.7.1/32", "dev", "eth0")
    with nodes.inside("node-1"):
        ensure(wires.tunnel("pod-a", 0, "10.9.7.1", TWO))
        nodes.ip("node-1", "addr", "del", "10.9.7.1/32", "dev", "eth0")
        nodes.ip("node-1", "addr", "add", "10.9.7.1/32", "dev", "lo")
        wire = wires.tunnel("pod-a", 0, "10.9.7.1", TWO)
        index = nodes.show("node-1", "eth0")["ifindex"]
        assert differences(wire, observe(wire)) == (f"in1 has parent {index}, wanted 0",)
        assert ensure(wire) is True
        moved = replace(wire, remote=THREE)
        before = nodes.show("pod-a", "in1")["ifindex"]
        assert ensure(moved) is True
        assert nodes.show("pod-a", "in1")["ifindex"] == before, "a remote is changed in place"
    _assert_unchanged(nodes, moved)


def test_a_stale_unpinned_tunnel_releases_its_vni(bed: Bed, wires: Wires) -> None:
    one, two = _add_routed_nodes(bed, "lo", 4)
    with bed.inside("node-1"):
        ensure(wires.tunnel("pod-c", 0, one, two))
        assert ensure(wires.tunnel("pod-a", 0, one, two)) is True
    assert bed.interfaces("pod-c") == []
    with bed.inside("node-2"):
        ensure(wires.tunnel("pod-b", 1, two, one))
    _assert_connected(bed)


def test_an_unpinned_tunnel_of_another_node_is_left_alone(bed: Bed, wires: Wires) -> None:
    one, two = _add_routed_nodes(bed, "lo", 4)
    with bed.inside("node-1"):
        ensure(wires.tunnel("pod-a", 0, one, two))
    with bed.inside("node-2"):
        ensure(wires.tunnel("pod-c", 1, two, one))
        assert ensure(wires.tunnel("pod-b", 1, two, one)) is True
    assert bed.interfaces("pod-a") == ["in1"]
    _assert_connected(bed)


def test_a_tunnel_within_a_node_with_its_address_on_lo_carries_packets(bed: Bed, wires: Wires) -> None:
    one, _ = _add_routed_nodes(bed, "lo", 4)
    with bed.inside("node-1"):
        for pod, number, port, other in (("pod-a", 0, 4790, 4791), ("pod-b", 1, 4791, 4790)):
            wire = replace(wires.tunnel(pod, number, one, one), port=port, remote_port=other)
            ensure(wire)
            assert differences(wire, observe(wire)) == ()
            entries = bed.run(pod, "bridge", "fdb", "show", "dev", "in1")
            assert entries.count("00:00:00:00:00:00") == 1, "it sends to its own UDP port no more"
    _assert_connected(bed)
