"""Remove tunnels of the panel that have lost their cable, and former ones into which no cable sends."""

from __future__ import annotations

from collections.abc import Mapping

from ratchet.core.panel import cable_of, is_former, leftover_tunnels
from ratchet.datapath.panel.devices import PanelDevice, devices_of
from ratchet.datapath.panel.namespace import open_panel
from ratchet.datapath.panel.patches import observe_patch
from ratchet.datapath.panel.tunnels import take_down_tunnel
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.errors import DatapathError, NamespaceGoneError


def sweep(path: str) -> list[str]:
    """Remove the leftovers in the panel at `path`, and return their names.

    These are `core.panel.leftover_tunnels`, and former tunnels that are not used any more (`panel.former`). A dump is
    not atomic, so a tunnel counts only if a second one has it as a leftover too. Raises DatapathError.
    """
    try:
        with open_panel(path) as panel, Channel(panel.netns) as channel:
            found = _leftovers(channel)
            if found:
                found &= _leftovers(channel)
            return [name for name in sorted(found) if take_down_tunnel(panel, channel, name)]
    except NamespaceGoneError:
        return []
    except RefusedError as refusal:
        raise DatapathError(f"cannot clean up patch panel {path}: {refusal.strerror}") from refusal


def _leftovers(channel: Channel) -> set[str]:
    devices = {device.ifname: device for device in devices_of(channel) if device.ours}
    unused = {name for name, former in devices.items() if is_former(name) and not _is_used(channel, devices, former)}
    return leftover_tunnels(devices) | unused


def _is_used(channel: Channel, devices: Mapping[str, PanelDevice], former: PanelDevice) -> bool:
    """Whether the cable of a former tunnel sends into it."""
    cable = devices.get(cable_of(former.ifname))
    return cable is not None and observe_patch(channel, cable.index).target == former.index
