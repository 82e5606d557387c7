"""What a node brings to links: found for each call, or once and followed by whoever stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ratchet import datapath
from ratchet.core.plan import Site
from ratchet.store.records import Records


@dataclass(frozen=True, slots=True)
class Underlay:
    """What is said of a node's side of tunnels: an interface, an address on it, both or neither; their UDP port."""

    interface: str | None
    address: str | None
    vxlan_port: int


FindSite = Callable[[Underlay, str, Records], Site]


def find_site(underlay: Underlay, node: str, records: Records) -> Site:
    """The site of `node`, which is this one. Raises InvalidConfigError where its parent is not as it is said to be."""
    interface, address = underlay.interface, underlay.address
    addresses = () if interface or address else records.node_addresses(node)
    return Site(node, datapath.find_parent(interface, address, addresses), underlay.vxlan_port)
