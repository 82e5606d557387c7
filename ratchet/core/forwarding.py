"""Where a tunnel's end sends: its parameters, its forwarding entries, and the differences of the latter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ANY_MAC = "00:00:00:00:00:00"
"""The MAC address of the entries that a VXLAN uses for frames without an entry of their own (bridge(8))."""

ENTRIES_SHOWN = 3


class ForwardingEntry(NamedTuple):
    """Where a VXLAN sends frames for a MAC address (bridge(8), "fdb").

    `remote` is a VTEP, `port` its UDP port, `parent_index` the ifindex of the underlay interface (0: routed). `nexthop`
    is the ID of a nexthop object in place of `remote`; 0 if there is none.
    """

    mac: str
    remote: str
    port: int
    vni: int
    parent_index: int = 0
    nexthop: int = 0

    def __str__(self) -> str:
        where = f"nexthop {self.nexthop}" if self.nexthop else f"{self.remote} port {self.port} VNI {self.vni}"
        return f"{self.mac} to {where}" + (f" via interface {self.parent_index}" if self.parent_index else "")


class Tunnel(NamedTuple):
    """The parameters of a tunnel's end, as those of `VxlanWire`."""

    vni: int
    remote: str
    local: str
    port: int
    remote_port: int
    parent_index: int


def entry_differences(wanted: ForwardingEntry, entries: Sequence[ForwardingEntry]) -> list[str]:
    """The differences between an end's forwarding entries and its only wanted one, in words without the interface.

    Names at most ENTRIES_SHOWN unwanted entries, because a pod can add any number.
    """
    unwanted = [entry for entry in entries if entry != wanted]
    found = [f"sends {entry}" for entry in unwanted[:ENTRIES_SHOWN]]
    if len(unwanted) > ENTRIES_SHOWN:
        found.append(f"has {len(unwanted) - ENTRIES_SHOWN} more such entries")
    if wanted not in entries:
        found.append(f"does not send {wanted}")
    return found
