"""Tunnels of the panel: VXLAN devices in it, with their underlay sockets in the node's (the caller's) namespace.

`datapath.vxlan` creates, observes and adjusts them as it does those in pods, with these differences: no tunnel is
pinned to an underlay interface, so the kernel does not limit its MTU; a tunnel belongs to the group of an attachment
and is deleted with it; its carrier is always on, because the panel's end of the cable gives the pod its carrier.
"""

from __future__ import annotations

from dataclasses import replace

from ratchet.core.interface import FRAGMENTED_MTU_MAX, InterfaceSpec, VxlanWire, tunnel_mtu
from ratchet.core.kinds import Wiring
from ratchet.core.sandbox import Location
from ratchet.datapath.links import ensure, remove
from ratchet.datapath.panel.devices import device_named
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.rtnetlink import Channel


def in_panel(wire: VxlanWire, panel: Panel, ifname: str, group: int) -> VxlanWire:
    """A tunnel as it must be in the panel, under this name and in the group of an attachment.

    Over IPv4 the kernel fragments the tunnel's packets, so its MTU is the largest. Over IPv6 larger packets than the
    underlay's are lost silently.
    """
    ipv6 = ":" in wire.local
    mtu = tunnel_mtu(wire.parent.mtu, wire.local) if ipv6 else FRAGMENTED_MTU_MAX
    end = InterfaceSpec(panel.netns.path, ifname, (), mtu, cookie=panel.cookie, group=group)
    return replace(wire, near=end, parent=replace(wire.parent, index=0), carrier=True, wiring=Wiring.DIRECT)


def ensure_panel_tunnel(wire: VxlanWire, panel: Panel) -> bool:
    """Make a tunnel match `wire`, which is of `in_panel`. Returns whether anything changed.

    A tunnel of its name in another group is left over from an earlier attachment: it is replaced, because it would be
    deleted with that attachment. Raises as `datapath.links.ensure` does.
    """
    with Channel(panel.netns) as channel:
        found = device_named(channel, wire.near.ifname)
    if found is not None and found.ours and found.group != wire.near.group:
        remove(Location(wire.near.netns, wire.near.cookie, found.index), wire.near.ifname)
    return ensure(wire)
