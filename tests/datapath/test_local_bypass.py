"""A pod with NET_ADMIN sends to its own node's address: it must not reach the tunnels of other pods of that node."""

from __future__ import annotations

import pytest

from ratchet.core.differences import differences
from ratchet.core.interface import VxlanWire
from ratchet.datapath import ensure, messages, observe, tunnel_guard
from ratchet.datapath.parse import local_bypass
from ratchet.datapath.rtnetlink import Channel
from ratchet.dev.testbed import wait_for
from tests.support.frames import received_frames, send_frame
from tests.support.guard import turn_local_bypass_on
from tests.support.namespaces import Bed
from tests.support.wires import Wires

ANY = "00:00:00:00:00:00"
PORT, VNI, OTHER_VNI = 4789, 11, 12
# Each pair: the VTEP of the pods' node, and that of the node with their peers.
FAMILIES = pytest.mark.parametrize(
    ("local", "remote"), [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")], ids=["IPv4", "IPv6"]
)


@pytest.fixture
def node(bed: Bed) -> Bed:
    """A node with two pods. The link of `victim` has VNI, that of `sender` has OTHER_VNI."""
    bed.fabric(**{"node-1": "10.9.0.1/24", "node-2": "10.9.0.2/24"})
    for name, address in (("node-1", "fd09::1"), ("node-2", "fd09::2")):
        bed.ip(name, "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
    bed.add("victim", "sender")
    return bed


def _link(bed: Bed, wires: Wires, local: str, remote: str) -> VxlanWire:
    """Make this node's ends of both links, let `sender` send to `victim`, and return the end of `sender`."""
    with bed.inside("node-1"):
        for pod, vni in (("victim", VNI), ("sender", OTHER_VNI)):
            wire = wires.tunnel(pod, 0, local, remote, vni=vni)
            ensure(wire)
    _skip_before_6_5(bed)
    append = ("bridge", "fdb", "append", ANY, "dev", "in1", "dst", local, "port", str(PORT), "vni", str(VNI))
    bed.run("sender", *append)
    return wire


def _skip_before_6_5(bed: Bed) -> None:
    with bed.inside("sender"), Channel() as channel:
        (shown,) = channel.do(messages.link_named("in1"))
    if local_bypass(shown.messages[0]) is None:
        pytest.skip("this kernel always bypasses the packet filter within a node (before Linux 6.5)")


@FAMILIES
def test_a_pod_does_not_reach_another_tunnel_of_its_node(local: str, remote: str, node: Bed, wires: Wires) -> None:
    """It does once that tunnel has no guard, so the frame is one that the kernel takes."""
    _link(node, wires, local, remote)
    with received_frames(node, "victim") as frames:
        send_frame(node, "sender", b"injected")
        with node.inside("node-1"):
            wait_for("the drop", lambda: set(tunnel_guard.read_drops()) == {(PORT, VNI)})
            tunnel_guard.withdraw(PORT, VNI)
        send_frame(node, "sender", b"unguarded")
        wait_for("a frame", lambda: b"unguarded" in frames)
        assert b"injected" not in frames


def test_the_local_bypass_is_found_and_turned_off_in_place(node: Bed, wires: Wires) -> None:
    """An earlier version's tunnels have it, and a pod in the node's user namespace can turn it on."""
    wire = _link(node, wires, "10.9.0.1", "10.9.0.2")
    with node.inside("node-1"):
        ensure(wire)  # removes the forwarding entry
    before = node.show("sender", "in1")["ifindex"]
    turn_local_bypass_on(node.path("sender"), "in1")
    with node.inside("node-1"):
        assert differences(wire, observe(wire)) == ("in1 has the option localbypass",)
        assert ensure(wire) is True
        assert ensure(wire) is False
    assert node.show("sender", "in1")["ifindex"] == before
