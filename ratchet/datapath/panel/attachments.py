"""Remove all that an attachment has in the panel, by one request: each deletion of a device takes some 20 ms."""

from __future__ import annotations

from errno import ENODEV

from ratchet.core.panel import is_attachment_group
from ratchet.core.tunnel_guard import owner_of
from ratchet.datapath import tunnel_guard
from ratchet.datapath.message_classes import ifinfmsg
from ratchet.datapath.messages import ACT, RTM_DELLINK
from ratchet.datapath.nlattr import IFINFOMSG, Layout, message
from ratchet.datapath.panel.carrier import lower_partner
from ratchet.datapath.panel.devices import devices_in
from ratchet.datapath.panel.namespace import Panel, open_panel, panel_channel
from ratchet.datapath.panel.tunnels import lower_other_end
from ratchet.datapath.parse import links_of
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.errors import DatapathError, NamespaceGoneError

_LINK = Layout(ifinfmsg)


def remove_attachment(path: str, group: int) -> bool:
    """Delete the cables and tunnels of an attachment in the panel at `path`, and the pods' ends with the cables.

    Takes the carrier of the cables to which they are patched, and removes the tunnels from the guard. Returns False if
    there are none. Raises DatapathError.
    """
    try:
        with open_panel(path) as panel:
            return remove_group(panel, group)
    except NamespaceGoneError:
        return False


def remove_group(panel: Panel, group: int) -> bool:
    """As `remove_attachment`, in an open panel."""
    if not is_attachment_group(group):
        raise ValueError(f"{group:#x} is not the group of an attachment")
    try:
        with panel_channel(panel) as channel:
            devices = devices_in(channel, group)
            for cable in (one for one in devices if one.is_cable):
                lower_partner(channel, cable)
            return _delete(panel, channel, group, {one.ifname for one in devices if one.kind == "vxlan"})
    except RefusedError as refusal:
        raise DatapathError(
            f"cannot remove group {group:#x} of patch panel {panel.netns.path}: {refusal.strerror}"
        ) from refusal


def _delete(panel: Panel, channel: Channel, group: int, names: set[str]) -> bool:
    """Delete a group. `names` are those of its tunnels."""
    found = [link.device for link in links_of(channel, "vxlan")] if names else []
    tunnels = [one for one in found if one.ifname in names]
    for tunnel in tunnels:
        if tunnel.local == tunnel.remote:
            lower_other_end(channel, tunnel, found)
    request = message(RTM_DELLINK, ACT, IFINFOMSG.pack(0, 0, 0, 0, 0, 0), _LINK.pack(("IFLA_GROUP", group)))
    (answer,) = channel.exchange(request)
    if answer.refusal is not None and answer.refusal.errno != ENODEV:
        raise answer.refusal
    for tunnel in tunnels:
        if tunnel.port is not None and tunnel.vni is not None:
            tunnel_guard.withdraw(tunnel.port, tunnel.vni, owner_of(panel.cookie, tunnel.index))
    return answer.refusal is None
