"""The guard of the tunnel port: whose datagrams a tunnel takes."""

from __future__ import annotations

import itertools
import multiprocessing
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from ratchet.core.interface import VxlanWire, differences
from ratchet.core.model import Location
from ratchet.core.tunnel_guard import GuardedTunnel
from ratchet.datapath import ensure, guard_state, make, nftables, observe, remove, tunnel_guard
from ratchet.datapath.guard_elements import peer_key, tunnel_key
from ratchet.datapath.guard_rules import PEERS4, TABLE, TUNNELS, table_messages
from ratchet.datapath.nftables import (
    DELTABLE,
    TABLE_NAME,
    Element,
    Nftables,
    add_elements,
    delete_element,
    request,
    text,
)
from ratchet.datapath.rtnetlink import RefusedError
from ratchet.errors import GuardError
from tests.support.frames import received_frames, vxlan_datagram
from tests.support.namespaces import Bed
from tests.support.wires import Wires

ONE, TWO, THREE = "10.9.0.1", "10.9.0.2", "10.9.0.3"
ONE6, TWO6, THREE6 = "fd09::1", "fd09::2", "fd09::3"
PORT, VNI = 4789, 11


@pytest.fixture(autouse=True)
def kernel(bed: Bed) -> None:
    """Skip if the kernel has no nftables, which the table itself shows."""
    bed.add("probe")
    with bed.inside("probe"), Nftables() as channel:
        try:
            channel.transact(table_messages())
        except RefusedError as error:
            pytest.skip(f"this kernel has no nftables for the guard: {error.strerror}")


@pytest.fixture
def underlay(bed: Bed) -> Bed:
    """Two nodes and a third host on one Ethernet, with addresses of both families."""
    bed.fabric(**{"node-1": f"{ONE}/24", "node-2": f"{TWO}/24", "node-3": f"{THREE}/24"})
    for node, address in (("node-1", ONE6), ("node-2", TWO6), ("node-3", THREE6)):
        bed.ip(node, "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
    bed.add("pod-a", "pod-b")
    return bed


FAMILIES = pytest.mark.parametrize(
    ("one", "two", "three"), [(ONE, TWO, THREE), (ONE6, TWO6, THREE6)], ids=["IPv4", "IPv6"]
)


def _link_pods(bed: Bed, wires: Wires, one: str, two: str, **changes: Any) -> VxlanWire:
    """Link both pods, and return the wire of pod-a's end on node-1."""
    found = []
    for node, pod, number, local, remote in (("node-1", "pod-a", 0, one, two), ("node-2", "pod-b", 1, two, one)):
        with bed.inside(node):
            wire = replace(wires.tunnel(pod, number, local, remote), **changes)
            ensure(wire)
            found.append(wire)
    return found[0]


def _vxlan(payload: bytes, vni: int = VNI, reserved: int = 0) -> bytes:
    return vxlan_datagram(payload, vni, reserved)


def _udp(source: str, target: str, content: bytes, port: int = PORT) -> bytes:
    """A UDP datagram with its checksum, which IPv6 requires."""
    length = 8 + len(content)
    addresses = ip_address(source).packed + ip_address(target).packed
    pseudo = addresses + struct.pack(">II", length, socket.IPPROTO_UDP)
    header = struct.pack(">HHHH", 5000, port, length, 0)
    total = pseudo + header + content + b"\0" * (length % 2)
    checksum = sum(struct.unpack(f">{len(total) // 2}H", total))
    while checksum >> 16:
        checksum = (checksum & 0xFFFF) + (checksum >> 16)
    return struct.pack(">HHHH", 5000, port, length, ~checksum & 0xFFFF or 0xFFFF) + content


def _fragment(source: str, target: str, offset: int, more: bool, content: bytes, identity: int = 777) -> bytes:
    """An IP packet with a fragment of a UDP datagram; a whole one if it is first and last."""
    packed = ip_address(source).packed + ip_address(target).packed
    if ":" not in source:
        flags = (0x2000 if more else 0) | offset // 8
        return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(content), identity, flags, 64, 17, 0) + packed + content
    head = struct.pack(">BBHI", 17, 0, offset | int(more), identity)
    return struct.pack(">IHBB", 0x60000000, 8 + len(content), 44, 64) + packed + head + content


