"""The tunnels of the journal's ends, as their devices are: what the tunnel guard needs, and who uses the UDP port."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from ratchet import datapath
from ratchet.core.interface import Device
from ratchet.core.tunnel_guard import GuardedTunnel, owner_of
from ratchet.errors import RatchetError
from ratchet.node.journal import HeldEnd, Journal, SandboxEntry
from ratchet.node.underlay import UnderlayConfig

log = logging.getLogger(__name__)

Guards = Callable[[UnderlayConfig | None], bool]
"""Whether tunnels with the underlay settings of an entry are to be guarded."""


def is_guarded(underlay: UnderlayConfig | None) -> bool:
    """Whether a network configuration has its tunnels guarded, without the settings of an agent."""
    return underlay is None or underlay.guard is not False


def held_ends(journal: Journal) -> Iterator[tuple[SandboxEntry, HeldEnd]]:
    """The journal's ends, each with its entry."""
    return ((entry, end) for entry in journal.entries() for end in entry.ends)


def owned_ends(journal: Journal) -> Iterator[tuple[str, SandboxEntry, HeldEnd]]:
    """The journal's ends, each with the owner (`owner_of`) of its interface and with that of its tunnel in the panel.

    An end may have no interface for a while. A tunnel of a panel that cannot be read is missing.
    """
    panels = _Panels()
    for entry, end in held_ends(journal):
        yield owner_of(entry.cookie, end.index), entry, end
        if (found := panels.tunnel_of(entry, end)) is not None:
            yield found[1], entry, end


def held_owners(journal: Journal) -> set[str]:
    """The owners of the journal's ends."""
    return {owner for owner, _, _ in owned_ends(journal)}


def held_tunnels(journal: Journal, guards: Guards) -> list[GuardedTunnel]:
    """The tunnels of the journal's ends that are to be guarded, as their devices are now."""
    found = ((device, owner, end.link) for device, owner, entry, end in _devices(journal) if guards(entry.underlay))
    return [tunnel for device, owner, link in found if (tunnel := _tunnel_of(device, owner, link)) is not None]


def held_devices(journal: Journal) -> Iterator[Device]:
    """The devices of the journal's ends, except those that do not exist or cannot be observed."""
    return (device for device, _, _, _ in _devices(journal))


def _devices(journal: Journal) -> Iterator[tuple[Device, str, SandboxEntry, HeldEnd]]:
    """The device of each end with its owner: the tunnel in the panel if it has one, else the interface in the pod."""
    panels = _Panels()
    for entry, end in held_ends(journal):
        if (found := panels.tunnel_of(entry, end)) is not None:
            yield *found, entry, end
        elif (device := _observe(entry, end)) is not None:
            yield device, owner_of(entry.cookie, device.index), entry, end


class _Panels:
    """The tunnels of patch panels, each of which is read once."""

    def __init__(self) -> None:
        self._tunnels: dict[str, dict[str, tuple[Device, str]]] = {}

    def tunnel_of(self, entry: SandboxEntry, end: HeldEnd) -> tuple[Device, str] | None:
        """The tunnel of an end and its owner; None if it has none, or if the panel cannot be read."""
        if entry.slot is None:
            return None
        path = entry.slot.path
        if path not in self._tunnels:
            try:
                self._tunnels[path] = datapath.panel_tunnels(path)
            except RatchetError as error:
                log.warning('patch panel not read cause="%s"', error)
                self._tunnels[path] = {}
        return self._tunnels[path].get(entry.slot.tunnel(end.index))


def _observe(entry: SandboxEntry, end: HeldEnd) -> Device | None:
    """The interface of an end; None if it does not exist, is not Ratchet's, or cannot be observed."""
    try:
        device = datapath.observe_port(entry.location(end), end.ifname)
    except RatchetError as error:
        log.debug('end not observed link=%s cause="%s"', end.link, error)
        return None
    return device if device is not None and device.ours else None


def _tunnel_of(device: Device, owner: str, link: str) -> GuardedTunnel | None:
    if device.port is None or device.vni is None or device.remote is None:
        return None
    return GuardedTunnel(device.port, device.vni, device.remote, owner, link)
