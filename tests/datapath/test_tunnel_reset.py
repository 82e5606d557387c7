"""A pod with NET_ADMIN changes its end of a tunnel. `ensure` resets the end, in place where the kernel can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.core.differences import differences
from ratchet.core.interface import VxlanWire
from ratchet.datapath import ensure, observe, vxlan
from tests.support.namespaces import Bed
from tests.support.wires import Wires

ONE, TWO, OTHER = "10.9.0.1", "10.9.0.2", "10.9.0.99"
ANY = "00:00:00:00:00:00"
MAC = "02:00:00:00:00:01"

APPEND = ("bridge", "fdb", "append", ANY, "dev", "in1", "dst")
CHANGES = {
    "another VTEP": (*APPEND, OTHER),
    "another port": (*APPEND, TWO, "port", "8472"),
    "another VNI": (*APPEND, TWO, "vni", "12"),
    "another VTEP, port and VNI": (*APPEND, OTHER, "port", "8472", "vni", "12"),
    "another interface": (*APPEND, TWO, "via", "lo"),
    "a MAC address of its own": ("bridge", "fdb", "add", MAC, "dev", "in1", "dst", OTHER, "vni", "12"),
    "a dynamic entry": ("bridge", "fdb", "replace", MAC, "dev", "in1", "dst", OTHER, "dynamic"),
    "no entry": ("bridge", "fdb", "del", ANY, "dev", "in1"),
    "another remote": ("ip", "link", "set", "in1", "type", "vxlan", "remote", OTHER),
    "no remote": ("ip", "link", "set", "in1", "type", "vxlan", "remote", "0.0.0.0"),
    "another local address": ("ip", "link", "set", "in1", "type", "vxlan", "local", "10.9.0.77"),
    "another parent": ("ip", "link", "set", "in1", "type", "vxlan", "dev", "lo"),
    "learning": ("ip", "link", "set", "in1", "type", "vxlan", "learning"),
    "a traffic class": ("ip", "link", "set", "in1", "type", "vxlan", "tos", "0xb8"),
}


@pytest.fixture
def wire(nodes: Bed, wires: Wires) -> VxlanWire:
    """The end in pod-a of a tunnel to pod-b; both ends are up."""
    with nodes.inside("node-2"):
        ensure(wires.tunnel("pod-b", 1, TWO, ONE))
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(wire)
    return wire


def found(bed: Bed, wire: VxlanWire) -> tuple[str, ...]:
    with bed.inside("node-1"):
        return differences(wire, observe(wire))


def assert_resets(bed: Bed, wire: VxlanWire) -> None:
    """Reset the end. It then matches its wire, and the link carries packets."""
    with bed.inside("node-1"):
        assert ensure(wire) is True
        assert ensure(wire) is False
    assert found(bed, wire) == ()
    assert bed.pings("pod-a", "192.168.2.2")


def identity(bed: Bed) -> tuple[int, str]:
    shown = bed.show("pod-a", "in1")
    return shown["ifindex"], shown["address"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_tunnel_is_found_and_reset_in_place(change: str, nodes: Bed, wire: VxlanWire) -> None:
    before = identity(nodes)
    nodes.run("pod-a", *CHANGES[change])
    assert found(nodes, wire) != ()
    assert_resets(nodes, wire)
    assert identity(nodes) == before


def test_the_differences_name_the_destination(nodes: Bed, wire: VxlanWire) -> None:
    nodes.run("pod-a", *APPEND, OTHER, "port", "8472", "vni", "12")
    assert found(nodes, wire) == (f"in1 sends {ANY} to {OTHER} port 8472 VNI 12",)


def test_many_changes_at_once_are_reset(nodes: Bed, wire: VxlanWire) -> None:
    before = identity(nodes)
    for change in CHANGES.values():
        if "del" not in change:
            nodes.run("pod-a", *change)
    assert_resets(nodes, wire)
    assert identity(nodes) == before


def test_the_reset_keeps_the_neighbours_of_the_pod(nodes: Bed, wire: VxlanWire) -> None:
    assert nodes.pings("pod-a", "192.168.2.2")
    before = nodes.ip("pod-a", "neigh", "show", "192.168.2.2")
    assert before
    nodes.run("pod-a", *APPEND, OTHER)
    with nodes.inside("node-1"):
        ensure(wire)
    assert nodes.ip("pod-a", "neigh", "show", "192.168.2.2").split()[:5] == before.split()[:5]


@pytest.mark.parametrize("more", [0, 1], ids=["one by one", "with the end"])
def test_any_number_of_entries_is_removed(more: int, nodes: Bed, wire: VxlanWire, tmp_path: Path) -> None:
    """Above the limit, the end is made again. `wire.entry` counts too."""
    count = vxlan.ENTRIES_REMOVED - 1 + more
    batch = tmp_path / "entries"
    batch.write_text("".join(f"fdb add 02:00:00:00:00:{one:02x} dev in1 dst {OTHER}\n" for one in range(count)))
    nodes.run("pod-a", "bridge", "-batch", str(batch))
    assert found(nodes, wire)[-1] == f"in1 has {count - 3} more such entries"
    before = identity(nodes)
    assert_resets(nodes, wire)
    assert (identity(nodes) == before) is not bool(more)


@pytest.mark.parametrize("options", ["external", "gbp", "external gpe"])
def test_an_end_that_the_pod_has_replaced_with_other_options_is_recreated(
    options: str, nodes: Bed, wire: VxlanWire
) -> None:
    """A pod in the node's user namespace can create a tunnel through the node, with Ratchet's mark."""
    mark = str(nodes.show("pod-a", "in1")["group"])
    nodes.ip("pod-a", "link", "del", "in1")
    new = ("link", "add", "in1", "netns", nodes.name("pod-a"), "group", mark, "mtu", "1400", "type", "vxlan")
    destination = () if "external" in options else ("id", "11", "remote", TWO)
    nodes.ip("node-1", *new, *destination, "dstport", "4789", *options.split())
    for option in options.split():
        assert f"in1 has the option {option}" in found(nodes, wire)
    assert_resets(nodes, wire)


def test_a_port_of_a_bridge_in_the_pod_is_unchanged(nodes: Bed, wire: VxlanWire) -> None:
    """The bridge's own entries are not the tunnel's."""
    nodes.ip("pod-a", "link", "add", "br0", "type", "bridge")
    nodes.ip("pod-a", "link", "set", "in1", "master", "br0")
    nodes.run("pod-a", "bridge", "fdb", "add", MAC, "dev", "in1", "master", "static")
    assert found(nodes, wire) == ()


def test_an_ipv6_tunnel_is_reset_in_place(bed: Bed, wires: Wires) -> None:
    bed.fabric(**{"node-1": "fd09::1/64", "node-2": "fd09::2/64"})
    bed.add("pod-a", "pod-b")
    with bed.inside("node-2"):
        ensure(wires.tunnel("pod-b", 1, "fd09::2", "fd09::1"))
    with bed.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, "fd09::1", "fd09::2")
        ensure(wire)
    before = identity(bed)
    bed.run("pod-a", *APPEND, "fd09::99")
    bed.run("pod-a", "ip", "link", "set", "in1", "type", "vxlan", "remote", "fd09::98")
    assert len(found(bed, wire)) == 2
    assert_resets(bed, wire)
    assert identity(bed) == before


@pytest.fixture
def of_one_node(bed: Bed, wires: Wires) -> tuple[VxlanWire, VxlanWire]:
    """The two ends of a tunnel on one node. The ifindex of the node's eth0 is that of no interface in the pods."""
    bed.add("node-1", "pod-a", "pod-b")
    bed.ip("node-1", "link", "add", "eth0", "index", "77", "type", "veth", "peer", "name", "far")
    bed.ip("node-1", "addr", "add", f"{ONE}/24", "dev", "eth0")
    for name in ("eth0", "far"):
        bed.ip("node-1", "link", "set", name, "up")
    with bed.inside("node-1"):
        near, far = (
            replace(wires.tunnel(pod, number, ONE, ONE), port=port, remote_port=other)
            for pod, number, port, other in (("pod-a", 0, 4790, 4791), ("pod-b", 1, 4791, 4790))
        )
        ensure(near)
        ensure(far)
    return near, far


def test_a_tunnel_within_a_node_sends_to_its_peer_only(bed: Bed, of_one_node: tuple[VxlanWire, VxlanWire]) -> None:
    with bed.inside("node-1"):
        for wire in of_one_node:
            assert differences(wire, observe(wire)) == ()
    assert bed.pings("pod-a", "192.168.2.2")


def test_a_tunnel_within_a_node_is_reset_in_place(bed: Bed, of_one_node: tuple[VxlanWire, VxlanWire]) -> None:
    before = identity(bed)
    bed.run("pod-a", *APPEND, OTHER)
    assert len(found(bed, of_one_node[0])) == 1
    assert_resets(bed, of_one_node[0])
    assert identity(bed) == before


def test_a_new_address_of_a_node_leaves_no_entry_of_the_old_one(
    bed: Bed, of_one_node: tuple[VxlanWire, VxlanWire]
) -> None:
    moved = replace(of_one_node[0], remote="10.9.0.5")
    with bed.inside("node-1"):
        assert ensure(moved) is True
        near = observe(moved).near
    assert near is not None
    assert near.entries == (moved.entry,)