def _send(bed: Bed, node: str, target: str, *packets: bytes) -> None:
    """Send raw IP packets, which may have any source."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with bed.inside(node), socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for packet in packets:
            raw.sendto(packet, (target, 0))


def _send_udp(bed: Bed, node: str, target: str, content: bytes, port: int = PORT) -> None:
    """Send a datagram by a plain socket."""
    with (
        bed.inside(node),
        socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.sendto(content, (target, port))


def _drops(bed: Bed, node: str = "node-1") -> dict[tuple[int, int], int]:
    with bed.inside(node):
        return dict(tunnel_guard.read_drops())


def _foreign_tunnel(bed: Bed, node: str, vni: int, local: str) -> None:
    """A VXLAN of another CNI in the node itself, which takes datagrams from anywhere."""
    bed.ip(node, *f"link add other type vxlan id {vni} dstport {PORT} local {local} dev eth0 nolearning".split())
    bed.ip(node, "link", "set", "other", "up")


# Whose datagrams


@FAMILIES
def test_a_tunnel_takes_datagrams_from_its_peer_only(
    one: str, two: str, three: str, underlay: Bed, wires: Wires
) -> None:
    _link_pods(underlay, wires, one, two)
    with received_frames(underlay, "pod-a") as frames:
        _send_udp(underlay, "node-3", one, _vxlan(b"from a third host"))
        _send_udp(underlay, "node-3", one, _vxlan(b"with a reserved byte", reserved=7))
        _send_udp(underlay, "node-1", one, _vxlan(b"from the node itself"))
        _send_udp(underlay, "node-2", one, _vxlan(b"from the peer"))
        assert underlay.pings("pod-b", "192.168.2.1"), "the link carries packets"
        assert b"from the peer" in frames
        assert not [sent for sent in (b"a third host", b"a reserved byte", b"the node itself") if sent in frames]
    assert _drops(underlay) == {(PORT, VNI): 3}


@FAMILIES
def test_a_tunnel_of_another_cni_on_the_same_port_takes_datagrams_from_anywhere(
    one: str, two: str, three: str, underlay: Bed, wires: Wires
) -> None:
    _link_pods(underlay, wires, one, two)
    _foreign_tunnel(underlay, "node-1", 99, one)
    with received_frames(underlay, "node-1", "other") as frames:
        _send_udp(underlay, "node-3", one, _vxlan(b"whole", 99))
        _send(underlay, "node-3", one, *_pieces(three, one, b"in fragments" + bytes(40), ORDINARY, 99))
        assert underlay.pings("node-3", one)
        assert b"whole" in frames
        assert b"in fragments" in frames
    assert _drops(underlay) == {}


def test_the_guard_is_off_for_a_tunnel_without_it(underlay: Bed, wires: Wires) -> None:
    wire = _link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        open_to_all = replace(wire, guard=False)
        assert differences(open_to_all, observe(open_to_all)) == ("in1 is guarded",)
        assert ensure(open_to_all) is True
        assert ensure(open_to_all) is False
        assert tunnel_guard.read_table().tunnels == ()
    with received_frames(underlay, "pod-a") as frames:
        _send_udp(underlay, "node-3", ONE, _vxlan(b"from anywhere"))
        assert underlay.pings("node-3", ONE)
        assert b"from anywhere" in frames


def test_two_tunnels_of_one_node_are_guarded_at_their_own_ports(underlay: Bed, wires: Wires) -> None:
    with underlay.inside("node-1"):
        for pod, number, port, other in (("pod-a", 0, 4790, 4791), ("pod-b", 1, 4791, 4790)):
            ensure(replace(wires.tunnel(pod, number, ONE, ONE), port=port, remote_port=other))
    with received_frames(underlay, "pod-a") as frames:
        _send_udp(underlay, "node-3", ONE, _vxlan(b"forged"), 4790)
        assert underlay.pings("pod-a", "192.168.2.2")
        assert b"forged" not in frames
    assert _drops(underlay) == {(4790, VNI): 1}


# Fragments

TINY, ORDINARY = 8, 32
_identities = itertools.count(1000)


def _pieces(source: str, target: str, payload: bytes, first: int, vni: int = VNI) -> tuple[bytes, bytes]:
    """A datagram in two fragments, the first of `first` bytes."""
    datagram, identity = _udp(source, target, _vxlan(payload, vni)), next(_identities)
    parts = (0, True, datagram[:first]), (first, False, datagram[first:])
    head, tail = (_fragment(source, target, *part, identity) for part in parts)
    return head, tail


def _overlapping(source: str, target: str, payload: bytes) -> tuple[bytes, ...]:
    """Fragments that say another VNI first, and then overwrite it."""
    (other, ours), identity = (_udp(source, target, _vxlan(payload, vni)) for vni in (99, VNI)), next(_identities)
    parts = (0, True, other[:ORDINARY]), (8, True, ours[8:ORDINARY]), (ORDINARY, False, ours[ORDINARY:])
    return tuple(_fragment(source, target, *part, identity) for part in parts)


def _track_connections(bed: Bed, node: str) -> None:
    """Turn connection tracking on, which reassembles fragments before any filter."""
    expression = nftables.nest(
        1, nftables.text(1, "ct"), nftables.nest(2, nftables.number(1, 8), nftables.number(2, 0))
    )
    name = text(TABLE_NAME, "tracking")
    chain = name + text(3, "all")
    with bed.inside(node), Nftables() as channel:
        channel.transact(
            [
                request(nftables.NEWTABLE, nftables.NLM_F_CREATE, name),
                request(nftables.NEWCHAIN, nftables.NLM_F_CREATE, chain),
                request(nftables.NEWRULE, nftables.NLM_F_CREATE, name, text(2, "all"), nftables.nest(4, expression)),
            ]
        )


@pytest.mark.parametrize("tracked", [False, True], ids=["plain", "tracked"])
@FAMILIES
def test_forged_fragments_do_not_reach_a_tunnel(
    one: str, two: str, three: str, tracked: bool, underlay: Bed, wires: Wires
) -> None:
    _link_pods(underlay, wires, one, two)
    if tracked:
        _track_connections(underlay, "node-1")
    with received_frames(underlay, "pod-a") as frames:
        for payload, packets in (
            (b"ordinary", _pieces(three, one, b"ordinary" + bytes(40), ORDINARY)),
            (b"tiny", _pieces(three, one, b"tiny" + bytes(40), TINY)),
            (b"backward", _pieces(three, one, b"backward" + bytes(40), TINY)[::-1]),
            (b"overlapping", _overlapping(three, one, b"overlapping" + bytes(40))),
        ):
            _send(underlay, "node-3", one, *packets)
            assert underlay.pings("pod-b", "192.168.2.1")
            assert payload not in frames, payload


@pytest.mark.parametrize("first", [ORDINARY, TINY])
@FAMILIES
def test_forged_fragments_reach_a_tunnel_without_the_guard(
    one: str, two: str, three: str, first: int, underlay: Bed, wires: Wires
) -> None:
    """So the fragments of these tests are what the kernel takes."""
    _link_pods(underlay, wires, one, two, guard=False)
    with received_frames(underlay, "pod-a") as frames:
        _send(underlay, "node-3", one, *_pieces(three, one, b"forged" + bytes(40), first))
        assert underlay.pings("pod-b", "192.168.2.1")
        assert b"forged" in frames


@FAMILIES
def test_the_fragments_of_a_peer_reach_a_tunnel(one: str, two: str, three: str, underlay: Bed, wires: Wires) -> None:
    _link_pods(underlay, wires, one, two)
    with received_frames(underlay, "pod-a") as frames:
        _send(underlay, "node-2", one, *_pieces(two, one, b"ordinary" + bytes(40), ORDINARY))
        assert underlay.pings("pod-b", "192.168.2.1")
        assert b"ordinary" in frames
    assert _drops(underlay) == {}


@pytest.mark.parametrize("tracked", [False, True], ids=["plain", "tracked"])
@FAMILIES
def test_a_link_whose_outer_packets_are_fragmented_carries_large_packets(
    one: str, two: str, three: str, tracked: bool, underlay: Bed, wires: Wires
) -> None:
    _link_pods(underlay, wires, one, two)
    network, mtu = ("fd09::/64", "1280") if ":" in one else ("10.9.0.0/24", "700")
    for node in ("node-1", "node-2"):
        underlay.ip(node, "route", "replace", network, "dev", "eth0", "mtu", mtu)
        if tracked:
            _track_connections(underlay, node)
    assert underlay.pings("pod-a", "192.168.2.2")
    underlay.run("pod-a", "ping", "-n", "-c", "1", "-W", "3", "-s", "1372", "192.168.2.2")
    assert _drops(underlay) == {}


# Forwarded from pods


@pytest.fixture
def routed(underlay: Bed, wires: Wires) -> Bed:
    """A pod network on node-2: the pod `tenant` sends to other nodes through it, from any address."""
    _link_pods(underlay, wires, ONE, TWO)
    underlay.add("tenant")
    underlay.ip("node-2", *f"link add pods type veth peer name eth0 netns {underlay.name('tenant')}".split())
    for node, ifname, number in (("node-2", "pods", 1), ("tenant", "eth0", 2)):
        underlay.ip(node, "addr", "add", f"10.77.0.{number}/24", "dev", ifname)
        underlay.ip(node, "addr", "add", f"fd77::{number}/64", "dev", ifname, "nodad")
        underlay.ip(node, "link", "set", ifname, "up")
    underlay.ip("tenant", "route", "add", "default", "via", "10.77.0.1")
    underlay.ip("tenant", "-6", "route", "add", "default", "via", "fd77::1")
    # Forward what claims to come from the node itself, as address translation would make it.
    settings = ("ipv4/conf/all/forwarding=1", "ipv6/conf/all/forwarding=1", "ipv4/conf/all/rp_filter=0")
    for setting in (*settings, "ipv4/conf/pods/rp_filter=0", "ipv4/conf/pods/accept_local=1"):
        name, _, value = setting.partition("=")
        underlay.run("node-2", "sh", "-c", f"echo {value} > /proc/sys/net/{name}")
    return underlay


@pytest.mark.parametrize("first", [0, ORDINARY, TINY], ids=["whole", "fragments", "tiny fragments"])
@pytest.mark.parametrize(("one", "two"), [(ONE, TWO), (ONE6, TWO6)], ids=["IPv4", "IPv6"])
def test_a_pod_cannot_inject_by_way_of_its_node(one: str, two: str, first: int, routed: Bed, wires: Wires) -> None:
    """The datagram has the source that the peer accepts."""
    _link_pods(routed, wires, one, two)

    def packets(payload: bytes, vni: int = VNI) -> tuple[bytes, ...]:
        if first:
            return _pieces(two, one, payload, first, vni)
        return (_udp_packet(two, one, _vxlan(payload, vni)),)

    _foreign_tunnel(routed, "node-1", 99, one)
    assert routed.pings("pod-b", "192.168.2.1")
    assert routed.pings("tenant", "fd77::1" if ":" in one else "10.77.0.1")
    before = sum(_drops(routed, "node-2").values())
    with received_frames(routed, "pod-a") as frames, received_frames(routed, "node-1", "other") as others:
        _send(routed, "tenant", one, *packets(b"injected" + bytes(40)))
        if first != TINY:
            _send(routed, "tenant", one, *packets(b"another" + bytes(40), 99))
        assert routed.pings("pod-b", "192.168.2.1")
        assert b"injected" not in frames
        assert first == TINY or b"another" in others, "a tunnel of another CNI is forwarded"
    assert sum(_drops(routed, "node-2").values()) == before + 1


def _udp_packet(source: str, target: str, content: bytes) -> bytes:
    """An IP packet with a whole datagram."""
    packet = _fragment(source, target, 0, False, _udp(source, target, content))
    if ":" not in source:
        return packet
    return packet[:4] + struct.pack(">HB", len(packet) - 48, 17) + packet[7:40] + packet[48:]


# The table


def _table(bed: Bed, node: str = "node-1") -> tuple[set[tuple[int, int, str]], set[tuple[str, int, int]]]:
    """The tunnels in a node's table, and the peers."""
    with bed.inside(node):
        table = tunnel_guard.read_table()
    return {(one.port, one.vni, one.peer) for one in table.tunnels}, set(table.peers)


