"""A pass over one end of a link: the state of the sandbox, its progress, its result."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ratchet.core.differences import tunnel_differences
from ratchet.core.forwarding import Tunnel
from ratchet.core.interface import Device, Observed, VxlanWire, Wire
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link
from ratchet.core.plan import Attempt
from ratchet.core.sandbox import Location
from ratchet.core.underlay import Underlay
from ratchet.node.journal import Journal
from ratchet.node.verified import VerifiedEnds

log = logging.getLogger(__name__)


class SandboxState(Protocol):
    """The runtime's view of a sandbox, asked before each step and under the link's lock."""

    def refuse_superseded(self) -> None:
        """Raise SupersededError if another call or worker has taken over the sandbox or its end."""

    def is_deleted(self) -> bool:
        """Whether the runtime has deleted the sandbox."""


@dataclass(frozen=True, slots=True)
class EndpointResult:
    """The state of an end: its link's record as stored now, and the end's device if the end is up.

    `tunnel` has the parameters of a tunnel's end that is up. `reset` are the differences, in words, of a tunnel that
    somebody else has changed and that the pass has reset.
    """

    record: Link
    device: Device | None = None
    tunnel: Tunnel | None = None
    reset: tuple[str, ...] = ()

    @property
    def is_up(self) -> bool:
        return self.device is not None


class Progress(NamedTuple):
    """How far a pass has come: what it has read, drafted, observed and built.

    A named tuple, because each step makes a new one, and each pod start takes many steps.

    `attempt` is in terms of `draft`, the record to be written. `stored` is the record as stored; it may lag behind the
    draft until the end is up. `certain`: it is the API's answer and not the cache's. `joined`: the draft has had this
    sandbox. `observed` are the link's interfaces, None if not observed since the record was read.

    `is_connected`: the end's interface looks as if the peer were ready; None if not observed. `has_built`: the pass may
    have left an interface. `builds` and `refusals` count builds, and VNIs that this node cannot use. `held_vni` is the
    VNI whose Lease is the record's, as the API has confirmed. `tunnel` and `reset` are as in `EndpointResult`.
    """

    attempt: Attempt
    stored: Link | None
    draft: Link | None
    certain: bool
    joined: bool
    observed: Observed | None = None
    is_connected: bool | None = None
    has_built: bool = False
    builds: int = 0
    refusals: int = 0
    held_vni: int | None = None
    tunnel: Tunnel | None = None
    reset: tuple[str, ...] = ()

    @property
    def record(self) -> Link:
        """The draft, for steps that follow the join."""
        if self.draft is None:
            raise AssertionError(f"the plan had {self.attempt.name} written without a record")
        return self.draft

    def as_result(self) -> EndpointResult:
        """The state of an end that is up."""
        return EndpointResult(self.record, self.observed.near if self.observed else None, self.tunnel, self.reset)


def tunnel_of(wire: Wire) -> Tunnel | None:
    """The parameters of a tunnel; None for a vEth."""
    return wire.tunnel if isinstance(wire, VxlanWire) else None


def is_held(progress: Progress, wire: Wire) -> bool:
    """Whether the API has confirmed that the record holds the Lease of a tunnel's VNI."""
    return isinstance(wire, VxlanWire) and wire.vni == progress.held_vni


def may_lose_connection(progress: Progress, underlay: Underlay) -> bool:
    """Whether an end that waits is disconnected outside the plan: in direct wiring, if an agent completes it later."""
    return underlay.has_agent and progress.record.wiring is Wiring.DIRECT


def peer_location(progress: Progress, journal: Journal) -> Location | None:
    """The location of the peer's end, if it is on this node and in its journal for this link.

    The caller holds the link's lock. An end is given up only under that lock, so the journal's answer stays true.
    """
    record = progress.draft
    peer = record.sandbox(progress.attempt.side.other) if record is not None else None
    if peer is None or record is None or not record.is_local:
        return None
    location = journal.location(record.name, peer.container_id)
    if location is None:
        log.warning("peer not in this node's journal link=%s sandbox=%s", record.name, peer.container_id)
    return location


def changed_by_others(progress: Progress, wire: Wire, verified: VerifiedEnds) -> tuple[str, ...]:
    """The differences of a tunnel's end that was verified with these parameters and is recorded as ready, in words.

    This process has not built the end since, so somebody else has changed it. Empty for a tunnel that is built with
    other parameters: the peer has moved, or the underlay has changed.
    """
    near = progress.observed.near if progress.observed is not None else None
    side = progress.attempt.side
    if near is None or not isinstance(wire, VxlanWire) or not progress.record.is_ready(side):
        return ()
    return tunnel_differences(wire, near) if verified.is_tunnel(wire.link, side, wire.tunnel) else ()
