"""Tunnels and the cables to which they are patched, read in one exchange if they are as they were last time."""

from __future__ import annotations

from typing import NamedTuple

from ratchet.datapath import messages
from ratchet.datapath.panel.carrier import pod_end_is_up, pod_end_of, read_pod_end
from ratchet.datapath.panel.devices import PanelDevice, device_at, device_named, read_device
from ratchet.datapath.panel.patches import observe_patch, patch_at, read_patch
from ratchet.datapath.rtnetlink import Channel


class TunnelCable(NamedTuple):
    """A tunnel of the panel, and the cable to which it is patched. `pod_up`: `pod_end_is_up`, read after the cable."""

    tunnel: PanelDevice
    cable: PanelDevice
    pod_up: bool | None


def read_cable(channel: Channel, name: str, last: TunnelCable | None) -> TunnelCable | None:
    """The tunnel `name` and its cable; None if there is no such tunnel or it is not patched to a cable.

    `last` is what an earlier call returned. `channel` is in the panel. Raises DatapathError and RefusedError.
    """
    found = _read_again(channel, name, last) if last is not None else None
    return found or _read(channel, name)


def _read(channel: Channel, name: str) -> TunnelCable | None:
    tunnel = device_named(channel, name)
    target = observe_patch(channel, tunnel.index).target if tunnel is not None and tunnel.ours else None
    cable = device_at(channel, target) if target else None
    if tunnel is None or cable is None or not cable.is_cable:
        return None
    return TunnelCable(tunnel, cable, pod_end_is_up(channel, cable))


def _read_again(channel: Channel, name: str, last: TunnelCable) -> TunnelCable | None:
    """The tunnel and its cable if they are still those of `last`; None if anything is in doubt."""
    tunnel, cable, _ = last
    requests = messages.link_named(name), messages.link_at(cable.index), patch_at(tunnel.index), *pod_end_of(cable)
    named, found, patch, *pod = channel.exchange(*requests)
    if named.refusal is not None or found.refusal is not None or patch.interrupted:
        return None
    now = TunnelCable(read_device(named.messages[0]), read_device(found.messages[0]), read_pod_end(pod))
    if _identity(now) != _identity(last) or read_patch(tunnel.index, patch).target != cable.index:
        return None
    return now if now.tunnel.ours and now.cable.is_cable else None


def _identity(seen: TunnelCable) -> tuple[int, int, int | None, int | None]:
    return seen.tunnel.index, seen.cable.index, seen.cable.pod_index, seen.cable.pod_nsid
