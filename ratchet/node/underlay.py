"""The node's underlay for tunnels. The plugin finds it for each call; an agent keeps and watches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ratchet import datapath
from ratchet.cni.plugin_keys import DEFAULT_VXLAN_PORT
from ratchet.core.ports import PortRange, range_fault
from ratchet.errors import InvalidConfigError

if TYPE_CHECKING:
    from ratchet.core.underlay import Underlay
    from ratchet.store.interface import Store


class UnderlayConfig(NamedTuple):
    """The underlay settings of a configuration: `parent_interface`, `parent_address`, `vxlan_port`, `guard`.

    None: not set.
    """

    interface: str | None
    address: str | None
    vxlan_port: int | None
    guard: bool | None = None


FindUnderlay = Callable[[UnderlayConfig, str, "Store"], "Underlay"]


def find_underlay(underlay: UnderlayConfig, node: str, store: Store, ports: PortRange | None = None) -> Underlay:
    """The underlay of `node`, which is this node (empty: its name in the API is not known).

    `ports` are the UDP ports that links may use. Raises InvalidConfigError if the configured parent does not exist, or
    if `ports` do not suit the node's port. Raises ApiUnavailableError if the node's addresses decide the VTEP and the
    API does not answer.
    """
    from ratchet.core.underlay import Underlay

    port = underlay.vxlan_port or DEFAULT_VXLAN_PORT
    if ports is not None and (fault := range_fault(port, ports)):
        raise InvalidConfigError(f"cannot use the network configuration: {fault}")
    addresses = store.nodes.lookup_addresses(node) if node and not underlay.address else ()
    parent = datapath.find_parent(underlay.interface, underlay.address, addresses)
    return Underlay(node, parent, port, vxlan_ports=ports, guard=underlay.guard is not False)
