"""Former tunnels: what an edit of the UDP port replaces, make before break.

The tunnel in use gets another name, and the new one is made beside it. The cable takes from both. It sends into the
former one until the peer is ready, and so takes from the new one. Then the former one is no longer used here, but the
peer may still send into it: the sweep of the panel removes it (`leftovers`).

Before Linux 6.2 an interface that is up cannot be renamed, so the tunnel is down for a moment.
"""

from __future__ import annotations

from errno import EBUSY, ENODEV

from ratchet.core.interface import Device, VxlanWire
from ratchet.datapath import messages
from ratchet.datapath.panel.cables import OpenCable
from ratchet.datapath.panel.devices import PanelDevice, device_named, down
from ratchet.datapath.panel.patches import lead_to_each_other, observe_patch
from ratchet.datapath.panel.tunnel_state import note_far_pod, tunnel_state
from ratchet.datapath.panel.tunnels import panel_tunnel, take_down_tunnel, tunnel_named
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.errors import DatapathError


def keep_former(cable: OpenCable, wire: VxlanWire, end: PanelDevice) -> Device | None:
    """Keep the tunnel into which a cable sends under another name, if the wire's is to have another UDP port.

    `end` is the cable's end in the panel. Returns the former tunnel; None if nothing was kept. Raises DatapathError.
    """
    tunnel = panel_tunnel(cable)
    if tunnel is None or not tunnel.ours or tunnel.vni != wire.vni or tunnel.port == wire.port:
        return None
    in_use = observe_patch(cable.channel, end.index).target
    if in_use == tunnel.index:
        return tunnel if _replace(cable, _former_name(cable), tunnel) else None
    # The tunnel was made for an earlier edit and never used. If that edit is taken back, the former one returns.
    former = tunnel_named(cable.channel, _former_name(cable))
    if former is not None and (former.index, former.vni, former.port) == (in_use, wire.vni, wire.port):
        _replace(cable, tunnel.ifname, former)
    return None


def _replace(cable: OpenCable, name: str, tunnel: Device) -> bool:
    """Give a tunnel of a cable another name, and delete the unused one that has it. Returns False if it is gone."""
    take_down_tunnel(cable.panel, cable.channel, name, is_used=False)
    (answer,) = cable.channel.exchange(messages.named(tunnel.index, name))
    refusal = answer.refusal
    if refusal is not None and refusal.errno == EBUSY:
        refusal = rename_while_down(cable.channel, tunnel.index, name)
    if refusal is None or refusal.errno == ENODEV:
        return refusal is None
    raise DatapathError(f"cannot rename the tunnel of {cable.ifname}: {refusal.strerror}") from refusal


def rename_while_down(channel: Channel, index: int, name: str) -> RefusedError | None:
    """Set a device down, rename it and set it up, in one exchange. Returns the kernel's refusal of the name, if any."""
    _, renamed, _ = channel.exchange(down(index), messages.named(index, name), messages.up(index))
    return renamed.refusal


def note_as_former(cable: OpenCable, tunnel: Device, former: Device) -> None:
    """Note at a new tunnel what is known of the far pod at the former one."""
    cookie = cable.panel.cookie
    note_far_pod(cookie, tunnel.index, cable.link, tunnel_state(cookie, former.index, cable.link).far_up)


def sends_into_former(cable: OpenCable, end: PanelDevice) -> bool:
    """Whether a cable sends into its former tunnel. `end` is its end in the panel. Raises DatapathError."""
    former = device_named(cable.channel, _former_name(cable))
    return former is not None and observe_patch(cable.channel, end.index).target == former.index


def is_patched(cable: OpenCable, wire: VxlanWire, end: PanelDevice, tunnel: int) -> bool:
    """Whether a cable and its tunnel, an ifindex, are patched to each other.

    The cable may send into its former tunnel instead until the wire `switches`. Raises DatapathError.
    """
    if lead_to_each_other(cable.channel, end.index, tunnel, sends=cable.sends):
        return True
    takes = not wire.switches and observe_patch(cable.channel, tunnel).leads(end.index, takes_oam=True)
    return takes and sends_into_former(cable, end)


def _former_name(cable: OpenCable) -> str:
    return cable.slot.former(cable.pod.spec.index)