@FAMILIES
def test_the_table_has_a_tunnel_from_creation_to_removal(
    one: str, two: str, three: str, underlay: Bed, wires: Wires
) -> None:
    with underlay.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, one, two)
        near = make(wire).near
        assert near is not None and near.guarded is True
    assert _table(underlay) == ({(PORT, VNI, two)}, {(two, PORT, VNI)})
    with underlay.inside("node-1"):
        (tunnel,) = tunnel_guard.read_table().tunnels
        assert (tunnel.link, tunnel.owner.endswith(f"/{near.index}")) == ("a-b", True)
        assert remove(Location(wire.near.netns), "in1") is True
    assert _table(underlay) == (set(), set())


def test_the_table_follows_the_vtep_of_the_peer(underlay: Bed, wires: Wires) -> None:
    wire = _link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        assert ensure(replace(wire, remote=THREE)) is True
    assert _table(underlay) == ({(PORT, VNI, THREE)}, {(THREE, PORT, VNI)})
    with underlay.inside("node-1"):
        assert ensure(replace(wire, remote=TWO6, local=ONE6)) is True
    assert _table(underlay) == ({(PORT, VNI, TWO6)}, {(TWO6, PORT, VNI)})


def test_the_table_follows_a_change_of_vni_and_port(underlay: Bed, wires: Wires) -> None:
    wire = _link_pods(underlay, wires, ONE, TWO)
    for changed in (replace(wire, vni=12), replace(wire, vni=12, port=8472, remote_port=8472)):
        with underlay.inside("node-1"):
            assert ensure(changed) is True
        assert _table(underlay) == ({(changed.port, 12, TWO)}, {(TWO, changed.port, 12)})


