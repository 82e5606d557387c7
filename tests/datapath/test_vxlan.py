from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from ratchet.core.interface import VxlanWire, differences, tunnel_mtu
from ratchet.core.model import Location
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


def _carries(bed: Bed) -> None:
    assert bed.pings("pod-a", "192.168.2.2")
    assert bed.pings("pod-b", "192.168.2.1")
    assert bed.pings("pod-a", "fd00::2")
    assert bed.pings("pod-b", "fd00::1")


def _stands(bed: Bed, wire: VxlanWire, node: str = "node-1") -> None:
    with bed.inside(node):
        assert differences(wire, observe(wire)) == ()
        assert ensure(wire) is False


def test_a_tunnel_carries_packets_between_pods_of_two_nodes(nodes: Bed, wires: Wires) -> None:
    _ensure_both(nodes, wires)
    _carries(nodes)
    shown = nodes.show("pod-a", "in1")
    data = shown["linkinfo"]["info_data"]
    assert (data["id"], data["remote"], data["local"], data["port"]) == (11, TWO, ONE, 4789)
    assert (shown["mtu"], shown["group"], shown["ifalias"]) == (1400, GROUP, "ratchet/a-b")
    assert [one["broadcast"] for one in shown["addr_info"] if one["family"] == "inet"] == ["192.168.2.255"]
    assert [one.get("tentative") for one in shown["addr_info"] if one["local"].startswith("fd00")] == [None]
    assert nodes.run("pod-a", "cat", "/proc/sys/net/ipv6/conf/in1/accept_ra") == "0\n"
    assert nodes.interfaces("node-1") == nodes.interfaces("node-2") == ["eth0"], "made in the pod, not in the node"


def test_a_tunnel_over_ipv6(bed: Bed, wires: Wires) -> None:
    bed.fabric(**{"node-1": "fd09::1/64", "node-2": "fd09::2/64"})
    bed.add("pod-a", "pod-b")
    _ensure_both(bed, wires, "fd09::1", "fd09::2")
    _carries(bed)
    with bed.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, "fd09::1", "fd09::2")
        assert (wire.parent.ifname, wire.parent.address) == ("eth0", "fd09::1")
        assert observe(wire).near is not None
    _stands(bed, wire)


