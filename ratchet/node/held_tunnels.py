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


def held_owners(journal: Journal) -> set[str]:
    """The owners (`owner_of`) of the journal's ends. An end may have no interface for a while."""
    return {owner_of(entry.cookie, end.index) for entry, end in held_ends(journal)}


def held_tunnels(journal: Journal, guards: Guards) -> list[GuardedTunnel]:
    """The tunnels of the journal's ends that are to be guarded, as their devices are now."""
    ends = ((entry, end) for entry, end in held_ends(journal) if guards(entry.underlay))
    return [tunnel for entry, end in ends if (tunnel := _tunnel_of(_observe(entry, end), end)) is not None]


def held_devices(journal: Journal) -> Iterator[Device]:
    """The devices of the journal's ends, except those that do not exist or cannot be observed."""
    return (found[0] for entry, end in held_ends(journal) if (found := _observe(entry, end)) is not None)


def _observe(entry: SandboxEntry, end: HeldEnd) -> tuple[Device, str] | None:
    """The device of an end with its owner: the interface in the pod, or its tunnel in the patch panel.

    None if it does not exist, is not Ratchet's, or cannot be observed.
    """
    location = entry.location(end)
    try:
        if location.slot is not None and (found := datapath.observe_panel_tunnel(location)) is not None:
            return found
        device = datapath.observe_port(location, end.ifname)
    except RatchetError as error:
        log.debug('end not observed link=%s cause="%s"', end.link, error)
        return None
    return (device, owner_of(entry.cookie, device.index)) if device is not None and device.ours else None


def _tunnel_of(found: tuple[Device, str] | None, end: HeldEnd) -> GuardedTunnel | None:
    if found is None:
        return None
    device, owner = found
    if device.port is None or device.vni is None or device.remote is None:
        return None
    return GuardedTunnel(device.port, device.vni, device.remote, owner, end.link)