def test_the_table_loses_a_tunnel_that_a_veth_replaces(underlay: Bed, wires: Wires) -> None:
    _link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        ensure(wires.veth("pod-a", "pod-b"))
    assert _table(underlay) == (set(), set())


def _without_tunnel(channel: Nftables) -> None:
    channel.transact([delete_element(TABLE, TUNNELS, tunnel_key(PORT, VNI))])


def _without_peer(channel: Nftables) -> None:
    channel.transact([delete_element(TABLE, PEERS4, peer_key(TWO, PORT, VNI))])


def _without_table(channel: Nftables) -> None:
    channel.transact([request(DELTABLE, 0, text(TABLE_NAME, TABLE))])


def _with_empty_table(channel: Nftables) -> None:
    _without_table(channel)
    channel.transact([request(nftables.NEWTABLE, nftables.NLM_F_CREATE, text(TABLE_NAME, TABLE))])


@pytest.mark.parametrize("damage", [_without_tunnel, _without_peer, _without_table, _with_empty_table])
def test_ensure_repairs_the_guard_of_its_tunnel(
    damage: Callable[[Nftables], None], underlay: Bed, wires: Wires
) -> None:
    wire = _link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        with Nftables() as channel:
            damage(channel)
        assert differences(wire, observe(wire)) == ("in1 takes datagrams from anywhere",)
        assert ensure(wire) is True
        assert ensure(wire) is False
    assert _table(underlay) == ({(PORT, VNI, TWO)}, {(TWO, PORT, VNI)})
    with received_frames(underlay, "pod-a") as frames:
        _send_udp(underlay, "node-3", ONE, _vxlan(b"forged"))
        assert underlay.pings("pod-b", "192.168.2.1")
        assert b"forged" not in frames


