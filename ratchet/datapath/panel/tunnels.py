"""Tunnels of the panel: VXLAN devices in it, with their underlay sockets in the node's (the caller's) namespace.

`datapath.vxlan` creates, observes and adjusts them as it does those in pods, with these differences: no tunnel is
pinned to an underlay interface, so the kernel does not limit its MTU; a tunnel belongs to the group of an attachment
and is deleted with it; its carrier is always on, because the panel's end of the cable gives the pod its carrier.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from errno import ENODEV
from typing import NamedTuple

from ratchet.core.interface import FRAGMENTED_MTU_MAX, Device, InterfaceSpec, VxlanWire, tunnel_mtu
from ratchet.core.kinds import Wiring
from ratchet.core.panel import PanelSlot, cable_of, is_former
from ratchet.core.tunnel_guard import owner_of
from ratchet.datapath import messages
from ratchet.datapath.panel.cables import OpenCable
from ratchet.datapath.panel.carrier import pod_end_is_up, set_carrier
from ratchet.datapath.panel.devices import PanelDevice, device_named
from ratchet.datapath.panel.namespace import Panel, open_panel, panel_channel
from ratchet.datapath.panel.patches import observe_patch
from ratchet.datapath.parse import links_of, read_link
from ratchet.datapath.pod_netns import OpenPod
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.datapath.vxlan import ensure_tunnel, make_tunnel, observe_tunnel
from ratchet.errors import DatapathError, NamespaceGoneError


class EnsuredTunnel(NamedTuple):
    """A tunnel after a call, None if it went away, and whether the call has changed anything."""

    device: Device | None
    changed: bool


def tunnels_of(path: str) -> dict[str, tuple[Device, str]]:
    """As `datapath.panel_tunnels`."""
    try:
        with open_panel(path) as panel, panel_channel(panel) as channel:
            devices = [link.device for link in links_of(channel, "vxlan")]
    except NamespaceGoneError:
        return {}
    except RefusedError as refusal:
        raise DatapathError(f"cannot read patch panel {path}: {refusal.strerror}") from refusal
    return {one.ifname: (one, owner_of(panel.cookie, one.index)) for one in devices if one.ours}


def in_panel(wire: VxlanWire, slot: PanelSlot) -> VxlanWire:
    """The tunnel of a wire in panel wiring, as it must be in the panel.

    Over IPv4 the kernel fragments the tunnel's packets, so its MTU is the largest. Over IPv6 larger packets than the
    underlay's are lost silently.
    """
    ipv6 = ":" in wire.local
    mtu = tunnel_mtu(wire.parent.mtu, wire.local) if ipv6 else FRAGMENTED_MTU_MAX
    end = InterfaceSpec(slot.path, slot.tunnel(wire.near.index), (), mtu, group=slot.group)
    return replace(wire, near=end, carrier=True, wiring=Wiring.DIRECT)


def tunnel_named(channel: Channel, ifname: str) -> Device | None:
    """A tunnel of the panel with its parameters; None if there is none. `channel` is in the panel.

    Raises DatapathError if the kernel does not tell.
    """
    (answer,) = channel.exchange(messages.link_named(ifname))
    if answer.refusal is None:
        return read_link(answer.messages[0]).device
    if answer.refusal.errno == ENODEV:
        return None
    raise DatapathError(
        f"cannot read tunnel {ifname} of the patch panel: {answer.refusal.strerror}"
    ) from answer.refusal


def panel_tunnel(cable: OpenCable) -> Device | None:
    """The tunnel of a cable, with its parameters only; None if there is none."""
    return tunnel_named(cable.channel, cable.slot.tunnel(cable.pod.spec.index))


def tunnelled(cables: Sequence[OpenCable]) -> list[OpenCable]:
    """Those of some cables that have a tunnel. All are in one panel."""
    named = [messages.link_named(cable.slot.tunnel(cable.pod.spec.index)) for cable in cables]
    answers = cables[0].channel.exchange(*named)
    return [cable for cable, answer in zip(cables, answers, strict=True) if answer.refusal is None]


def observe_panel_tunnel(cable: OpenCable, wire: VxlanWire) -> Device | None:
    """The tunnel of a cable with its forwarding entries and its guard; None if there is none."""
    return observe_tunnel(_opened(cable, in_panel(wire, cable.slot))).near


def make_panel_tunnel(cable: OpenCable, wire: VxlanWire) -> bool:
    """Create the tunnel of a cable. Returns False if its name or the VNI is taken."""
    tunnel = in_panel(wire, cable.slot)
    return make_tunnel(tunnel, _opened(cable, tunnel))


def ensure_panel_tunnel(cable: OpenCable, wire: VxlanWire, *, evict: bool = True) -> EnsuredTunnel:
    """Make the tunnel of a cable match a wire. Raises as `ensure_tunnel` does."""
    tunnel = in_panel(wire, cable.slot)
    opened = _opened(cable, tunnel)
    changed = ensure_tunnel(tunnel, opened, (), evict=evict)
    device = panel_tunnel(cable)
    if device is not None and not device.up:  # in a pod it would stay down, as the pod decides
        opened.do(messages.up(device.index))
        device, changed = panel_tunnel(cable), True
    return EnsuredTunnel(device, changed)


def remove_panel_tunnel(cable: OpenCable) -> bool:
    """Delete the tunnel of a cable. Returns False if there is none."""
    return take_down_tunnel(cable.panel, cable.channel, cable.slot.tunnel(cable.pod.spec.index))


def take_down_tunnel(panel: Panel, channel: Channel, ifname: str, *, is_used: bool = True) -> bool:
    """Delete a tunnel, and its place in the guard. `channel` is in the panel.

    If its other end is in the panel too, takes the carrier of that end's cable, unless it is a former tunnel, or the
    link does not use it yet. Returns False if it is not there or not Ratchet's. Raises DatapathError.
    """
    device = tunnel_named(channel, ifname)
    if device is None or not device.ours:
        return False
    if is_used and device.local == device.remote and not is_former(ifname):
        lower_other_end(channel, device, [link.device for link in links_of(channel, "vxlan")])
    spec = InterfaceSpec(panel.netns.path, ifname, (), device.mtu)
    return OpenPod(panel.netns, channel, spec).take_down(device)


def lower_other_end(channel: Channel, tunnel: Device, devices: Iterable[Device]) -> None:
    """Take the carrier of the cable at the other end of a tunnel between two pods of this node.

    `devices` are the panel's tunnels, `channel` is in the panel. Raises DatapathError.
    """
    for other in devices:
        if other.ours and other.index != tunnel.index and (other.vni, other.remote) == (tunnel.vni, tunnel.local):
            cable = device_named(channel, cable_of(other.ifname))
            if cable is not None and cable.is_cable:
                set_carrier(channel, cable, False)


def raise_other_end(channel: Channel, wire: VxlanWire, own: PanelDevice) -> None:
    """Give carrier to the cable at the other end of a tunnel between two pods of this node, as its pass would.

    Without an agent, only this end's ADD does. Does nothing unless that cable is patched to its tunnel, or if the pod
    of `own` has shut its end. `channel` is in the panel. Raises DatapathError.
    """
    key = (wire.vni, wire.remote_port, wire.local)
    for link in links_of(channel, "vxlan"):
        other = link.device
        if not other.ours or (other.vni, other.port, other.remote) != key:
            continue
        cable = device_named(channel, cable_of(other.ifname))
        if cable is None or not cable.is_cable or cable.up or pod_end_is_up(channel, own) is False:
            continue
        if observe_patch(channel, cable.index).target == other.index:
            set_carrier(channel, cable, True)


def _opened(cable: OpenCable, tunnel: VxlanWire) -> OpenPod:
    return OpenPod(cable.panel.netns, cable.channel, tunnel.near)
