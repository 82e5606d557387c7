"""The words Ratchet thinks in, as frozen values: pods, sandboxes, ends, links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface

from ratchet.core.endpoint_spec import UNSET, EndpointSpec

Address = IPv4Interface | IPv6Interface

# The formats of a record. EARLIER: named after the pod that declares the link. CURRENT: named after the unordered pair
# of endpoints; `primary` is an attribute. docs/architecture.md, "The record's format".
EARLIER_SCHEMA, CURRENT_SCHEMA = 1, 2
# The kubelet runs a static pod under a UID of its own. It stores that UID in this annotation of the pod's mirror in the
# API (kubernetes.io/docs/reference/labels-annotations-taints).
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"


class Kind(StrEnum):
    """How a link is made: both ends on one node, or on two."""

    VETH = "veth"
    VXLAN = "vxlan"


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
    """Where a link stands; always what its facts derive to (`core.state_machine.derive`)."""

    PENDING = "pending"
    PRIMARY_READY = "primary-ready"
    PAIR_READY = "pair-ready"
    LINKED = "linked"


@dataclass(frozen=True, slots=True)
class PodRef:
    """A pod of the API; `uid` tells it from an earlier pod of the same name.

    `mirror` is the UID of the static pod that a mirror pod stands for; it is empty for every other pod. It is no part
    of the identity: two references with the same UID are equal.
    """

    namespace: str
    name: str
    uid: str
    mirror: str = field(default="", compare=False)

    def is_same_pod(self, other: PodRef) -> bool:
        """Whether both references mean one pod.

        A mirror pod that is created again gets a new UID, and its sandbox stays. The static pod's UID stays too, until
        the static pod's manifest changes; then the kubelet makes a new sandbox.
        """
        if self == other:
            return True
        same_name = (self.namespace, self.name) == (other.namespace, other.name)
        return same_name and self.mirror != "" and self.mirror == other.mirror

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the API shows it, as far as Ratchet looks; `node` is empty until it is scheduled.

    `gates` are the types of the conditions that it needs to be ready besides its containers (`spec.readinessGates`).
    """

    ref: PodRef
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node: str = ""
    phase: str = "Pending"
    deleting: bool = False
    created: datetime | None = None
    gates: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Its containers have ended for good, and its sandbox with them."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Topology:
    """A list of links between a namespace's pods, in a ConfigMap of its users; `text` is the list as they wrote it."""

    namespace: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's sandbox as the runtime made it on a node.

    `container_id` is the runtime's name for it and never comes twice for two sandboxes; `netns` is the path of its
    network namespace on `node`; `vtep` is the address at which other nodes reach this node's tunnels. `cookie` is the
    namespace's identity within one boot (socket(7), SO_NETNS_COOKIE), 0 where it is not known.

    `underlay_mtu` is the MTU of the node's underlay interface in bytes (0: unknown). `vteps` are all addresses at which
    other nodes reach this node's tunnels, at most one of each family, `vtep` first (empty: unknown). Records of
    schema 1 hold neither.
    """

    container_id: str
    pod: PodRef
    node: str
    netns: str
    vtep: str
    cookie: int = 0
    underlay_mtu: int = 0
    vteps: tuple[str, ...] = ()

    def in_schema(self, schema: int) -> Sandbox:
        """The sandbox without the fields that records of this schema do not hold."""
        if schema != EARLIER_SCHEMA or not (self.underlay_mtu or self.vteps):
            return self
        return replace(self, underlay_mtu=0, vteps=())


@dataclass(frozen=True, slots=True)
class Location:
    """Where the interface of an end is on its own node, by that node's journal.

    `netns` is the path of the pod's network namespace, `cookie` its SO_NETNS_COOKIE (0: unknown, any namespace at that
    path is accepted). `index` is the ifindex that is reserved for this end (0: none, the kernel assigns one).
    """

    netns: str
    cookie: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True)
class ReadyFor:
    """What an end was built for: this sandbox of ours, toward that peer, by that generation of the intent.

    `peer` is the peer's VTEP for a VXLAN (`Link.tunnel_addresses`), the peer's container id for a vEth. A value to
    compare and not a flag: when the peer moves, nobody has to reset anything.
    """

    sandbox: str
    peer: str
    generation: int


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """How a link is to be made: as a `tunnel` wherever its ends are, its UDP port `vxlan_port` or, None, the node's."""

    tunnel: bool = False
    vxlan_port: int | None = None


