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
from ratchet.datapath import messages
from ratchet.datapath.panel.cables import (
    ObservedCable,
    OpenCable,
    adjust_cable,
    ensure_cable,
    is_idle,
    make_cable,
    observe_cable,
    open_cable,
)
from ratchet.datapath.panel.carrier import lower_partner, set_carrier, settle_carriers, settle_tunnel_carrier
from ratchet.datapath.panel.devices import PanelDevice, device_at, device_named, devices_at
from ratchet.datapath.panel.former import is_patched, keep_former, note_as_former, sends_into_former
from ratchet.datapath.panel.made import made_patch, made_with_tunnel, with_carrier, with_tunnel
from ratchet.datapath.panel.namespace import open_panel, panel_channel
from ratchet.datapath.panel.patches import (
    Patch,
    leads_as_set,
    remove_patch,
    set_direction,
    set_patch,
)
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

    An existing cable is connected too if it has no carrier and no patch: it has waited for its peer. What it has
    created is not read back, except the interface in the pod. Leaves other devices alone. Raises as `datapath.make`
    does.
    """
    with _opened(wire) as link:
        is_new = make_cable(link.near)
        near = observe_cable(link.near)
        is_free = not isinstance(wire, CableWire) and (is_new or is_idle(link.near, near))
        made = _connect_new(link, near) if is_free else None
        return made or _observed(link, near)


def build(wire: PanelWire, observed: Observed | None = None, *, evict: bool = True) -> Observed:
    """Make the devices of a link match `wire`, and observe them. Raises as `datapath.build` does.

    What it has ensured in the panel is not read back.
    """
    with _opened(wire) as link:
        near = ensure_cable(link.near, exists=observed is not None and observed.near is not None)
        if near.end is None:
            raise AssertionError(f"{link.near.ifname} was ensured and has no end in the panel")
        match wire:
            case CableWire():
                _disconnect(link, wire, near.end)
                return _observed(link)
            case PatchWire():
                return _patch_together(link, near, near.end) or _observed(link)
            case VxlanWire():
                return _patch_to_tunnel(link, wire, near, near.end, evict=evict)


def remove(location: Location) -> bool:
    """Delete an end's cable and tunnel, and take the carrier of the cable to which it is patched.

    Returns False if there is no such cable. Raises DatapathError.
    """
    slot, index = location.slot, location.index
    if slot is None or not index:
        return False
    try:
        with open_panel(slot.path) as panel, panel_channel(panel) as channel:
            for name in (slot.tunnel(index), slot.former(index)):
                take_down_tunnel(panel, channel, name)
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
        channel = stack.enter_context(panel_channel(panel))

        def opened(spec: InterfaceSpec) -> OpenCable:
            return stack.enter_context(open_cable(wire.link, spec, panel, channel))

        near, far = opened(wire.near), None
        if isinstance(wire, PatchWire):
            with suppress(NamespaceGoneError):
                far = opened(wire.far)
        yield _OpenLink(wire, channel, near, far)


def _observed(link: _OpenLink, near: ObservedCable | None = None) -> Observed:
    near = near or observe_cable(link.near)
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
    wired = is_usable and is_patched(link.near, wire, cable.end, tunnel.index)
    at = link.near.panel.cookie, tunnel.index, wire.link
    if wired:
        note_observed(*at, wire.carrier)
    device = with_tunnel(cable.device, tunnel, tunnel_state(*at), wired=wired)
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
        target = other.end.index if other.end is not None else 0
        wired = wired and target != 0 and leads_as_set(cable.channel, seen.end.index, target, sends=cable.sends)
    return replace(seen.device, wired=wired, vni=None if tunnel is None else tunnel.vni)


def _connect_new(link: _OpenLink, near: ObservedCable) -> Observed | None:
    """Connect a cable that has no patch, and observe the link. None if something is in the way."""
    if near.end is None:
        return None
    if isinstance(link.wire, PatchWire):
        return _patch_together(link, near, near.end, Patch())
    if not isinstance(link.wire, VxlanWire) or not make_panel_tunnel(link.near, link.wire):
        return None
    return _connect_tunnel(link, link.wire, near, near.end, panel_tunnel(link.near), Patch())


def _disconnect(link: _OpenLink, wire: CableWire, end: PanelDevice) -> None:
    """Take the carrier of a cable, and end its patch to another cable, whose pod's end decides no more."""
    _note_complete(link, False)
    set_carrier(link.channel, end, False)
    if not wire.keeps_tunnel:
        remove_panel_tunnel(link.near)
    if panel_tunnel(link.near) is None:
        remove_patch(link.channel, end.index)


