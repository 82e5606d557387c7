"""Cables without carrier that an agent finds when it starts: their far pods may have set their ends down.

Without a note of it, the first pass or frame of the new process would take the far pods for unknown and raise the ends.
"""

from __future__ import annotations

from collections.abc import Iterable

from ratchet.datapath.messages import IFALIAS_BYTES
from ratchet.datapath.panel.devices import PanelDevice, device_at, device_named, devices_of
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.panel.patches import observe_patch
from ratchet.datapath.panel.tunnel_state import link_at, note_far_pod
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.errors import DatapathError


def note_lowered(panel: Panel) -> set[str]:
    """Note at tunnels that their far pods are shut, where the cable's end in the panel is down. Returns their names.

    Call it before the first pass, if OAM frames will tell what the far pods do (`far_pods`). Raises DatapathError.
    """
    try:
        with Channel(panel.netns) as channel:
            found = [(one, _tunnel_of(channel, one)) for one in devices_of(channel) if one.is_cable and not one.up]
    except RefusedError as refusal:
        raise _failed(panel, refusal) from refusal
    for cable, tunnel in found:
        if tunnel is not None:
            note_far_pod(panel.cookie, tunnel.index, _link_of(cable), False)
    return {tunnel.ifname for _, tunnel in found if tunnel is not None}


def forget_lowered(panel: Panel, tunnels: Iterable[str]) -> None:
    """Take the far pods of these tunnels for unknown: no frames tell what they do. Raises DatapathError."""
    try:
        with Channel(panel.netns) as channel:
            for tunnel in tunnels:
                if (found := device_named(channel, tunnel)) is not None:
                    note_far_pod(panel.cookie, found.index, link_at(panel.cookie, found.index), None)
    except RefusedError as refusal:
        raise _failed(panel, refusal) from refusal


def _tunnel_of(channel: Channel, cable: PanelDevice) -> PanelDevice | None:
    """The tunnel to which a cable is patched. None if there is none, or if the name of its link was cut."""
    target = observe_patch(channel, cable.index).target
    tunnel = device_at(channel, target) if target else None
    is_whole = 0 < len(cable.alias.encode()) < IFALIAS_BYTES
    return tunnel if tunnel is not None and tunnel.ours and not tunnel.is_cable and is_whole else None


def _link_of(cable: PanelDevice) -> str:
    return cable.alias.partition("/")[2]


def _failed(panel: Panel, refusal: RefusedError) -> DatapathError:
    return DatapathError(f"cannot read patch panel {panel.netns.path}: {refusal.strerror}")
