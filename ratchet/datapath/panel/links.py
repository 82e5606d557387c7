"""Links in panel wiring: observe, create, change and remove what the panel and the pods have of a link.

As `datapath.links`, for wires whose interface in the pod is a cable. A call makes this end's cable only. Of a patch, it
corrects the other end's cable in place and patches both directions, because without an agent no other process does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from errno import ENODEV

from ratchet.core.interface import CableWire, Device, InterfaceSpec, Observed, PanelWire, PatchWire, VxlanWire
from ratchet.core.sandbox import Location
from ratchet.core.tunnel_guard import owner_of
from ratchet.datapath import messages
from ratchet.datapath.panel.cables import (
    ObservedCable,
    OpenCable,
    adjust_cable,
    ensure_cable,
    make_cable,
    observe_cable,
    open_cable,
)
from ratchet.datapath.panel.carrier import lower_partner, set_carrier, settle_carriers, settle_tunnel_carrier
from ratchet.datapath.panel.devices import PanelDevice, device_at, device_named
from ratchet.datapath.panel.made import made_patch, made_with_tunnel, with_carrier, with_tunnel
from ratchet.datapath.panel.namespace import open_panel
from ratchet.datapath.panel.patches import observe_patch, remove_patch, set_direction, set_patch
from ratchet.datapath.panel.tunnel_state import note_complete, note_observed, tunnel_state
from ratchet.datapath.panel.tunnels import (
    ensure_panel_tunnel,
    in_panel,
    make_panel_tunnel,
    observe_panel_tunnel,
    panel_tunnel,
    raise_other_end,
    remove_panel_tunnel,
    take_down_tunnel,
    tunnelled,
)
from ratchet.datapath.parse import links_of
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.errors import DatapathError, NamespaceGoneError


@dataclass(frozen=True, slots=True)
class _OpenLink:
    """The open ends of a link. `far` is that of a patch, None if its pod is gone. `channel` is in the panel."""

    wire: PanelWire
    channel: Channel
    near: OpenCable
    far: OpenCable | None


def observe(wire: PanelWire) -> Observed:
    """Observe the cables of a link and what they are patched to. Raises as `datapath.observe` does."""
    with _opened(wire) as link:
        return _observed(link)


def make(wire: PanelWire) -> Observed:
    """Create this end's cable and connect it, if nothing is in the way, and observe the link.

    What it has created is not read back, except the interface in the pod. Leaves existing devices alone. Raises as
    `datapath.make` does.
    """
    with _opened(wire) as link:
        end = make_cable(link.near)
        made = _connect_new(link, end) if end is not None else None
        return made or _observed(link)


def build(wire: PanelWire, observed: Observed | None = None, *, evict: bool = True) -> Observed:
    """Make the devices of a link match `wire`, and observe them. Raises as `datapath.build` does.

    What it has ensured in the panel is not read back.
    """
    with _opened(wire) as link:
        end = ensure_cable(link.near, exists=observed is not None and observed.near is not None)
        match wire:
            case CableWire():
                _disconnect(link, wire, end)
                return _observed(link)
            case PatchWire():
                return _patch_together(link, end) or _observed(link)
            case VxlanWire():
                _patch_to_tunnel(link, wire, end, evict=evict)
                return Observed(made_with_tunnel(link.near, observe_cable(link.near)))


def tunnels_of(path: str) -> dict[str, tuple[Device, str]]:
    """As `datapath.panel_tunnels`."""
    try:
        with open_panel(path) as panel, Channel(panel.netns) as channel:
            devices = [link.device for link in links_of(channel, "vxlan")]
    except NamespaceGoneError:
        return {}
    except RefusedError as refusal:
        raise DatapathError(f"cannot read patch panel {path}: {refusal.strerror}") from refusal
    return {one.ifname: (one, owner_of(panel.cookie, one.index)) for one in devices if one.ours}


def remove(location: Location) -> bool:
    """Delete an end's cable and tunnel, and take the carrier of the cable to which it is patched.

    Returns False if there is no such cable. Raises DatapathError.
    """
    slot, index = location.slot, location.index
    if slot is None or not index:
        return False
    try:
        with open_panel(slot.path) as panel, Channel(panel.netns) as channel:
            take_down_tunnel(panel, channel, slot.tunnel(index))
            cable = device_named(channel, slot.cable(index))
            if cable is None or not cable.is_cable:
                return False
            lower_partner(channel, cable)
            (answer,) = channel.exchange(messages.drop_link(cable.index))
            if answer.refusal is not None and (refusal := answer.refusal).errno != ENODEV:
                raise refusal
            return True
    except NamespaceGoneError:
        return False
    except RefusedError as refusal:
        raise DatapathError(f"cannot remove {slot.cable(index)} in {slot.path}: {refusal.strerror}") from refusal


@contextmanager
def _opened(wire: PanelWire) -> Iterator[_OpenLink]:
    """Open the panel and the pods of a link. Only a missing near pod raises NamespaceGoneError."""
    with ExitStack() as stack:
        slot = wire.near.slot
        if slot is None:
            raise DatapathError(
                f"cannot wire {wire.near.ifname} of {wire.link}: its pod has no place in the patch panel",
                details="Restart the pod.",
            )
        try:
            panel = stack.enter_context(open_panel(slot.path))
        except NamespaceGoneError as error:
            raise DatapathError(
                f"cannot wire {wire.near.ifname} of {wire.link}: the node has no patch panel: {error}",
                details="The next ADD, DEL or STATUS on this node makes it.",
            ) from error
        channel = stack.enter_context(Channel(panel.netns))

        def opened(spec: InterfaceSpec) -> OpenCable:
            return stack.enter_context(open_cable(wire.link, spec, panel, channel))

        near, far = opened(wire.near), None
        if isinstance(wire, PatchWire):
            with suppress(NamespaceGoneError):
                far = opened(wire.far)
        yield _OpenLink(wire, channel, near, far)


def _observed(link: _OpenLink) -> Observed:
    near = observe_cable(link.near)
    if isinstance(link.wire, VxlanWire):
        return Observed(_tunnelled(link, link.wire, near))
    if isinstance(link.wire, CableWire):
        return Observed(_patched(link.near, near))
    far = observe_cable(link.far) if link.far is not None else ObservedCable()
    if link.far is None or far.end is None:  # its own pass makes the cable
        return Observed(_patched(link.near, near, far))
    return Observed(_patched(link.near, near, far), _patched(link.far, far, near))


def _tunnelled(link: _OpenLink, wire: VxlanWire, cable: ObservedCable) -> Device | None:
    """The device of a cable with the parameters of its tunnel. `wired`: both are patched to each other."""
    if cable.device is None or cable.end is None:
        return cable.device
    tunnel = observe_panel_tunnel(link.near, wire)
    if tunnel is None or tunnel.kind != "vxlan" or not tunnel.ours:
        return replace(cable.device, wired=False)
    spec = in_panel(wire, link.near.slot).near
    is_usable = cable.in_order and tunnel.up and tunnel.mtu == spec.mtu
    wired = is_usable and _sends(link.near, cable.end.index, tunnel.index)
    wired = wired and observe_patch(link.channel, tunnel.index).leads(cable.end.index, takes_oam=True)
    at = link.near.panel.cookie, tunnel.index, wire.link
    if wired:
        note_observed(*at, wire.carrier)
    device = with_tunnel(cable.device, tunnel, tunnel_state(*at).far_up, wired=wired)
    return replace(device, entries=tunnel.entries, guarded=tunnel.guarded)


def _patched(cable: OpenCable, seen: ObservedCable, other: ObservedCable | None = None) -> Device | None:
    """The device of a cable. `wired`: its panel end is in order and, with `other`, sends to that cable's.

    `vni` is that of the cable's tunnel, to which it is not patched any more.
    """
    if seen.device is None or seen.end is None:
        return seen.device
    tunnel = panel_tunnel(cable)
    wired = seen.in_order
    if other is not None:
        wired = wired and other.end is not None and _sends(cable, seen.end.index, other.end.index)
    return replace(seen.device, wired=wired, vni=None if tunnel is None else tunnel.vni)


def _sends(cable: OpenCable, index: int, target: int) -> bool:
    """Whether a cable sends to a device, or drops what its pod sends, as its specification says."""
    patch = observe_patch(cable.channel, index)
    return patch.leads(target, takes_oam=False) if cable.sends else patch.target is None


def _connect_new(link: _OpenLink, end: PanelDevice) -> Observed | None:
    """Connect a cable that this call has made, and observe the link. None if something is in the way."""
    if isinstance(link.wire, PatchWire):
        return _patch_together(link, end)
    if not isinstance(link.wire, VxlanWire) or not make_panel_tunnel(link.near, link.wire):
        return None
    _connect_tunnel(link, link.wire, end)
    return Observed(made_with_tunnel(link.near, observe_cable(link.near)))


def _disconnect(link: _OpenLink, wire: CableWire, end: PanelDevice) -> None:
    """Take the carrier of a cable, and end its patch to another cable, whose pod's end decides no more."""
    _note_complete(link, False)
    set_carrier(link.channel, end, False)
    if not wire.keeps_tunnel:
        remove_panel_tunnel(link.near)
    if panel_tunnel(link.near) is None:
        remove_patch(link.channel, end.index)


