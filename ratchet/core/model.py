"""Ends and links, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from ratchet.core.endpoint_spec import UNSET, Address, EndpointSpec, EndState, PackedAddresses
from ratchet.core.kinds import LOCAL_KINDS, Kind, Wiring
from ratchet.core.operations import RecordedOperation
from ratchet.core.sandbox import Sandbox
from ratchet.core.schemas import CURRENT_SCHEMA


class Side(StrEnum):
    """The role of an end. The record says which pod is the primary; the other pod is the pair."""

    PRIMARY = "primary"
    PAIR = "pair"

    @property
    def other(self) -> Side:
        return Side.PAIR if self is Side.PRIMARY else Side.PRIMARY


# Both sides, in order. Iteration over a tuple is cheaper than over the enum.
SIDES = (Side.PRIMARY, Side.PAIR)


class State(StrEnum):
    """The state of a link, derived from the facts of its record (`core.state_machine.derive`)."""

    PENDING = "pending"
    PRIMARY_READY = "primary-ready"
    PAIR_READY = "pair-ready"
    LINKED = "linked"


@dataclass(frozen=True, slots=True)
class ReadyFor:
    """What an end was built for: its own sandbox, its peer, and the generation of the declaration.

    `peer` is the peer's VTEP for a VXLAN (`Link.tunnel_addresses`), the peer's container ID for other kinds. It
    is a value to compare and not a flag: if the peer moves, nothing has to be reset.
    """

    sandbox: str
    peer: str
    generation: int


NO_PEER = "none"  # of an end that was built for another encapsulation; it equals no container ID and no VTEP


@dataclass(frozen=True, slots=True)
class EndError:
    """Why an end cannot be made ready: the last error of its node, since `at` (UTC)."""

    at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """The declared encapsulation of a link.

    `tunnel`: a VXLAN also on one node. `vxlan_port` is the tunnel's UDP port; None: the node's.
    """

    tunnel: bool = False
    vxlan_port: int | None = None


DEFAULT_ENCAPSULATION = Encapsulation()


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link: its declaration, and the facts that its node has written.

    `name` is the name that declarations use for the pod (`ratchet.pod_name`). `notes` are labels, kept for people.
    `error` is for people too; it is None if the end is ready or waits. `resets` are settings that an edit has removed
    (`endpoint_spec.resets`), until the end is ready. Records of schema 1 hold neither.
    """

    name: str
    ifname: str
    addresses: Sequence[Address] = ()
    properties: EndpointSpec = UNSET
    notes: Mapping[str, str] = field(default_factory=dict, hash=False)
    sandbox: Sandbox | None = None
    ready: ReadyFor | None = None
    error: EndError | None = None
    resets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "addresses", PackedAddresses.of(self.addresses))

    def intends_the_same_as(self, other: End) -> bool:
        """Whether both declare the same interface. Addresses are compared as sets, the pod's name not at all."""
        if (self.ifname, self.properties) != (other.ifname, other.properties):
            return False
        return self.addresses == other.addresses or frozenset(self.addresses) == frozenset(other.addresses)


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of a link's state, for people. `at` is in UTC."""

    at: datetime
    source: State
    target: State
    reason: str


