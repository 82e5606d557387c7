"""Former tunnels: what an edit of the UDP port replaces, make before break.

The tunnel in use gets another name, and the new one is made beside it. The cable takes from both. It sends into the
former one until the peer is ready, and so takes from the new one. Then the former one is no longer used here, but the
peer may still send into it: the sweep of the panel removes it (`leftovers`).

Before Linux 6.2 an interface that is up cannot be renamed. Then the new tunnel replaces the former one at once.
"""

from __future__ import annotations

from errno import EBUSY, ENODEV

from ratchet.core.interface import Device, VxlanWire
from ratchet.datapath import messages
from ratchet.datapath.panel.cables import OpenCable
from ratchet.datapath.panel.devices import PanelDevice, device_named
from ratchet.datapath.panel.patches import lead_to_each_other, observe_patch
from ratchet.datapath.panel.tunnel_state import note_far_pod, tunnel_state
from ratchet.datapath.panel.tunnels import panel_tunnel, take_down_tunnel
from ratchet.errors import DatapathError


def keep_former(cable: OpenCable, wire: VxlanWire, end: PanelDevice) -> Device | None:
    """Keep the tunnel into which a cable sends under another name, if the wire's is to have another UDP port.

    `end` is the cable's end in the panel. Returns the former tunnel; None if nothing was kept. Raises DatapathError.
    """
    tunnel = panel_tunnel(cable)
    if tunnel is None or not tunnel.ours or tunnel.vni != wire.vni or tunnel.port == wire.port:
        return None
    if observe_patch(cable.channel, end.index).target != tunnel.index:
        return None  # it was made for an earlier edit, and the cable sends into the former one
    name = _name(cable)
    take_down_tunnel(cable.panel, cable.channel, name)
    (answer,) = cable.channel.exchange(messages.named(tunnel.index, name))
    if answer.refusal is None:
        return tunnel
    if answer.refusal.errno in (EBUSY, ENODEV):
        return None
    raise DatapathError(f"cannot rename the tunnel of {cable.ifname}: {answer.refusal.strerror}") from answer.refusal


def note_as_former(cable: OpenCable, tunnel: Device, former: Device) -> None:
    """Note at a new tunnel what is known of the far pod at the former one."""
    cookie = cable.panel.cookie
    note_far_pod(cookie, tunnel.index, cable.link, tunnel_state(cookie, former.index, cable.link).far_up)


def sends_into_former(cable: OpenCable, end: PanelDevice) -> bool:
    """Whether a cable sends into its former tunnel. `end` is its end in the panel. Raises DatapathError."""
    former = device_named(cable.channel, _name(cable))
    return former is not None and observe_patch(cable.channel, end.index).target == former.index


def is_patched(cable: OpenCable, wire: VxlanWire, end: PanelDevice, tunnel: int) -> bool:
    """Whether a cable and its tunnel, an ifindex, are patched to each other.

    The cable may send into its former tunnel instead until the wire `switches`. Raises DatapathError.
    """
    if lead_to_each_other(cable.channel, end.index, tunnel, sends=cable.sends):
        return True
    takes = not wire.switches and observe_patch(cable.channel, tunnel).leads(end.index, takes_oam=True)
    return takes and sends_into_former(cable, end)


def _name(cable: OpenCable) -> str:
    return cable.slot.former(cable.pod.spec.index)
