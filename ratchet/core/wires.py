"""The interfaces that a link's record requires on one node."""

from __future__ import annotations

from dataclasses import replace

from ratchet.core.endpoint_spec import EndState
from ratchet.core.interface import (
    FRAGMENTED_MTU_MAX,
    CableWire,
    InterfaceSpec,
    PatchWire,
    VethWire,
    VxlanWire,
    Wire,
    cable_mtu,
    tunnel_mtu,
)
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link, Side
from ratchet.core.naming import end_mac_address
from ratchet.core.pod import PodRef
from ratchet.core.sandbox import Location, Sandbox
from ratchet.core.tunnels import ports_of_ends, tunnel_addresses
from ratchet.core.underlay import Underlay
from ratchet.errors import InvalidIntentError


def wire_of(record: Link, side: Side, underlay: Underlay, here: Location, peer: Location | None = None) -> Wire:
    """The interfaces of a link on the node of `side`.

    Before both ends have joined, only a link in panel wiring has an interface: the cable. A tunnel needs its VNI.

    `here` and, on one node, `peer` are the locations of this end and of the other one. This node's VTEPs and MTU are
    those of `underlay`; the peer's are the record's.

    Raises AddressFamilyError if the nodes have no address family in common. Raises InvalidIntentError if a declared MTU
    exceeds the tunnel's maximum, or if a link in direct wiring is to be down.
    """
    if record.is_local or (record.kind is None and record.wiring is Wiring.PANEL):
        return _wire_on_one_node(record, side, underlay, here, peer)
    holder, other = record.sandbox(side), record.sandbox(side.other)
    if holder is None or other is None or record.vni is None:
        raise ValueError(f"cannot wire {record.name}: an end has not joined, or the VNI is missing")
    own = underlay.sandbox(holder.container_id, holder.pod, holder.netns, holder.cookie).in_schema(record.schema)
    joined = record if own == holder else record.with_end(side, replace(record.end(side), sandbox=own))
    local, remote = tunnel_addresses(joined, side)
    near = _tunnel_port(record, side, underlay, here, local, holder=holder, other=other)
    port, remote_port = ports_of_ends(record, side, underlay.vxlan_port)
    return VxlanWire(
        link=record.name,
        near=near,
        vni=record.vni,
        remote=remote,
        local=local,
        port=port,
        remote_port=remote_port,
        # A tunnel in the panel is not pinned to an interface, so that the kernel does not limit its MTU.
        parent=underlay.parent if record.wiring is Wiring.DIRECT else replace(underlay.parent, index=0),
        carrier=_has_carrier(record, side, underlay),
        guard=underlay.guard,
        wiring=record.wiring,
        switches=_switches(record, side),
    )


def _has_carrier(record: Link, side: Side, underlay: Underlay) -> bool:
    """Whether the end of a tunnel must have carrier. Without an agent, it has carrier from the start."""
    return not record.is_held_down and (record.is_connected(side.other) or not underlay.has_agent)


def _switches(record: Link, side: Side) -> bool:
    """Whether a cable must send into the tunnel of this generation: if it has sent into none, or the peer is ready."""
    return record.wiring is Wiring.DIRECT or not record.is_connected(side) or record.is_ready(side.other)


def _wire_on_one_node(record: Link, side: Side, underlay: Underlay, here: Location, peer: Location | None) -> Wire:
    """A vEth, or the cables of a link in panel wiring: both, or this end's if it has no peer or is held down."""
    if record.wiring is Wiring.PANEL:
        cable = cable_wire(record, side, underlay, here)
        if peer is None or record.kind is None or record.is_held_down:
            return cable
        return PatchWire(record.name, cable.near, _port(record, side.other, underlay.cable_mtu, peer))
    if peer is None:
        raise ValueError(f"cannot wire {record.name}: the peer of its {side} is not on this node")
    mtu = underlay.parent.mtu
    return VethWire(record.name, _port(record, side, mtu, here), _port(record, side.other, mtu, peer))


def cable_wire(record: Link, side: Side, underlay: Underlay, here: Location, *, keeps_tunnel: bool = True) -> CableWire:
    """The cable of an end in panel wiring without a peer."""
    return CableWire(record.name, _port(record, side, underlay.cable_mtu, here), keeps_tunnel)


def _tunnel_port(
    record: Link, side: Side, underlay: Underlay, here: Location, local: str, *, holder: Sandbox, other: Sandbox
) -> InterfaceSpec:
    """The near interface of a tunnel from the VTEP `local`. Raises InvalidIntentError if its MTU is too large.

    A cable begins with the MTU that its node's tunnels carry, and keeps it if the peer's node carries it too.
    """
    underlay_mtu, limit = _least_mtu(underlay, other)
    most = tunnel_mtu(underlay_mtu, local)
    default = most
    if record.wiring is Wiring.PANEL:
        default = min(underlay.cable_mtu, cable_mtu(underlay_mtu, other.vteps or (other.vtep,)))
        most = max(most, FRAGMENTED_MTU_MAX) if ":" not in local else most
    near = _port(record, side, default, here)
    if near.mtu > most:
        raise _mtu_error(holder.pod, near, most, underlay_mtu, limit)
    return near


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
    if wanted.state is not EndState.UP and record.wiring is Wiring.DIRECT:
        raise InvalidIntentError(
            f"cannot link pod {end.sandbox.pod if end.sandbox else end.name}: state: {end.ifname} is in direct wiring, "
            "whose links cannot be down",
            details="Delete both pods, then start them in panel wiring, or omit state.",
        )
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
        sends=wanted.state is not EndState.CUT,
        renewed=record.generation > 1,
        resets=end.resets,
        cookie=location.cookie,
        index=location.index,
        slot=location.slot if record.wiring is Wiring.PANEL else None,
    )