def test_a_late_removal_leaves_the_tunnel_of_a_new_owner(underlay: Bed) -> None:
    """A VNI may have another link before the removal of its former one is complete."""
    with underlay.inside("node-1"):
        tunnel_guard.admit(GuardedTunnel(PORT, VNI, TWO, "1/1", "old"))
        tunnel_guard.admit(GuardedTunnel(PORT, VNI, THREE, "2/2", "new"))
        assert tunnel_guard.withdraw(PORT, VNI, "1/1")
    assert _table(underlay) == ({(PORT, VNI, THREE)}, {(THREE, PORT, VNI)})


def test_a_tunnel_whose_namespace_is_gone_is_removed_by_its_owner(underlay: Bed, wires: Wires) -> None:
    wire = _link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        (tunnel,) = tunnel_guard.read_table().tunnels
        cookie, index = map(int, tunnel.owner.split("/"))
        here = Location(wire.near.netns, cookie, index)
        elsewhere = replace(here, netns="/run/netns/no-such")
        assert remove(elsewhere, "in1") is False
        assert tunnel_guard.read_table().tunnels == (tunnel,), "its device exists, in a namespace without that path"
        underlay.ip("pod-a", "link", "del", "in1")
        assert remove(here, "in1") is False
    assert _table(underlay) == (set(), set())


