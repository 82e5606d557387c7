"""Links pass every frame unchanged: slow protocols, link-local multicast, tags, labels and jumbo frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from ratchet.core.interface import PatchWire, Wire
from ratchet.datapath import ensure, make
from ratchet.dev.testbed import wait_for
from tests.support.namespaces import Bed
from tests.support.panels import EndKey, Panels
from tests.support.raw_frames import OAM, ethernet, opened, received
from tests.support.wires import Wires

JUMBO = 9000


def llc(destination: str, payload: bytes) -> bytes:
    """An IEEE 802.3 frame: a length and an LLC header in the place of the EtherType."""
    return ethernet(destination, len(payload), payload)


def snap(destination: str, protocol: str, payload: bytes) -> bytes:
    """An IEEE 802.3 frame with a SNAP header of this protocol, in hexadecimal digits."""
    return llc(destination, bytes.fromhex("aaaa03" + protocol) + payload)


NODES, PODS = ("node-1", "node-2"), ("pod-a", "pod-b")
PEER = "06:00:00:5e:ba:12"
TEXT = bytes(range(256))
FRAMES = {
    "LLDP": ethernet("01:80:c2:00:00:0e", 0x88CC, bytes.fromhex("0207040600005eba11 0403053120 06020078 0000")),
    "LACP": ethernet("01:80:c2:00:00:02", 0x8809, bytes.fromhex("0101 0114") + TEXT[:106]),
    "STP": llc("01:80:c2:00:00:00", bytes.fromhex("424203") + TEXT[:35]),
    "PAUSE": ethernet("01:80:c2:00:00:01", 0x8808, bytes.fromhex("0001 ffff")),
    "802.1X": ethernet("01:80:c2:00:00:03", 0x888E, bytes.fromhex("0201 0000")),
    "CDP": snap("01:00:0c:cc:cc:cc", "00000c2000", TEXT),
    "PVST": snap("01:00:0c:cc:cc:cd", "00000c010b", TEXT[:40]),
    "802.1Q": ethernet(PEER, 0x8100, bytes.fromhex("6064 0800") + TEXT),
    "802.1Q, VLAN 0": ethernet(PEER, 0x8100, bytes.fromhex("a000 88b5") + TEXT),
    "QinQ": ethernet(PEER, 0x88A8, bytes.fromhex("00c8 8100 0064 0800") + TEXT),
    "IS-IS": llc("01:80:c2:00:00:14", bytes.fromhex("fefe03 83") + TEXT),
    "PTP": ethernet("01:1b:19:00:00:00", 0x88F7, TEXT[:44]),
    "PTP peer delay": ethernet("01:80:c2:00:00:0e", 0x88F7, TEXT[:54]),
    "MPLS": ethernet(PEER, 0x8847, bytes.fromhex("000641ff") + TEXT),
    "jumbo": ethernet("ff:ff:ff:ff:ff:ff", 0x88B5, bytes(JUMBO - 1) + b"\x01"),
}


def veth(bed: Bed, wires: Wires, panels: Panels) -> dict[str, str]:
    ensure(wires.veth(mtu=JUMBO))
    return {"pod-a": "in1", "pod-b": "in2"}


def vxlan(bed: Bed, wires: Wires, panels: Panels) -> dict[str, str]:
    make_nodes(bed)
    for number, node in enumerate(NODES):
        bed.ip("fabric", "link", "set", f"port{number}", "mtu", "9100")
        bed.ip(node, "link", "set", "eth0", "mtu", "9100")
    for number, (node, pod) in enumerate(zip(NODES, PODS, strict=True)):
        with bed.inside(node):
            wire: Wire = wires.tunnel(pod, number, f"10.9.0.{number + 1}", f"10.9.0.{2 - number}", mtu=JUMBO)
            ensure(wire)
    return {"pod-a": "in1", "pod-b": "in1"}


def panel_on_one_node(bed: Bed, wires: Wires, panels: Panels) -> dict[str, str]:
    """Two cables that are patched to each other, each made by the pass of its end."""
    panels.make()
    one, other = panels.spec("pod-a", "a", mtu=JUMBO), panels.spec("pod-b", "b", mtu=JUMBO)
    for wire in (PatchWire("a-b", one, other), PatchWire("a-b", other, one)):
        make(wire)
    return {"pod-a": "eth1", "pod-b": "eth1"}


def panel_across_nodes(bed: Bed, wires: Wires, panels: Panels) -> dict[str, str]:
    """Cable, tunnel, cable, over an underlay with an MTU of 1500 bytes."""
    make_nodes(bed)
    own, other = "10.9.0.1", "10.9.0.2"
    ends: tuple[EndKey, EndKey] = ("a", "b")
    for node, pod, end in zip(NODES, PODS, ends, strict=True):
        panels.make(f"panel-{node}")
        with bed.inside(node):
            make(panels.wire(pod, end, own, other, panel=f"panel-{node}", mtu=JUMBO))
        own, other = other, own
    return {"pod-a": "eth1", "pod-b": "eth1"}


def make_nodes(bed: Bed) -> None:
    bed.fabric(**{"node-1": "10.9.0.1/24", "node-2": "10.9.0.2/24"})


MAKERS: dict[str, Callable[[Bed, Wires, Panels], dict[str, str]]] = {
    "direct, one node": veth,
    "direct, across nodes": vxlan,
    "panel, one node": panel_on_one_node,
    "panel, across nodes": panel_across_nodes,
}


@pytest.fixture
def ends(request: pytest.FixtureRequest, bed: Bed, wires: Wires, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The pods of a link with an MTU of JUMBO bytes, and their interfaces once they have carrier."""
    bed.add(*PODS)
    with Panels(bed, str(tmp_path)) as panels:
        made = MAKERS[request.param](bed, wires, panels)
        for pod, ifname in made.items():  # until then, the kernel drops what is sent
            wait_for(f"{ifname} of {pod}", partial(is_running, bed, pod, ifname))
        yield made


def is_running(bed: Bed, pod: str, ifname: str) -> bool:
    """Whether the kernel has taken notice of the carrier. A VXLAN has carrier from the start, in the state UNKNOWN."""
    return bed.show(pod, ifname)["operstate"] in ("UP", "UNKNOWN")


both_ways = pytest.mark.parametrize(("source", "target"), [PODS, PODS[::-1]], ids=" to ".join)


@both_ways
@pytest.mark.parametrize("ends", MAKERS, indirect=True)
def test_every_frame_arrives_unchanged(bed: Bed, ends: dict[str, str], source: str, target: str) -> None:
    with opened(bed, source, ends[source]) as sender, opened(bed, target, ends[target]) as receiver:
        arrived = {}
        for name, frame in FRAMES.items():
            sender.send(frame)
            arrived[name] = received(receiver)
    assert arrived == FRAMES


@both_ways
@pytest.mark.parametrize("ends", [one for one in MAKERS if one.startswith("panel")], indirect=True)
def test_the_ethertype_of_oam_frames_alone_does_not_arrive(
    bed: Bed, ends: dict[str, str], source: str, target: str
) -> None:
    """Whatever the destination and the OUI: a pod must not send what a panel takes for a frame of another panel."""
    with opened(bed, source, ends[source]) as sender, opened(bed, target, ends[target]) as receiver:
        for destination in ("53:41:54:00:00:01", PEER):
            sender.send(ethernet(destination, OAM, TEXT))
        sender.send(FRAMES["LLDP"])
        assert received(receiver) == FRAMES["LLDP"]
