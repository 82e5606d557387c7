"""Patch panels of the nodes of a `Bed`, with cables to its pods."""

from __future__ import annotations

from contextlib import ExitStack
from ipaddress import ip_interface
from typing import Self

from ratchet.core.interface import InterfaceSpec, VxlanWire
from ratchet.core.panel import EndKey, attachment_group, cable_name, tunnel_name
from ratchet.datapath import find_parent
from ratchet.datapath.panel.cables import CableSpec, ensure_cable
from ratchet.datapath.panel.carrier import set_carrier
from ratchet.datapath.panel.devices import PanelDevice
from ratchet.datapath.panel.namespace import Panel, ensure_panel
from ratchet.datapath.panel.patches import set_patch
from ratchet.datapath.panel.tunnels import ensure_panel_tunnel, in_panel
from ratchet.datapath.rtnetlink import Channel
from tests.support.namespaces import Bed
from tests.support.wires import Wires

INDEXES = {"a": 1_000_000, "b": 1_000_001}
MACS = {"a": "02:00:00:00:00:0a", "b": "02:00:00:00:00:0b"}


class Panels:
    """Panels with names of the bed's own. A context manager that closes what it has opened."""

    def __init__(self, bed: Bed, lock: str) -> None:
        self.bed = bed
        self.lock = lock
        self._opened = ExitStack()

    def make(self, name: str = "panel", held: Panel | None = None) -> Panel:
        self.bed.adopt(name)
        return self._opened.enter_context(ensure_panel(self.lock, self.bed.path(name), held))

    def spec(self, pod: str, end: EndKey, *, link: str = "a-b", ifname: str = "eth1", mtu: int = 1400) -> CableSpec:
        """The cable of a link's end: the pod is its attachment, the ends have the addresses of `Wires`."""
        addresses = tuple(ip_interface(one) for one in Wires.ADDRESSES["ab".index(end)])
        port = InterfaceSpec(self.bed.path(pod), ifname, addresses, mtu, mac=MACS[end], index=INDEXES[end])
        return CableSpec(link, port, cable_name(link, end), attachment_group(pod, ()))

    def cable(self, panel: Panel, pod: str, end: EndKey, *, link: str = "a-b", mtu: int = 1400) -> PanelDevice:
        return ensure_cable(self.spec(pod, end, link=link, mtu=mtu), panel)

    def tunnel(self, panel: Panel, pod: str, end: EndKey, local: str, remote: str, vni: int = 11) -> VxlanWire:
        """The tunnel of a link's end, made. Call it inside the node."""
        unused = InterfaceSpec("", "", (), 0)
        wire = VxlanWire("a-b", unused, vni, remote, local, 4789, 4789, find_parent(None, local))
        wire = in_panel(wire, panel, tunnel_name("a-b", end), attachment_group(pod, ()))
        ensure_panel_tunnel(wire, panel)
        return wire

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()


def connect(panel: Panel, cable: PanelDevice, target: int) -> None:
    """Patch a cable to a device of the panel in both directions, and give its pod carrier."""
    with Channel(panel.netns) as channel:
        set_patch(channel, cable.index, target)
        set_patch(channel, target, cable.index)
        set_carrier(channel, cable, True)
