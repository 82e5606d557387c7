"""Observations of cables, without reading back what a call has just made or ensured in the panel."""

from __future__ import annotations

from dataclasses import replace

from ratchet.core.interface import Device
from ratchet.datapath.panel.cables import ObservedCable, OpenCable
from ratchet.datapath.panel.devices import PanelDevice
from ratchet.datapath.panel.tunnel_state import TunnelState, tunnel_state


def made_patch(seen: ObservedCable) -> Device | None:
    """The device of a cable that is patched to another one. It has no tunnel."""
    return seen.device if seen.device is None else replace(seen.device, wired=seen.in_order)


def with_carrier(seen: ObservedCable, end: PanelDevice | None) -> ObservedCable:
    """A cable as observed, with the carrier that it has now. `end`: its panel end as read now, None if it is gone."""
    if seen.device is None or end is None:
        return ObservedCable()
    return replace(seen, device=replace(seen.device, carrier=end.up), end=end)


def made_with_tunnel(cable: OpenCable, seen: ObservedCable, tunnel: Device) -> Device | None:
    """The device of a cable that is patched to its tunnel. The guard and the forwarding entries are not read."""
    if seen.device is None or seen.end is None:
        return seen.device
    state = tunnel_state(cable.panel.cookie, tunnel.index, cable.link)
    return with_tunnel(seen.device, tunnel, state, wired=seen.in_order and tunnel.up)


def with_tunnel(cable: Device, tunnel: Device, state: TunnelState, *, wired: bool) -> Device:
    """The device of a cable with the parameters of its tunnel, except the guard and the forwarding entries."""
    return replace(
        cable,
        wired=wired,
        far_up=state.far_up,
        complete=state.complete,
        vni=tunnel.vni,
        remote=tunnel.remote,
        local=tunnel.local,
        port=tunnel.port,
        parent_index=tunnel.parent_index,
        options=tunnel.options,
    )