@dataclass(frozen=True, slots=True)
class Link:
    """The record of one link: one ConfigMap.

    `schema` is the format in which the record is stored; it never changes. `unread` are the lines of its history that
    this version cannot read and keeps as they are. `generation` counts changes of the declaration. `vni` stays until
    the record is deleted, unless the link is renumbered. `refused_vnis` are VNIs that a node of the link cannot use,
    the latest last.

    `wiring` is decided when the first end joins, and stays while either end is held.

    `operation` is the latest operation on the link (`core.operations`), which may be over. Schema 1 does not hold it.

    `expected_on`: while an end has not joined, the labels of the nodes on which its pod is, or was last. Their agents
    watch the record too, so they have it when the pod starts. `uid`, `resource_version` and `created` are the API
    server's; empty or None until the record is stored.
    """

    name: str
    namespace: str
    primary: End
    pair: End
    encapsulation: Encapsulation = DEFAULT_ENCAPSULATION
    wiring: Wiring = Wiring.DIRECT
    generation: int = 1
    vni: int | None = None
    refused_vnis: tuple[int, ...] = ()
    history: tuple[Transition, ...] = ()
    schema: int = CURRENT_SCHEMA
    unread: tuple[str, ...] = ()
    expected_on: tuple[str, ...] = ()
    operation: RecordedOperation | None = None
    uid: str = field(default="", compare=False)
    resource_version: str = field(default="", compare=False)
    created: datetime | None = field(default=None, compare=False)

    def end(self, side: Side) -> End:
        return self.primary if side is Side.PRIMARY else self.pair

    def ends_from(self, side: Side) -> tuple[End, End]:
        """The end at this side, then the other end."""
        return (self.primary, self.pair) if side is Side.PRIMARY else (self.pair, self.primary)

    def with_end(self, side: Side, end: End) -> Link:
        return replace(self, primary=end) if side is Side.PRIMARY else replace(self, pair=end)

    def sandbox(self, side: Side) -> Sandbox | None:
        return self.primary.sandbox if side is Side.PRIMARY else self.pair.sandbox

    @property
    def nodes(self) -> set[str]:
        """The nodes of the sandboxes that have joined."""
        return {end.sandbox.node for end in (self.primary, self.pair) if end.sandbox is not None}

    def side_of(self, container_id: str) -> Side | None:
        """The side that this sandbox has joined; None if it has joined neither."""
        if self.holds(Side.PRIMARY, container_id):
            return Side.PRIMARY
        return Side.PAIR if self.holds(Side.PAIR, container_id) else None

    def side_at(self, name: str, ifname: str) -> Side | None:
        """The side of this endpoint; None if the link has no such endpoint."""
        if (self.primary.name, self.primary.ifname) == (name, ifname):
            return Side.PRIMARY
        return Side.PAIR if (self.pair.name, self.pair.ifname) == (name, ifname) else None

    def oriented_as(self, record: Link) -> Link:
        """The same link with the roles of its record, matched by interface names.

        If both interfaces have one name, the pods' names decide.
        """
        mine, theirs = ([(end.name, end.ifname) for end in (one.primary, one.pair)] for one in (self, record))
        ifnames = [ifname for _, ifname in mine]
        if ifnames[0] != ifnames[1]:
            return self if ifnames == [ifname for _, ifname in theirs] else self.swapped()
        return self.swapped() if mine[0] == theirs[1] or mine[1] == theirs[0] else self

    def swapped(self) -> Link:
        """The same link with the other end as its primary."""
        return replace(self, primary=self.pair, pair=self.primary)

    def holds(self, side: Side, container_id: str) -> bool:
        """Whether this sandbox, and no other, is joined at this end."""
        sandbox = self.sandbox(side)
        return sandbox is not None and sandbox.container_id == container_id

    @property
    def kind(self) -> Kind | None:
        """The kind of its interfaces; None until both ends have joined."""
        primary, pair = self.primary.sandbox, self.pair.sandbox
        if primary is None or pair is None:
            return None
        if primary.node != pair.node or self.encapsulation.tunnel:
            return Kind.VXLAN
        return Kind.VETH if self.wiring is Wiring.DIRECT else Kind.PATCH

    @property
    def is_held_down(self) -> bool:
        """Whether the declaration wants the link without carrier."""
        return EndState.DOWN in (self.primary.properties.state, self.pair.properties.state)

    @property
    def is_local(self) -> bool:
        """Whether both ends have joined, and one node builds them together."""
        return self.kind in LOCAL_KINDS

    def built_with(self, side: Side) -> tuple[Side, ...]:
        """The ends that one pass of this side builds. If the link is held down, each pass takes its own carrier."""
        return (side, side.other) if self.is_local and not self.is_held_down else (side,)

    def tunnel_addresses(self, side: Side) -> tuple[str, str] | None:
        """The VTEPs of a tunnel at this end, local and remote; None if there is no pair of one family.

        The family is that of both nodes' first addresses. If these differ, it is IPv4 if both nodes have it, else IPv6.
        The other end gets the same pair.
        """
        near, far = self.ends_from(side)
        if near.sandbox is None or far.sandbox is None:
            return None
        local = near.sandbox.vteps or (near.sandbox.vtep,)
        remote = far.sandbox.vteps or (far.sandbox.vtep,)
        if _family(local[0]) == _family(remote[0]):  # nearly always, and on the hot path
            return local[0], remote[0]
        ours, theirs = ({_family(address): address for address in reversed(one)} for one in (local, remote))
        return next(((ours[one], theirs[one]) for one in (4, 6) if one in ours and one in theirs), None)

    def due(self, side: Side) -> ReadyFor | None:
        """The value of `ready` that the record requires of this end now.

        None until both ends have joined, and for a tunnel between nodes without a common address family.
        """
        near, far = self.ends_from(side)
        mine, peer = near.sandbox, far.sandbox
        if mine is None or peer is None:
            return None
        if self.is_local:
            return ReadyFor(mine.container_id, peer.container_id, self.generation)
        addresses = self.tunnel_addresses(side)
        return ReadyFor(mine.container_id, addresses[1], self.generation) if addresses is not None else None

    def intends_the_same_as(self, other: Link) -> bool:
        ends = self.primary.intends_the_same_as(other.primary) and self.pair.intends_the_same_as(other.pair)
        return ends and self.encapsulation == other.encapsulation

    def is_ready(self, side: Side) -> bool:
        ready = self.end(side).ready
        return ready is not None and ready == self.due(side)

    def is_connected(self, side: Side) -> bool:
        """Whether this end was built for its peer, perhaps with the settings of an earlier generation."""
        ready, due = self.end(side).ready, self.due(side)
        return ready is not None and due is not None and (ready.sandbox, ready.peer) == (due.sandbox, due.peer)

    @property
    def observed_generation(self) -> int | None:
        """The generation that both ends were built for; None until both are built."""
        made = [end.ready.generation for end in (self.primary, self.pair) if end.ready is not None]
        return min(made) if len(made) == 2 else None

    @property
    def abandoned(self) -> bool:
        """Whether neither end has a sandbox, so that the record is deleted."""
        return self.primary.sandbox is None and self.pair.sandbox is None


def _family(address: str) -> int:
    """The IP version of an address, 4 or 6."""
    return 6 if ":" in address else 4
