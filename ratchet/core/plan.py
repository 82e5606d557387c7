"""What one end of a link does next, given its record and what stands in the kernel.

The protocol in one function. Whoever asks does the step, reads again and asks again; reading, building and noting
are one critical section per link and node, which the asker holds (never while it waits).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratchet.core.interface import InterfaceSpec, Observed, Parent, VethWire, VxlanWire, Wire, differences, tunnel_mtu
from ratchet.core.model import Kind, Link, Location, PodRef, Sandbox, Side
from ratchet.core.naming import end_mac_address
from ratchet.errors import AddressFamilyError, InvalidIntentError


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sandbox's try at one end of a link; `wanted` is the link as the labels declared it when the try began.

    `index` is the ifindex reserved for the end (`core.model.Location`). `lasting`: its ADD is over and the sandbox
    runs, so that a place in the record which was lost is taken again.
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
        """The attempt in terms of a record, which decides for its life which end is the primary's.

        The pod's end is known by its sandbox, else by its interface and either of the pod's names. The sandbox has the
        fields that the record's schema holds.
        """
        if record is None:
            return self
        if (sandbox := self.sandbox.in_schema(record.schema)) is not self.sandbox:
            return replace(self, sandbox=sandbox).as_recorded(record)
        side = record.side_of(sandbox.container_id)
        if side is None:
            mine = self.wanted.end(self.side)
            named = (record.side_at(name, mine.ifname) for name in (mine.name, sandbox.pod.name))
            side = next((side for side in named if side is not None), self.side)
        return self if side is self.side else replace(self, wanted=self.wanted.swapped(), side=side)


@dataclass(frozen=True, slots=True)
class Underlay:
    """What a node brings to its ends: its name, the interface that carries its tunnels, their UDP port.

    `has_agent`: somebody stays on the node, so that an end may go without carrier while its peer does not stand.
    """

    node: str
    parent: Parent
    vxlan_port: int
    has_agent: bool = False

    def sandbox(self, container_id: str, pod: PodRef, netns: str, cookie: int = 0) -> Sandbox:
        """A sandbox on this node, with the node's side of tunnels."""
        parent = self.parent
        return Sandbox(
            container_id, pod, self.node, netns, parent.address, cookie, underlay_mtu=parent.mtu, vteps=parent.addresses
        )


@dataclass(frozen=True, slots=True)
class Join:
    """Put this sandbox into the record. Nothing need be written before it stands, or has to wait."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The other end has not joined: nothing to do until the record changes."""


@dataclass(frozen=True, slots=True)
class AllocateVni:
    """The link is a tunnel and has no VNI yet: claim one."""


@dataclass(frozen=True, slots=True)
class Observe:
    """See what stands where the wire should."""

    wire: Wire


@dataclass(frozen=True, slots=True)
class Create:
    """Make the wire if nothing is in its way, and see what stands; what is in its way is left alone."""

    wire: Wire


@dataclass(frozen=True, slots=True)
class Build:
    """Make what stands into the wire."""

    wire: Wire


@dataclass(frozen=True, slots=True)
class MarkReady:
    """Write into the record that this end stands."""


@dataclass(frozen=True, slots=True)
class Release:
    """Take this sandbox's end down and leave the record, because `reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Write the record and raise `error`: the link cannot be made as both ends and both nodes now are.

    The record is written first, so that the other end knows of this one and rejects or adjusts the link too.
    """

    error: AddressFamilyError | InvalidIntentError


@dataclass(frozen=True, slots=True)
class Done:
    """This end stands toward what the record says, and the record says so."""


Step = Join | Wait | AllocateVni | Observe | Create | Build | MarkReady | Release | Reject | Done


def plan(
    attempt: Attempt,
    record: Link | None,
    site: Underlay,
    *,
    joined: bool,
    deleted: bool,
    observed: Observed | None,
    peer: Location | None = None,
) -> Step:
    """The attempt's next step; the attempt is in terms of the record (`Attempt.as_recorded`).

    `joined`: this attempt has written itself into the record before, so that another sandbox found there has come
    after it. `deleted`: the runtime has called DEL for this sandbox. `observed`: what stands, None while not looked
    at since the record was read. `peer` is where the other end is on this node, None where this node's journal does
    not hold it for this link: then nothing is made in the peer's namespace, whatever the record says.
    """
    if deleted:
        return Release("the runtime deleted the sandbox")
    holder = record.sandbox(attempt.side) if record else None
    if record is None or holder is None:
        return Join() if attempt.lasting or not joined else Release("its place in the record is gone")
    if holder.container_id != attempt.container_id:
        return Release("another sandbox has taken its place") if joined else Join()
    if holder != attempt.sandbox:  # the same on a node that is reached by another address now
        return Join()
    kind = record.kind
    if kind is None:
        return Wait()
    try:
        if kind is Kind.VXLAN and record.vni is None:
            _tunnel_addresses(record, attempt.side)  # no VNI for a link that cannot be made
            return AllocateVni()
        if kind is Kind.VETH and peer is None:
            return Wait()
        wire = wire_of(record, attempt.side, site, attempt.location, peer)
    except (AddressFamilyError, InvalidIntentError) as error:
        return Reject(error)
    if observed is None:
        return Observe(wire) if record.is_ready(attempt.side) else Create(wire)
    if differences(wire, observed):
        return Build(wire)
    return Done() if record.is_ready(attempt.side) else MarkReady()


