"""Patch panels of the nodes of a `Bed`, with cables to its pods."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_interface
from typing import Literal, Self

from ratchet.core.interface import InterfaceSpec, VxlanWire
from ratchet.core.kinds import Wiring
from ratchet.core.panel import PanelSlot, attachment_groups
from ratchet.datapath import find_parent
from ratchet.datapath.panel.cables import ensure_cable, open_cable
from ratchet.datapath.panel.carrier import set_carrier
from ratchet.datapath.panel.devices import PanelDevice, device_at
from ratchet.datapath.panel.namespace import Panel, ensure_panel
from ratchet.datapath.panel.patches import set_patch
from ratchet.datapath.panel.tunnels import ensure_panel_tunnel
from ratchet.datapath.rtnetlink import Channel
from tests.support.namespaces import Bed
from tests.support.wires import Wires

EndKey = Literal["a", "b"]

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

    def spec(
        self, pod: str, end: EndKey, *, panel: str = "panel", ifname: str = "eth1", mtu: int = 1400
    ) -> InterfaceSpec:
        """The interface of a link's end: the pod is its attachment, the ends have the addresses of `Wires`."""
        addresses = tuple(ip_interface(one) for one in Wires.ADDRESSES["ab".index(end)])
        slot = PanelSlot(self.bed.path(panel), group_of(pod))
        return InterfaceSpec(self.bed.path(pod), ifname, addresses, mtu, mac=MACS[end], index=INDEXES[end], slot=slot)

    def cable(self, panel: Panel, pod: str, end: EndKey, *, link: str = "a-b", mtu: int = 1400) -> PanelDevice:
        slot = PanelSlot(panel.netns.path, group_of(pod))
        return self.make_cable(panel, replace(self.spec(pod, end, mtu=mtu), slot=slot), link=link)

    def make_cable(self, panel: Panel, spec: InterfaceSpec, *, link: str = "a-b") -> PanelDevice:
        with Channel(panel.netns) as channel, open_cable(link, spec, panel, channel) as cable:
            end = ensure_cable(cable).end
            assert end is not None
            return end

    def wire(
        self, pod: str, end: EndKey, local: str, remote: str, *, panel: str = "panel", vni: int = 11, mtu: int = 1400
    ) -> VxlanWire:
        """The tunnel of a link's end. Call it inside the node."""
        near = self.spec(pod, end, panel=panel, mtu=mtu)
        parent = replace(find_parent(None, local), index=0)
        return VxlanWire("a-b", near, vni, remote, local, 4789, 4789, parent, wiring=Wiring.PANEL)

    def tunnel(self, panel: Panel, wire: VxlanWire) -> bool:
        """Make a tunnel. Returns whether anything changed. Call it inside the node."""
        with Channel(panel.netns) as channel, open_cable(wire.link, wire.near, panel, channel) as cable:
            return ensure_panel_tunnel(cable, wire).changed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()


def group_of(pod: str) -> int:
    """The group of a pod's attachment."""
    return next(attachment_groups(pod))


def tunnel_of(wire: VxlanWire) -> str:
    """The name of a wire's tunnel in the panel."""
    assert wire.near.slot is not None
    return wire.near.slot.tunnel(wire.near.index)


def connect(panel: Panel, cable: PanelDevice, target: int) -> None:
    """Patch a cable to a device of the panel in both directions, and give its pod carrier."""
    with Channel(panel.netns) as channel:
        set_patch(channel, cable.index, target)
        other = device_at(channel, target)
        set_patch(channel, target, cable.index, takes_oam=other is not None and not other.is_cable)
        set_carrier(channel, cable, True)
