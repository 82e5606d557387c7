"""The addresses and UDP ports of a link's tunnel, and whether a node may create it with them."""

from __future__ import annotations

from ratchet.core.interface import Observed, VxlanWire, Wire
from ratchet.core.kinds import Kind
from ratchet.core.model import Link, Side
from ratchet.core.ports import PortRange, link_fault, ports_on_one_node
from ratchet.errors import AddressFamilyError, InvalidIntentError


def tunnel_addresses(record: Link, side: Side) -> tuple[str, str]:
    """The local and the remote VTEP. Raises AddressFamilyError."""
    found = record.tunnel_addresses(side)
    if found is not None:
        return found
    holder, other = record.sandbox(side), record.sandbox(side.other)
    if holder is None or other is None:
        raise ValueError(f"cannot wire {record.name}: an end has not joined, or the VNI is missing")
    nodes = " and ".join(f"{one.node} ({', '.join(one.vteps or (one.vtep,))})" for one in (holder, other))
    raise AddressFamilyError(
        f"cannot link pod {holder.pod} to pod {other.pod}: nodes {nodes} have no address family in common",
        details="Give both nodes an address of one family on the interface that carries tunnels.",
    )


def ports_of_ends(record: Link, side: Side, own: int) -> tuple[int, int]:
    """The UDP ports of this end and of its peer; `own` is the node's port.

    Both ends use the link's port, or on one node its neighbours.
    """
    port = record.encapsulation.vxlan_port or own
    if len(record.nodes) > 1:
        return port, port
    first, second = ports_on_one_node(port)
    return (first, second) if side is Side.PRIMARY else (second, first)


def port_error(record: Link, side: Side, own: int, allowed: PortRange) -> InvalidIntentError | None:
    """Why the node of `side` must not create the tunnel; None if it may, and for a vEth. `own` is the node's port."""
    holder = record.sandbox(side)
    if record.kind is not Kind.VXLAN or holder is None:
        return None
    fault = link_fault(record.encapsulation.vxlan_port, own, allowed, one_node=len(record.nodes) == 1)
    if fault is None:
        return None
    return InvalidIntentError(
        f"cannot link pod {holder.pod}: {fault}",
        details="set vxlan_port to another port, or omit it; an administrator sets vxlan_ports on all nodes",
    )


def has_port(wire: Wire, observed: Observed) -> bool:
    """Whether the observed interface is a tunnel of Ratchet that already has the wire's UDP port."""
    near = observed.near
    return isinstance(wire, VxlanWire) and near is not None and near.ours and near.port == wire.port
