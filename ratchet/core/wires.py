"""The interfaces that a link's record requires on one node."""

from __future__ import annotations

from dataclasses import replace

from ratchet.core.interface import InterfaceSpec, VethWire, VxlanWire, Wire, tunnel_mtu
from ratchet.core.model import Kind, Link, Side
from ratchet.core.naming import end_mac_address
from ratchet.core.pod import PodRef
from ratchet.core.sandbox import Location, Sandbox
from ratchet.core.tunnels import ports_of_ends, tunnel_addresses
from ratchet.core.underlay import Underlay
from ratchet.errors import InvalidIntentError


def wire_of(record: Link, side: Side, underlay: Underlay, here: Location, peer: Location | None = None) -> Wire:
    """The interfaces of a link on the node of `side`, once both ends have joined and a tunnel has its VNI.

    `here` and, for a vEth, `peer` are the locations of this end and of the other one. This node's VTEPs and MTU are
    those of `underlay`; the peer's are the record's.

    Raises AddressFamilyError if the nodes have no address family in common. Raises InvalidIntentError if a declared MTU
    exceeds the tunnel's maximum.
    """
    if record.kind is Kind.VETH:
        if peer is None:
            raise ValueError(f"cannot wire {record.name}: the peer of its {side} is not on this node")
        mtu = underlay.parent.mtu
        return VethWire(record.name, _port(record, side, mtu, here), _port(record, side.other, mtu, peer))
    holder, other = record.sandbox(side), record.sandbox(side.other)
    if holder is None or other is None or record.vni is None:
        raise ValueError(f"cannot wire {record.name}: an end has not joined, or the VNI is missing")
    own = underlay.sandbox(holder.container_id, holder.pod, holder.netns, holder.cookie).in_schema(record.schema)
    joined = record if own == holder else record.with_end(side, replace(record.end(side), sandbox=own))
    local, remote = tunnel_addresses(joined, side)
    underlay_mtu, limit = _least_mtu(underlay, other)
    most = tunnel_mtu(underlay_mtu, local)
    near = _port(record, side, most, here)
    if near.mtu > most:
        raise _mtu_error(holder.pod, near, most, underlay_mtu, limit)
    port, remote_port = ports_of_ends(record, side, underlay.vxlan_port)
    return VxlanWire(
        link=record.name,
        near=near,
        vni=record.vni,
        remote=remote,
        local=local,
        port=port,
        remote_port=remote_port,
        parent=underlay.parent,
        carrier=record.is_ready(side.other) or not underlay.has_agent,
        guard=underlay.guard,
    )


def _mtu_error(pod: PodRef, near: InterfaceSpec, most: int, underlay_mtu: int, node: str) -> InvalidIntentError:
    return InvalidIntentError(
        f"cannot link pod {pod}: mtu: {near.mtu} for {near.ifname} exceeds {most}, the maximum of a tunnel "
        f"over the underlay of node {node}",
        details=f"Set mtu to at most {most}, or omit it. The underlay MTU of node {node} is {underlay_mtu}.",
    )


def _least_mtu(underlay: Underlay, other: Sandbox) -> tuple[int, str]:
    """The smaller underlay MTU of both nodes, and its node. The peer's counts once it is recorded."""
    if 0 < other.underlay_mtu < underlay.parent.mtu:
        return other.underlay_mtu, other.node
    return underlay.parent.mtu, underlay.node


def _port(record: Link, side: Side, mtu: int, location: Location) -> InterfaceSpec:
    end = record.end(side)
    wanted = end.properties
    mac = wanted.mac or end_mac_address(record, side)
    return InterfaceSpec(
        netns=location.netns,
        ifname=end.ifname,
        addresses=tuple(end.addresses),
        mtu=wanted.mtu or mtu,
        mac=mac,
        txqlen=wanted.txqlen,
        routes=tuple(wanted.routes),
        sysctls=tuple(wanted.sysctls),
        offloads=wanted.offloads,
        rate=wanted.rate,
        renewed=record.generation > 1,
        cookie=location.cookie,
        index=location.index,
    )