def test_sweep_removes_what_no_device_has(underlay: Bed, wires: Wires) -> None:
    _link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        for vni, owner in ((70, "7/70"), (71, "7/71")):
            tunnel_guard.admit(GuardedTunnel(PORT, vni, THREE, owner))
        assert tunnel_guard.sweep({"7/70"}, remove_if_empty=True) == 1
    assert _table(underlay)[0] == {(PORT, VNI, TWO), (PORT, 70, THREE)}
    underlay.ip("pod-a", "link", "del", "in1")
    with underlay.inside("node-1"):
        assert tunnel_guard.sweep((), remove_if_empty=True) == 2
        assert tunnel_guard.read_table().layout == ()
        assert tunnel_guard.remove_table() is False


def test_rebuild_replaces_the_table_in_one_transaction(underlay: Bed) -> None:
    kept, added = GuardedTunnel(PORT, 70, TWO, "7/70", "a"), GuardedTunnel(8472, 71, TWO6, "7/71", "b")
    with underlay.inside("node-1"):
        tunnel_guard.admit(kept)
        before = tunnel_guard.read_table().layout
        with Nftables() as channel:
            generation = channel.generation()
            layout = tunnel_guard.rebuild(lambda table: (*table.tunnels, added))
            assert channel.generation() == generation + 1
        table = tunnel_guard.read_table()
    assert table.layout == layout == before
    assert set(table.tunnels) == {kept, added}
    assert table.peers == {(TWO, PORT, 70), (TWO6, 8472, 71)}
    assert table.ports == {PORT, 8472}


def test_rebuild_decides_again_if_the_table_changes_meanwhile(underlay: Bed) -> None:
    late = [GuardedTunnel(PORT, 70, TWO, "7/70")]
    with underlay.inside("node-1"):

        def decide(table: Any) -> tuple[GuardedTunnel, ...]:
            if late:
                tunnel_guard.admit(late.pop())
            return tuple(table.tunnels)

        tunnel_guard.rebuild(decide)
    assert _table(underlay)[0] == {(PORT, 70, TWO)}


def _change_tunnels(underlay: Bed, number: int) -> None:
    """Admit ten tunnels, move each to another peer, and withdraw every other one."""
    with underlay.inside("node-1"):
        for vni in range(100 * number, 100 * number + 10):
            assert tunnel_guard.admit(GuardedTunnel(PORT, vni, TWO, f"1/{vni}")), tunnel_guard.refusal()
            assert tunnel_guard.admit(GuardedTunnel(PORT, vni, THREE, f"1/{vni}")), tunnel_guard.refusal()
            assert vni % 2 or tunnel_guard.withdraw(PORT, vni, f"1/{vni}"), tunnel_guard.refusal()