def wire_of(record: Link, side: Side, site: Underlay, here: Location, peer: Location | None = None) -> Wire:
    """What `side` is to be made of, on its own node, once both ends have joined (and a tunnel has its VNI).

    `here` and, for a vEth, `peer` are where this end and the other one are.
    The node's own VTEPs and MTU are the site's; the peer's are the record's.
    Raises AddressFamilyError if the nodes have no address family in common, InvalidIntentError for an MTU that does not
    fit into the tunnel.
    """
    if record.kind is Kind.VETH:
        if peer is None:
            raise ValueError(f"the peer of the {side} of {record.name} is not on this node")
        mtu = site.parent.mtu
        return VethWire(record.name, _port(record, side, mtu, here), _port(record, side.other, mtu, peer))
    holder, other = record.sandbox(side), record.sandbox(side.other)
    if holder is None or other is None or record.vni is None:
        raise ValueError(f"{record.name} is not ready to be wired")
    own = site.sandbox(holder.container_id, holder.pod, holder.netns, holder.cookie).in_schema(record.schema)
    joined = record if own == holder else record.with_end(side, replace(record.end(side), sandbox=own))
    local, remote = _tunnel_addresses(joined, side)
    underlay_mtu, limit = _least_mtu(site, other)
    most = tunnel_mtu(underlay_mtu, local)
    near = _port(record, side, most, here)
    if near.mtu > most:
        raise InvalidIntentError(
            f"cannot link pod {holder.pod}: mtu: {near.mtu} for {near.ifname} exceeds {most}, the maximum of a tunnel "
            f"over the underlay of node {limit}",
            details=f"Set mtu to at most {most}, or omit it. The underlay MTU of node {limit} is {underlay_mtu}.",
        )
    port, remote_port = _ports(record, side, record.encapsulation.vxlan_port or site.vxlan_port)
    return VxlanWire(
        link=record.name,
        near=near,
        vni=record.vni,
        remote=remote,
        local=local,
        port=port,
        remote_port=remote_port,
        parent=site.parent,
        carrier=record.is_ready(side.other) or not site.has_agent,
    )


def _tunnel_addresses(record: Link, side: Side) -> tuple[str, str]:
    """The local and the remote VTEP. Raises AddressFamilyError."""
    found = record.tunnel_addresses(side)
    if found is not None:
        return found
    holder, other = record.sandbox(side), record.sandbox(side.other)
    if holder is None or other is None:
        raise ValueError(f"{record.name} is not ready to be wired")
    nodes = " and ".join(f"{one.node} ({', '.join(one.vteps or (one.vtep,))})" for one in (holder, other))
    raise AddressFamilyError(
        f"cannot link pod {holder.pod} to pod {other.pod}: nodes {nodes} have no address family in common",
        details="Give both nodes an address of one family on the interface that carries tunnels.",
    )


def _least_mtu(site: Underlay, other: Sandbox) -> tuple[int, str]:
    """The smaller underlay MTU of both nodes, and the node that has it. The peer's counts once its node records it."""
    if 0 < other.underlay_mtu < site.parent.mtu:
        return other.underlay_mtu, other.node
    return site.parent.mtu, site.node


def _ports(record: Link, side: Side, port: int) -> tuple[int, int]:
    """The UDP ports of this end and of its peer's: those next to the link's where both are on one node."""
    if len(record.nodes) > 1:
        return port, port
    first, second = (port + 1, port + 2) if port + 2 < 1 << 16 else (port - 1, port - 2)
    return (first, second) if side is Side.PRIMARY else (second, first)


def _port(record: Link, side: Side, mtu: int, location: Location) -> InterfaceSpec:
    end = record.end(side)
    wanted = end.properties
    mac = wanted.mac or end_mac_address(record, side)
    return InterfaceSpec(
        netns=location.netns,
        ifname=end.ifname,
        addresses=end.addresses,
        mtu=wanted.mtu or mtu,
        mac=mac,
        txqlen=wanted.txqlen,
        routes=wanted.routes,
        sysctls=wanted.sysctls,
        offloads=wanted.offloads,
        rate=wanted.rate,
        renewed=record.generation > 1,
        cookie=location.cookie,
        index=location.index,
    )