def _patch_together(link: _OpenLink, end: PanelDevice) -> Observed | None:
    """Patch this end's cable and the other end's to each other and observe them. None if the other end has no cable."""
    far = link.far
    seen = observe_cable(far) if far is not None else ObservedCable()
    if far is None or seen.end is None:
        return None
    adjusted = adjust_cable(far, seen)
    if (other := adjusted.end) is None:
        return None
    try:
        set_direction(link.channel, end.index, other.index, sends=link.near.sends)
        set_direction(link.channel, other.index, end.index, sends=far.sends)
    except DatapathError:
        if device_at(link.channel, other.index) is None:
            return None  # the other pod's DEL does not hold this link's lock
        raise
    for cable in tunnelled((link.near, far)):
        remove_panel_tunnel(cable)
    settle_carriers(link.channel, end, other)
    now = device_at(link.channel, other.index)
    return Observed(made_patch(observe_cable(link.near)), made_patch(with_carrier(adjusted, now)))


def _patch_to_tunnel(link: _OpenLink, wire: VxlanWire, end: PanelDevice, *, evict: bool) -> None:
    """Make the tunnel and patch this end's cable to it. The cable has no carrier if that fails."""
    if not wire.carrier:
        _note_complete(link, False)
        set_carrier(link.channel, end, False)
    try:
        ensure_panel_tunnel(link.near, wire, evict=evict)
        _connect_tunnel(link, wire, end)
    except DatapathError:
        with suppress(DatapathError):
            _note_complete(link, False)
            set_carrier(link.channel, end, False)
        raise


def _connect_tunnel(link: _OpenLink, wire: VxlanWire, end: PanelDevice) -> None:
    tunnel = panel_tunnel(link.near)
    if tunnel is None:
        raise DatapathError(f"cannot patch {wire.near.ifname} of {wire.link}: its tunnel went away while being made")
    set_direction(link.channel, end.index, tunnel.index, sends=link.near.sends)
    set_patch(link.channel, tunnel.index, end.index, takes_oam=True)
    note_complete(link.near.panel.cookie, tunnel.index, wire.link, wire.carrier)
    settle_tunnel_carrier(link.channel, link.near.panel.cookie, end, tunnel.index, wire.link)
    if wire.carrier and wire.is_of_one_node:
        raise_other_end(link.channel, wire, end)


def _note_complete(link: _OpenLink, complete: bool) -> None:
    """Note it at the tunnel that this end has, if any."""
    tunnel = panel_tunnel(link.near)
    if tunnel is not None:
        note_complete(link.near.panel.cookie, tunnel.index, link.wire.link, complete)