DEFAULT_ENCAPSULATION = Encapsulation()


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link: what is wanted of it, and the facts that its node has written.

    `name` is the name by which others mean the pod (`ratchet.pod_name`). `notes` are labels carried for people.
    """

    name: str
    ifname: str
    addresses: tuple[Address, ...] = ()
    properties: EndpointSpec = UNSET
    notes: Mapping[str, str] = field(default_factory=dict, hash=False)
    sandbox: Sandbox | None = None
    ready: ReadyFor | None = None

    def intends_the_same_as(self, other: End) -> bool:
        """Whether both want the same interface. Addresses are compared as sets; the pod's name is identity."""
        if (self.ifname, self.properties) != (other.ifname, other.properties):
            return False
        return self.addresses == other.addresses or frozenset(self.addresses) == frozenset(other.addresses)


@dataclass(frozen=True, slots=True)
class Transition:
    """A step of a link's state, for people: when (UTC), from, to, and why."""

    at: datetime
    source: State
    target: State
    reason: str


@dataclass(frozen=True, slots=True)
class Link:
    """The record of one link: one ConfigMap.

    `schema` is the format in which the record is stored, and stays for the record's life. `unread` are the lines of its
    history that this version cannot read and keeps as they are. `generation` counts changes of the intent. `vni` stays
    until the record goes, unless the link is renumbered. `refused_vnis` are the numbers that a node of the link cannot
    use, the latest last. `expected_on`: while an end has not joined, the labels of the nodes on which its pod is, or
    was last. Their agents watch the record too, so they have it when the pod starts. `uid` and `resource_version` are
    the API server's, empty while the record is not stored; `created` likewise None.
    """

    name: str
    namespace: str
    primary: End
    pair: End
    encapsulation: Encapsulation = DEFAULT_ENCAPSULATION
    generation: int = 1
    vni: int | None = None
    refused_vnis: tuple[int, ...] = ()
    history: tuple[Transition, ...] = ()
    schema: int = CURRENT_SCHEMA
    unread: tuple[str, ...] = ()
    expected_on: tuple[str, ...] = ()
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
        """The side that this sandbox has joined; None where it has not."""
        if self.holds(Side.PRIMARY, container_id):
            return Side.PRIMARY
        return Side.PAIR if self.holds(Side.PAIR, container_id) else None

    def side_at(self, name: str, ifname: str) -> Side | None:
        """The side of this endpoint; None where the link has no such endpoint."""
        if (self.primary.name, self.primary.ifname) == (name, ifname):
            return Side.PRIMARY
        return Side.PAIR if (self.pair.name, self.pair.ifname) == (name, ifname) else None

    def oriented_as(self, record: Link) -> Link:
        """The same link with the roles that a record of it has: by interface names, by pods' names if these agree."""
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
        """How the link is to be made; None until both ends have joined."""
        primary, pair = self.primary.sandbox, self.pair.sandbox
        if primary is None or pair is None:
            return None
        return Kind.VETH if primary.node == pair.node and not self.encapsulation.tunnel else Kind.VXLAN

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
        if _family(local[0]) == _family(remote[0]):  # nearly always, and asked for often
            return local[0], remote[0]
        ours, theirs = ({_family(address): address for address in reversed(one)} for one in (local, remote))
        return next(((ours[one], theirs[one]) for one in (4, 6) if one in ours and one in theirs), None)

    def due(self, side: Side) -> ReadyFor | None:
        """What this end must stand toward as the record now is.

        None until both ends have joined, and for a tunnel between nodes without a common address family.
        """
        near, far = self.ends_from(side)
        mine, peer = near.sandbox, far.sandbox
        if mine is None or peer is None:
            return None
        if self.kind is Kind.VETH:
            return ReadyFor(mine.container_id, peer.container_id, self.generation)
        addresses = self.tunnel_addresses(side)
        return ReadyFor(mine.container_id, addresses[1], self.generation) if addresses is not None else None

    def intends_the_same_as(self, other: Link) -> bool:
        ends = self.primary.intends_the_same_as(other.primary) and self.pair.intends_the_same_as(other.pair)
        return ends and self.encapsulation == other.encapsulation

    def is_ready(self, side: Side) -> bool:
        ready = self.end(side).ready
        return ready is not None and ready == self.due(side)

    @property
    def observed_generation(self) -> int | None:
        """Of which generation of the intent the link is made; None while not both of its ends are."""
        made = [end.ready.generation for end in (self.primary, self.pair) if end.ready is not None]
        return min(made) if len(made) == 2 else None

    @property
    def abandoned(self) -> bool:
        """Neither end has a sandbox: the record has no reason to be."""
        return self.primary.sandbox is None and self.pair.sandbox is None


def _family(address: str) -> int:
    """The IP version of an address, 4 or 6."""
    return 6 if ":" in address else 4
