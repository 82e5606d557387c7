"""The guard of the tunnel port: whose datagrams a tunnel takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratchet.core.differences import differences
from ratchet.core.sandbox import Location
from ratchet.datapath import ensure, guard_state, nftables, observe, remove, tunnel_guard
from ratchet.errors import GuardError
from tests.support.frames import received_frames
from tests.support.guarded_link import FAMILIES, ONE, TWO, drops, foreign_tunnel, link_pods
from tests.support.namespaces import Bed
from tests.support.packets import ORDINARY, PORT, VNI, pieces, send, send_udp, vxlan
from tests.support.wires import Wires

pytestmark = pytest.mark.usefixtures("has_nftables")


@FAMILIES
def test_a_tunnel_takes_datagrams_from_its_peer_only(
    one: str, two: str, three: str, underlay: Bed, wires: Wires
) -> None:
    link_pods(underlay, wires, one, two)
    with received_frames(underlay, "pod-a") as frames:
        send_udp(underlay, "node-3", one, vxlan(b"from a third host"))
        send_udp(underlay, "node-3", one, vxlan(b"with a reserved byte", reserved=7))
        send_udp(underlay, "node-1", one, vxlan(b"from the node itself"))
        send_udp(underlay, "node-2", one, vxlan(b"from the peer"))
        assert underlay.pings("pod-b", "192.168.2.1"), "the link carries packets"
        assert b"from the peer" in frames
        assert not [sent for sent in (b"a third host", b"a reserved byte", b"the node itself") if sent in frames]
    assert drops(underlay) == {(PORT, VNI): 3}


@FAMILIES
def test_a_tunnel_of_another_cni_on_the_same_port_takes_datagrams_from_anywhere(
    one: str, two: str, three: str, underlay: Bed, wires: Wires
) -> None:
    link_pods(underlay, wires, one, two)
    foreign_tunnel(underlay, "node-1", 99, one)
    with received_frames(underlay, "node-1", "other") as frames:
        send_udp(underlay, "node-3", one, vxlan(b"whole", 99))
        send(underlay, "node-3", one, *pieces(three, one, b"in fragments" + bytes(40), ORDINARY, 99))
        assert underlay.pings("node-3", one)
        assert b"whole" in frames
        assert b"in fragments" in frames
    assert drops(underlay) == {}


def test_the_guard_is_off_for_a_tunnel_without_it(underlay: Bed, wires: Wires) -> None:
    wire = link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        open_to_all = replace(wire, guard=False)
        assert differences(open_to_all, observe(open_to_all)) == ("in1 is guarded",)
        assert ensure(open_to_all) is True
        assert ensure(open_to_all) is False
        assert tunnel_guard.read_table().tunnels == ()
    with received_frames(underlay, "pod-a") as frames:
        send_udp(underlay, "node-3", ONE, vxlan(b"from anywhere"))
        assert underlay.pings("node-3", ONE)
        assert b"from anywhere" in frames


def test_two_tunnels_of_one_node_are_guarded_at_their_own_ports(underlay: Bed, wires: Wires) -> None:
    with underlay.inside("node-1"):
        for pod, number, port, other in (("pod-a", 0, 4790, 4791), ("pod-b", 1, 4791, 4790)):
            ensure(replace(wires.tunnel(pod, number, ONE, ONE), port=port, remote_port=other))
    with received_frames(underlay, "pod-a") as frames:
        send_udp(underlay, "node-3", ONE, vxlan(b"forged"), 4790)
        assert underlay.pings("pod-a", "192.168.2.2")
        assert b"forged" not in frames
    assert drops(underlay) == {(4790, VNI): 1}


@pytest.mark.parametrize(("name", "value"), [("_SUBSYSTEM", 15), ("NETLINK_NETFILTER", 14)])
def test_a_link_works_on_a_kernel_without_nftables(
    name: str, value: int, underlay: Bed, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses a subsystem or a protocol that it does not have, as if nftables were missing."""
    monkeypatch.setattr(guard_state, "_state", guard_state._State())
    monkeypatch.setattr(nftables, name, value)
    wire = link_pods(underlay, wires, ONE, TWO)
    assert underlay.pings("pod-a", "192.168.2.2")
    with underlay.inside("node-1"):
        assert tunnel_guard.refusal().startswith("cannot change the guard of the tunnel port: ")
        assert differences(wire, observe(wire)) == (), "the link is not built again and again"
        assert ensure(wire) is False
        with pytest.raises(GuardError, match="cannot read the guard of the tunnel port") as caught:
            tunnel_guard.read_table()
        assert "nf_tables" in caught.value.details
        assert remove(Location(wire.near.netns), "in1") is True
