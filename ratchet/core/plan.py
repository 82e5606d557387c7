"""The next step of one end of a link, given its record and its interfaces in the kernel.

`plan` is the protocol in one function. The caller runs the step, reads again and asks again. To read the record, build
the interface and record the result is one critical section per link and node. The caller holds it, but never while it
waits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratchet.core.interface import InterfaceSpec, Observed, Parent, VethWire, VxlanWire, Wire, differences, tunnel_mtu
from ratchet.core.model import Kind, Link, Side
from ratchet.core.naming import end_mac_address
from ratchet.core.pod import PodRef
from ratchet.core.ports import PortRange, default_range
from ratchet.core.sandbox import Location, Sandbox
from ratchet.core.tunnels import has_port, port_error, ports_of_ends, tunnel_addresses
from ratchet.errors import AddressFamilyError, InvalidIntentError


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt of one sandbox to take one end of a link.

    `wanted` is the link as it was declared when the attempt began. `index` is the ifindex reserved for the end
    (`core.sandbox.Location`). `lasting`: ADD has ended and the sandbox runs, so it joins again if the record loses it.
    """

    wanted: Link
    side: Side
    sandbox: Sandbox
    index: int = 0
    lasting: bool = False

    @property
    def name(self) -> str:
        return self.wanted.name

    @property
    def container_id(self) -> str:
        return self.sandbox.container_id

    @property
    def location(self) -> Location:
        return Location(self.sandbox.netns, self.sandbox.cookie, self.index)

    def as_recorded(self, record: Link | None) -> Attempt:
        """The attempt in terms of a record, which fixes the roles of both ends for its life.

        The pod's end is found by its sandbox, else by its interface and either of the pod's names. The sandbox has the
        fields that the record's schema holds.
        """
        if record is None:
            return self
        if (sandbox := self.sandbox.in_schema(record.schema)) is not self.sandbox:
            return replace(self, sandbox=sandbox).as_recorded(record)
        if record.holds(self.side, sandbox.container_id):  # nearly always, and on the hot path
            return self
        side = record.side_of(sandbox.container_id)
        if side is None:
            mine = self.wanted.end(self.side)
            named = (record.side_at(name, mine.ifname) for name in (mine.name, sandbox.pod.name))
            side = next((side for side in named if side is not None), self.side)
        return self if side is self.side else replace(self, wanted=self.wanted.swapped(), side=side)


@dataclass(frozen=True, slots=True)
class Underlay:
    """A node's side of tunnels: its name, the interface that carries them, their UDP port.

    `has_agent`: an agent runs on the node, so an end can stay without carrier until its peer is ready. `vxlan_ports` is
    the range of ports that links may use; None: `default_range`. `guard`: tunnels take datagrams from their peers only
    (`core.tunnel_guard`).
    """

    node: str
    parent: Parent
    vxlan_port: int
    has_agent: bool = False
    vxlan_ports: PortRange | None = None
    guard: bool = True

    @property
    def allowed_ports(self) -> PortRange:
        return self.vxlan_ports or default_range(self.vxlan_port)

    def sandbox(self, container_id: str, pod: PodRef, netns: str, cookie: int = 0) -> Sandbox:
        """A sandbox on this node, with the node's VTEPs and underlay MTU."""
        parent = self.parent
        return Sandbox(
            container_id, pod, self.node, netns, parent.address, cookie, underlay_mtu=parent.mtu, vteps=parent.addresses
        )


@dataclass(frozen=True, slots=True)
class Join:
    """Put this sandbox into the draft. It is written once the end is ready or has to wait."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a change of the record: the peer has not joined."""


@dataclass(frozen=True, slots=True)
class AllocateVni:
    """Claim a VNI: the link is a tunnel without one."""


@dataclass(frozen=True, slots=True)
class Observe:
    """Observe the link's interfaces."""

    wire: Wire


@dataclass(frozen=True, slots=True)
class Create:
    """Create the link's interfaces if nothing is in the way, and observe them. Leave others alone."""

    wire: Wire


@dataclass(frozen=True, slots=True)
class Build:
    """Change or replace the observed interfaces so that they match the wire."""

    wire: Wire


@dataclass(frozen=True, slots=True)
class MarkReady:
    """Record that this end is ready."""


@dataclass(frozen=True, slots=True)
class Release:
    """Remove the interface of this sandbox's end and leave the record, because of `reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Write the record and raise `error`: the link is impossible with its ends and nodes as they are.

    The record is written first, so that the other end knows of this one and rejects or adjusts the link too.
    """

    error: AddressFamilyError | InvalidIntentError


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do: this end is up, and the record has it as ready."""


Step = Join | Wait | AllocateVni | Observe | Create | Build | MarkReady | Release | Reject | Done


def plan(
    attempt: Attempt,
    record: Link | None,
    underlay: Underlay,
    *,
    joined: bool,
    deleted: bool,
    observed: Observed | None,
    peer: Location | None = None,
) -> Step:
    """The attempt's next step. The attempt is in terms of the record (`Attempt.as_recorded`).

    `joined`: this attempt has written itself into the record before. Another sandbox in its place is then a later one.
    `deleted`: the runtime has called DEL for this sandbox. `observed`: the link's interfaces, None if they were not
    observed since the record was read. `peer` is the location of the other end on this node, None if this node's
    journal does not hold it for this link. Then nothing is created in the peer's namespace, whatever the record says.
    """
    if deleted:
        return Release("the runtime deleted the sandbox")
    holder = record.sandbox(attempt.side) if record else None
    if record is None or holder is None:
        return Join() if attempt.lasting or not joined else Release("its place in the record is gone")
    if holder.container_id != attempt.container_id:
        return Release("another sandbox has taken its place") if joined else Join()
    if holder != attempt.sandbox:  # the node's VTEPs or MTU have changed
        return Join()
    return Wait() if record.kind is None else _connect(attempt, record, underlay, observed, peer)


def _connect(
    attempt: Attempt, record: Link, underlay: Underlay, observed: Observed | None, peer: Location | None
) -> Step:
    """The next step of an end once both ends have joined."""
    refusal = port_error(record, attempt.side, underlay.vxlan_port, underlay.allowed_ports)
    try:
        if record.kind is Kind.VXLAN and record.vni is None:
            tunnel_addresses(record, attempt.side)  # an impossible link claims no VNI
            return Reject(refusal) if refusal else AllocateVni()
        if record.kind is Kind.VETH and peer is None:
            return Wait()
        wire = wire_of(record, attempt.side, underlay, attempt.location, peer)
    except (AddressFamilyError, InvalidIntentError) as error:
        return Reject(error)
    ready = record.is_ready(attempt.side)
    if refusal and observed is None:
        return Observe(wire)  # a tunnel that was created before the range was set keeps its port
    if refusal and observed and not ready and not has_port(wire, observed):
        return Reject(refusal)
    return _step_toward(wire, observed, ready=ready, failed=record.end(attempt.side).error is not None)


def _step_toward(wire: Wire, observed: Observed | None, *, ready: bool, failed: bool) -> Step:
    """The next step of an end that must match `wire`.

    `ready`: the record has the end as ready. `failed`: it has an error of it.
    """
    if observed is None:
        return Observe(wire) if ready else Create(wire)
    if differences(wire, observed):
        return Build(wire)
    return Done() if ready and not failed else MarkReady()


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
