"""Remove tunnels of the panel that have lost their cable."""

from __future__ import annotations

from ratchet.core.panel import leftover_tunnels
from ratchet.datapath.panel.devices import devices_of
from ratchet.datapath.panel.namespace import open_panel
from ratchet.datapath.panel.tunnels import take_down_tunnel
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.errors import DatapathError, NamespaceGoneError


def sweep(path: str) -> list[str]:
    """Remove the leftovers in the panel at `path` (`core.panel.leftover_tunnels`), and return their names.

    A dump is not atomic, so a tunnel counts only if a second one has it as a leftover too. Raises DatapathError.
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
    return leftover_tunnels({device.ifname for device in devices_of(channel) if device.ours})