def test_what_stands_is_left_as_it_is(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(wire)
        before = observe(wire)
        assert before.near == observe_port(Location(wire.near.netns), "in1")
        assert ensure(wire) is False
        assert observe(wire) == before


def test_a_moved_peer_is_followed_in_place_and_at_once(nodes: Bed, wires: Wires) -> None:
    """The peer's pod is re-created on another node, with another MAC; ours keeps its interface."""
    _ensure_both(nodes, wires)
    _carries(nodes)
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
    _stands(nodes, wire)


def test_a_moved_peer_that_was_never_spoken_to_is_followed(nodes: Bed, wires: Wires) -> None:
    """There is no neighbour to forget."""
    with nodes.inside("node-1"):
        ensure(wires.tunnel("pod-a", 0, ONE, TWO))
        index = nodes.show("pod-a", "in1")["ifindex"]
        wire = wires.tunnel("pod-a", 0, ONE, THREE)
        assert ensure(wire) is True
    assert nodes.show("pod-a", "in1")["ifindex"] == index
    _stands(nodes, wire)


@pytest.mark.parametrize("change", ["vni", "port", "local"])
def test_what_cannot_be_changed_in_place_is_made_anew(change: str, nodes: Bed, wires: Wires) -> None:
    nodes.ip("node-1", "addr", "add", "10.9.0.11/24", "dev", "eth0")
    with nodes.inside("node-1"):
        old = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(old)
        match change:
            case "vni":
                wire = replace(old, vni=12)
            case "port":
                wire = replace(old, port=8472)
            case _:
                wire = replace(old, local="10.9.0.11")
        assert ensure(wire) is True
    _stands(nodes, wire)
    assert nodes.interfaces("pod-a") == ["in1"]


def test_another_address_family_of_the_underlay_is_made_anew(nodes: Bed, wires: Wires) -> None:
    nodes.ip("node-1", "addr", "add", "fd09::1/64", "dev", "eth0", "nodad")
    nodes.ip("node-2", "addr", "add", "fd09::2/64", "dev", "eth0", "nodad")
    _ensure_both(nodes, wires)
    _ensure_both(nodes, wires, "fd09::1", "fd09::2")
    _carries(nodes)


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


def test_an_mtu_that_the_parent_cannot_carry_is_refused(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO, mtu=1451)
        with pytest.raises(DatapathError, match="MTU 1451 does not fit into eth0") as caught:
            ensure(wire)
        assert "At most 1450" in caught.value.details
        assert nodes.interfaces("pod-a") == []
        assert ensure(wires.tunnel("pod-a", 0, ONE, TWO, mtu=1450)) is True


@pytest.mark.parametrize("half", ["down", "up without addresses"])
def test_a_half_made_tunnel_is_finished(half: str, nodes: Bed, wires: Wires) -> None:
    _by_hand(nodes, "in1")
    if half != "down":
        nodes.ip("pod-a", "link", "set", "in1", "up")
    index = nodes.show("pod-a", "in1")["ifindex"]
    _ensure_both(nodes, wires)
    _carries(nodes)
    assert nodes.show("pod-a", "in1")["ifindex"] == index
    assert nodes.run("pod-a", "cat", "/proc/sys/net/ipv6/conf/in1/accept_ra") == "0\n"


def test_an_interface_of_the_node_may_have_the_same_name(nodes: Bed, wires: Wires) -> None:
    nodes.ip("node-1", "link", "add", "in1", "type", "veth", "peer", "name", "other")
    before = nodes.show("node-1", "in1")
    _ensure_both(nodes, wires)
    _carries(nodes)
    assert nodes.interfaces("pod-a") == ["in1"]
    assert nodes.show("node-1", "in1") == before


def test_a_tunnel_left_under_its_first_name_gives_way(nodes: Bed, wires: Wires) -> None:
    """The crash was between making a tunnel, beside an interface of the node of that name, and naming it."""
    nodes.ip("node-1", "link", "add", "in1", "type", "veth", "peer", "name", "other")
    _by_hand(nodes, "ratchetb")
    _ensure_both(nodes, wires)
    _carries(nodes)
    assert nodes.interfaces("pod-a") == ["in1"]


def test_a_foreign_interface_is_left_alone(nodes: Bed, wires: Wires) -> None:
    nodes.ip("pod-a", "link", "add", "in1", "type", "vxlan", "id", "99", "dstport", "4789", "remote", TWO)
    before = nodes.show("pod-a", "in1")
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        message = f"cannot make in1 in {wire.near.netns}: an interface of that name exists and is not ratchet's"
        with pytest.raises(ForeignInterfaceError, match=message):
            ensure(wire)
        with pytest.raises(ForeignInterfaceError):
            remove(Location(wire.near.netns), "in1")
    assert nodes.show("pod-a", "in1") == before


def test_the_same_tunnel_from_many_threads_at_once(nodes: Bed, wires: Wires) -> None:
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
        _stands(nodes, wire)
        remove(Location(wire.near.netns), "in1")


def test_a_veth_of_ours_gives_way(nodes: Bed, wires: Wires) -> None:
    """The two pods were on one node, and now are on two."""
    ensure(wires.veth("pod-a", "pod-c"))
    _ensure_both(nodes, wires)
    _carries(nodes)
    assert nodes.interfaces("pod-c") == []


def test_a_parent_that_is_gone_is_an_error_that_names_it(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        gone = replace(wire, parent=replace(wire.parent, ifname="eth7", index=777))
        with pytest.raises(DatapathError, match=f"cannot make in1 in {wire.near.netns}: .*eth7"):
            ensure(gone)
    assert nodes.interfaces("pod-a") == []


def test_remove_frees_the_vni(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(wire)
        assert remove(Location(wire.near.netns), "in1") is True
        assert remove(Location(wire.near.netns), "in1") is False
        assert observe(wire).near is None
        assert ensure(replace(wire, near=replace(wire.near, netns=nodes.path("pod-c")))) is True


def _by_hand(nodes: Bed, ifname: str) -> None:
    """A tunnel's end as the first message makes it: in the pod, marked, down."""
    head = ("link", "add", ifname, "netns", nodes.name("pod-a"), "mtu", "1400", "group", GROUP)
    tunnel = ("id", "11", "remote", TWO, "local", ONE, "dev", "eth0", "dstport", "4789", "nolearning")
    nodes.ip("node-1", *head, "type", "vxlan", *tunnel)


def test_a_tunnel_that_has_the_vni_is_not_taken_for_a_left_over_unasked(nodes: Bed, wires: Wires) -> None:
    """What is built on memory may be of a link that is no more, and whose number is another's by now."""
    with nodes.inside("node-1"):
        standing = wires.tunnel("pod-c", 0, ONE, TWO)
        ensure(standing)
        with pytest.raises(VniInUseError, match=f"VNI {standing.vni} is in use on this node"):
            build(wires.tunnel("pod-a", 0, ONE, TWO), evict=False)
        assert nodes.interfaces("pod-a") == []
        assert not differences(standing, observe(standing))
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        assert not differences(wire, build(wire))
    assert nodes.interfaces("pod-c") == []


def test_a_tunnel_is_made_where_nothing_is_in_its_way(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        made = make(wire)
        assert not differences(wire, made)
        assert make(wire) == made == observe(wire)
        moved = make(replace(wire, remote=THREE))
        assert moved.near is not None and moved.near.remote == TWO, "what stands is left as it is"
        assert make(wires.tunnel("pod-c", 1, ONE, TWO)).near is None, "its VNI is another's"
    assert nodes.interfaces("pod-c") == []
    _stands(nodes, wire)


LOOPBACKS = {4: ("10.255.0.1", "10.255.0.2"), 6: ("fd55::1", "fd55::2")}


def _routed(bed: Bed, where: str, family: int) -> tuple[str, str]:
    """Two nodes whose addresses are on an interface without egress, reached over eth0 by routes; these addresses."""
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
def test_a_tunnel_whose_address_is_on_an_interface_without_egress_carries_packets(
    where: str, family: int, bed: Bed, wires: Wires
) -> None:
    one, two = _routed(bed, where, family)
    fits = 1450 if family == 4 else 1430
    for node, pod, number, local, remote in (("node-1", "pod-a", 0, one, two), ("node-2", "pod-b", 1, two, one)):
        with bed.inside(node):
            wire = wires.tunnel(pod, number, local, remote, mtu=fits)
            assert tunnel_mtu(wire.parent.mtu, wire.local) == fits
            assert ensure(wire) is True
        _stands(bed, wire, node)
    _carries(bed)
    assert bed.show("pod-a", "in1")["mtu"] == fits
    assert "link" not in bed.show("pod-a", "in1")["linkinfo"]["info_data"]
    whole = ("ping", "-n", "-c", "1", "-W", "3", "-M", "do", "-s", str(fits - 28), "192.168.2.2")
    bed.run("pod-a", *whole)


def test_a_pinned_tunnel_is_made_anew_once_its_address_is_on_lo(nodes: Bed, wires: Wires) -> None:
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
    _stands(nodes, moved)


def test_a_stale_tunnel_that_is_not_pinned_gives_its_vni_back(bed: Bed, wires: Wires) -> None:
    one, two = _routed(bed, "lo", 4)
    with bed.inside("node-1"):
        ensure(wires.tunnel("pod-c", 0, one, two))
        assert ensure(wires.tunnel("pod-a", 0, one, two)) is True
    assert bed.interfaces("pod-c") == []
    with bed.inside("node-2"):
        ensure(wires.tunnel("pod-b", 1, two, one))
    _carries(bed)


def test_the_tunnel_of_another_node_that_is_not_pinned_is_left_alone(bed: Bed, wires: Wires) -> None:
    one, two = _routed(bed, "lo", 4)
    with bed.inside("node-1"):
        ensure(wires.tunnel("pod-a", 0, one, two))
    with bed.inside("node-2"):
        ensure(wires.tunnel("pod-c", 1, two, one))
        assert ensure(wires.tunnel("pod-b", 1, two, one)) is True
    assert bed.interfaces("pod-a") == ["in1"]
    _carries(bed)


def test_a_tunnel_within_a_node_whose_address_is_on_lo_carries_packets(bed: Bed, wires: Wires) -> None:
    one, _ = _routed(bed, "lo", 4)
    with bed.inside("node-1"):
        for pod, number, port, other in (("pod-a", 0, 4790, 4791), ("pod-b", 1, 4791, 4790)):
            wire = replace(wires.tunnel(pod, number, one, one), port=port, remote_port=other)
            ensure(wire)
            assert differences(wire, observe(wire)) == ()
            entries = bed.run(pod, "bridge", "fdb", "show", "dev", "in1")
            assert entries.count("00:00:00:00:00:00") == 1, "it sends to its own UDP port no more"
    _carries(bed)
