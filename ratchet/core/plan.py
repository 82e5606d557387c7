"""The next step of one end of a link, given its record and its interfaces in the kernel.

`plan` is the protocol in one function. The caller runs the step, reads again and asks again. To read the record, build
the interface and record the result is one critical section per link and node. The caller holds it, but never while it
waits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratchet.core.differences import differences
from ratchet.core.interface import Observed, PatchWire, Wire
from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import Link, Side
from ratchet.core.overrides import AS_DECLARED, Override
from ratchet.core.panel import PanelSlot
from ratchet.core.sandbox import Location, Sandbox
from ratchet.core.tunnels import has_port, port_error, tunnel_addresses
from ratchet.core.underlay import Underlay
from ratchet.core.wires import cable_wire, wire_of
from ratchet.errors import AddressFamilyError, InvalidIntentError


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt of one sandbox to take one end of a link.

    `wanted` is the link as it was declared when the attempt began. `index` is the ifindex reserved for the end
    (`core.sandbox.Location`), `slot` the attachment's place in the patch panel. `lasting`: ADD has ended and the
    sandbox runs, so it joins again if the record loses it. `live`: `wanted` follows edits of the declaration.
    `override` is what an operation makes of the link now.
    """

    wanted: Link
    side: Side
    sandbox: Sandbox
    index: int = 0
    lasting: bool = False
    slot: PanelSlot | None = None
    live: bool = False
    override: Override = AS_DECLARED

    @property
    def name(self) -> str:
        return self.wanted.name

    @property
    def container_id(self) -> str:
        return self.sandbox.container_id

    @property
    def location(self) -> Location:
        return Location(self.sandbox.netns, self.sandbox.cookie, self.index, self.slot)

    def declares(self, record: Link) -> bool:
        """Whether the record takes its declaration from this end: its primary's, or that of the only end."""
        return self.side is Side.PRIMARY or record.primary.sandbox is None

    def redeclares(self, record: Link) -> bool:
        """Whether the record is to be updated to the declaration of this end, which was edited."""
        return self.live and self.declares(record) and not record.intends_the_same_as(self.wanted)

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
    if attempt.redeclares(record):
        return Join()
    record = attempt.override.applied_to(record)
    if record.kind is None or (record.is_local and peer is None):
        return _wait_for_peer(attempt, record, underlay, observed)
    return _connect(attempt, record, underlay, observed, peer)


def _wait_for_peer(attempt: Attempt, record: Link, underlay: Underlay, observed: Observed | None) -> Step:
    """The next step of an end whose peer is not there: in panel wiring its cable exists, without carrier."""
    if record.wiring is Wiring.DIRECT:
        return Wait()
    wire = cable_wire(record, attempt.side, underlay, attempt.location)
    if observed is None:
        return Create(wire)
    return Build(wire) if differences(wire, observed) else Wait()


def _connect(
    attempt: Attempt, record: Link, underlay: Underlay, observed: Observed | None, peer: Location | None
) -> Step:
    """The next step of an end once both ends have joined."""
    refusal = port_error(record, attempt.side, underlay.vxlan_port, underlay.allowed_ports)
    try:
        if record.kind is Kind.VXLAN and record.vni is None:
            tunnel_addresses(record, attempt.side)  # an impossible link claims no VNI
            return Reject(refusal) if refusal else AllocateVni()
        wire = wire_of(record, attempt.side, underlay, attempt.location, peer)
    except (AddressFamilyError, InvalidIntentError) as error:
        return Reject(error)
    if isinstance(wire, PatchWire) and observed is not None and observed.far is None:
        # The peer's own pass makes its cable: this one may not know that the peer is gone.
        return _wait_for_peer(attempt, record, underlay, Observed(observed.near))
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