def _patch_together(
    link: _OpenLink, near: ObservedCable, end: PanelDevice, patch: Patch | None = None
) -> Observed | None:
    """Patch this end's cable and the other end's to each other and observe them. None if the other end has no cable.

    `patch`: that of this end's, if it is known.
    """
    far = link.far
    seen = observe_cable(far) if far is not None else ObservedCable()
    if far is None or seen.end is None:
        return None
    adjusted = adjust_cable(far, seen)
    if (other := adjusted.end) is None:
        return None
    try:
        set_direction(link.channel, end.index, other.index, sends=link.near.sends, patch=patch)
        set_direction(link.channel, other.index, end.index, sends=far.sends)
    except DatapathError:
        if device_at(link.channel, other.index) is None:
            return None  # the other pod's DEL does not hold this link's lock
        raise
    for cable in tunnelled((link.near, far)):
        remove_panel_tunnel(cable)
    settle_carriers(link.channel, end, other)
    ends = devices_at(link.channel, end.index, other.index)
    return Observed(*(made_patch(with_carrier(seen, now)) for seen, now in zip((near, adjusted), ends, strict=True)))


def _patch_to_tunnel(
    link: _OpenLink, wire: VxlanWire, near: ObservedCable, end: PanelDevice, *, evict: bool
) -> Observed:
    """Make the tunnel and patch this end's cable to it.

    If that fails, the cable has no carrier, unless it sends into the former tunnel.
    """
    if not wire.carrier:
        _note_complete(link, False)
        set_carrier(link.channel, end, False)
    try:
        former = keep_former(link.near, wire, end)
        tunnel, _ = ensure_panel_tunnel(link.near, wire, evict=evict)
        if former is not None and tunnel is not None:
            note_as_former(link.near, tunnel, former)
        return _connect_tunnel(link, wire, near, end, tunnel)
    except DatapathError:
        with suppress(DatapathError):
            if not sends_into_former(link.near, end):
                _note_complete(link, False)
                set_carrier(link.channel, end, False)
        raise


def _connect_tunnel(
    link: _OpenLink,
    wire: VxlanWire,
    near: ObservedCable,
    end: PanelDevice,
    tunnel: Device | None,
    patch: Patch | None = None,
) -> Observed:
    """Patch a cable and its tunnel to each other and observe them. `patch`: that of both, if it is known."""
    if tunnel is None:
        raise DatapathError(f"cannot patch {wire.near.ifname} of {wire.link}: its tunnel went away while being made")
    set_patch(link.channel, tunnel.index, end.index, takes_oam=True, patch=patch)
    if wire.switches or not sends_into_former(link.near, end):
        set_direction(link.channel, end.index, tunnel.index, sends=link.near.sends, patch=patch)
    note_complete(link.near.panel.cookie, tunnel.index, wire.link, wire.carrier)
    settle_tunnel_carrier(link.channel, link.near.panel.cookie, end, tunnel.index, wire.link)
    if wire.carrier and wire.is_of_one_node:
        raise_other_end(link.channel, wire, end)
    seen = with_carrier(near, device_at(link.channel, end.index))
    return Observed(made_with_tunnel(link.near, seen, tunnel))


def _note_complete(link: _OpenLink, complete: bool) -> None:
    """Note it at the tunnel that this end has, if any."""
    tunnel = panel_tunnel(link.near)
    if tunnel is not None:
        note_complete(link.near.panel.cookie, tunnel.index, link.wire.link, complete)
