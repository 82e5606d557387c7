"""Links pass every frame unchanged: slow protocols, link-local multicast, tags, labels and jumbo frames."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ratchet.core.interface import Wire
from ratchet.datapath import ensure
from ratchet.dev.testbed import wait_for
from tests.support.namespaces import Bed
from tests.support.panels import EndKey, Panels, connect, tunnel_of
from tests.support.raw_frames import ethernet, opened, received
from tests.support.wires import Wires

JUMBO = 9000


def llc(destination: str, payload: bytes) -> bytes:
    """An IEEE 802.3 frame: a length and an LLC header in the place of the EtherType."""
    return ethernet(destination, len(payload), payload)


def snap(destination: str, protocol: str, payload: bytes) -> bytes:
    """An IEEE 802.3 frame with a SNAP header of this protocol, in hexadecimal digits."""
    return llc(destination, bytes.fromhex("aaaa03" + protocol) + payload)


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
    for number, node in enumerate(("node-1", "node-2")):
        bed.ip("fabric", "link", "set", f"port{number}", "mtu", "9100")
        bed.ip(node, "link", "set", "eth0", "mtu", "9100")
    for number, (node, pod) in enumerate((("node-1", "pod-a"), ("node-2", "pod-b"))):
        with bed.inside(node):
            wire: Wire = wires.tunnel(pod, number, f"10.9.0.{number + 1}", f"10.9.0.{2 - number}", mtu=JUMBO)
            ensure(wire)
    return {"pod-a": "in1", "pod-b": "in1"}


def patch(bed: Bed, wires: Wires, panels: Panels) -> dict[str, str]:
    panel = panels.make()
    near, far = panels.cable(panel, "pod-a", "a", mtu=JUMBO), panels.cable(panel, "pod-b", "b", mtu=JUMBO)
    connect(panel, near, far.index)
    connect(panel, far, near.index)
    return {"pod-a": "eth1", "pod-b": "eth1"}


def patched_vxlan(bed: Bed, wires: Wires, panels: Panels) -> dict[str, str]:
    """Cables that are patched to tunnels, over an underlay with an MTU of 1500 bytes."""
    make_nodes(bed)
    own, other = "10.9.0.1", "10.9.0.2"
    placed: tuple[tuple[str, str, EndKey], ...] = (("node-1", "pod-a", "a"), ("node-2", "pod-b", "b"))
    for node, pod, end in placed:
        panel = panels.make(f"panel-{node}")
        cable = panels.cable(panel, pod, end, mtu=JUMBO)
        with bed.inside(node):
            panels.tunnel(panel, wire := panels.wire(pod, end, own, other, panel=f"panel-{node}", mtu=JUMBO))
        connect(panel, cable, bed.show(f"panel-{node}", tunnel_of(wire))["ifindex"])
        own, other = other, own
    return {"pod-a": "eth1", "pod-b": "eth1"}


def make_nodes(bed: Bed) -> None:
    bed.fabric(**{"node-1": "10.9.0.1/24", "node-2": "10.9.0.2/24"})


@pytest.fixture(params=[veth, vxlan, patch, patched_vxlan], ids=lambda make: make.__name__)
def ends(request: pytest.FixtureRequest, bed: Bed, wires: Wires, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The pods of a link with an MTU of JUMBO bytes, and their interfaces."""
    bed.add("pod-a", "pod-b")
    with Panels(bed, str(tmp_path)) as panels:
        yield request.param(bed, wires, panels)


def is_running(bed: Bed, pod: str, ifname: str) -> bool:
    """Whether the kernel has taken notice of the carrier. A VXLAN has carrier from the start, in the state UNKNOWN."""
    return bed.show(pod, ifname)["operstate"] in ("UP", "UNKNOWN")


@pytest.mark.parametrize(("source", "target"), [("pod-a", "pod-b"), ("pod-b", "pod-a")])
def test_every_frame_arrives_unchanged(bed: Bed, ends: dict[str, str], source: str, target: str) -> None:
    for pod, ifname in ends.items():  # until then, the kernel drops what is sent
        wait_for(f"{ifname} of {pod}", partial(is_running, bed, pod, ifname))
    with opened(bed, source, ends[source]) as sender, opened(bed, target, ends[target]) as receiver:
        arrived = {}
        for name, frame in FRAMES.items():
            sender.send(frame)
            arrived[name] = received(receiver)
    assert arrived == FRAMES