def _assert_changed(underlay: Bed, numbers: range) -> None:
    left = {(PORT, 100 * number + one, THREE) for number in numbers for one in range(1, 10, 2)}
    assert _table(underlay) == (left, {(peer, port, vni) for port, vni, peer in left})


def test_threads_change_the_table_together(underlay: Bed) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: _change_tunnels(underlay, number), range(1, 5)))
    _assert_changed(underlay, range(1, 5))


def test_processes_change_the_table_together(underlay: Bed) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_change_tunnels, args=(underlay, number)) for number in range(1, 9)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    _assert_changed(underlay, range(1, 9))


def test_thousands_of_tunnels_are_read_back(underlay: Bed) -> None:
    tunnels = {
        GuardedTunnel(PORT, 100 + one, f"10.9.{one // 250}.{one % 250}", f"1/{one}", "x" * 300) for one in range(3000)
    }
    with underlay.inside("node-1"):
        tunnel_guard.rebuild(lambda _: tunnels)
        table = tunnel_guard.read_table()
    assert {(one.key, one.peer, one.owner) for one in table.tunnels} == {
        (one.key, one.peer, one.owner) for one in tunnels
    }
    assert len(table.peers) == 3000


def test_a_missing_table_is_made_with_what_the_process_finds(underlay: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked for while there is a table, and it is looked for once for all threads."""
    found = [GuardedTunnel(PORT, vni, TWO, f"1/{vni}") for vni in (1, 2)]
    asked: list[int] = []

    def find() -> list[GuardedTunnel]:
        asked.append(1)
        return found

    def admit(vni: int) -> bool:
        with underlay.inside("node-1"):
            return tunnel_guard.admit(GuardedTunnel(PORT, vni, THREE, f"2/{vni}"))

    monkeypatch.setattr(guard_state, "_state", guard_state._State())
    tunnel_guard.restore_from(find)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(admit, range(2, 10)))
    assert len(asked) == 1
    assert _table(underlay)[0] == {(PORT, 1, TWO)} | {(PORT, vni, THREE) for vni in range(2, 10)}, "the newest wins"
    assert admit(10)
    with underlay.inside("node-1"):
        assert tunnel_guard.restore() is False
    assert len(asked) == 1
    with underlay.inside("node-1"):
        assert tunnel_guard.remove_table()
        assert tunnel_guard.restore() is True
        assert set(tunnel_guard.read_table().tunnels) == set(found)
        assert tunnel_guard.remove_table()
        found.clear()
        assert tunnel_guard.restore() is False
        assert tunnel_guard.read_table().layout == ()


def test_an_unreadable_tunnel_is_counted(underlay: Bed) -> None:
    with underlay.inside("node-1"):
        tunnel_guard.rebuild(lambda _: ())
        with Nftables() as channel:
            channel.transact(add_elements(TABLE, TUNNELS, [Element(tunnel_key(PORT, 5))]))
        assert tunnel_guard.read_table().unreadable == 1
        assert tunnel_guard.admit(GuardedTunnel(PORT, 5, TWO, "1/5")), "it is replaced"
        assert tunnel_guard.read_table().unreadable == 0


# Without nftables


@pytest.mark.parametrize(("name", "value"), [("_SUBSYSTEM", 15), ("NETLINK_NETFILTER", 14)])
def test_a_link_works_on_a_kernel_without_nftables(
    name: str, value: int, underlay: Bed, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses a subsystem or a protocol that it does not have, as if nftables were missing."""
    monkeypatch.setattr(guard_state, "_state", guard_state._State())
    monkeypatch.setattr(nftables, name, value)
    wire = _link_pods(underlay, wires, ONE, TWO)
    assert underlay.pings("pod-a", "192.168.2.2")
    with underlay.inside("node-1"):
        assert tunnel_guard.refusal().startswith("cannot change the guard of the tunnel port: ")
        assert differences(wire, observe(wire)) == (), "the link is not built again and again"
        assert ensure(wire) is False
        with pytest.raises(GuardError, match="cannot read the guard of the tunnel port") as caught:
            tunnel_guard.read_table()
        assert "nf_tables" in caught.value.details
        assert remove(Location(wire.near.netns), "in1") is True
