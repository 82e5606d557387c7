"""The conditions of a chaos run: pure functions of a snapshot, which return what does not hold.

`always` holds at every moment, `eventually` after a quiet period without faults. Source: docs/faults.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from ratchet.core.kinds import LOCAL_KINDS, Kind, Wiring
from ratchet.core.model import Link, State
from ratchet.core.state_machine import derive
from tests.support.link_spec import LinkSpec, ends_of_record
from tests.support.record_history import duplicate_interfaces

# Seconds for which both pods of a link have had no calls. Until then an agent may be at work on the link.
CALM_SECONDS = 20.0
# Seconds without an answered ping. An agent may be at work on hundreds of links before it raises a carrier.
LOST_SECONDS = 20.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Device:
    """An interface of a pod. `peer_index`: the ifindex of a vEth's other end; `remote`: the VTEP of the other node."""

    kind: str
    index: int
    peer_index: int = 0
    vni: int = 0
    remote: str = ""


@dataclass(frozen=True, slots=True)
class PodState:
    """The current sandbox of a pod whose last ADD succeeded.

    `calm`: seconds since its last call ended. `devices`: by interface name; None if they could not be read.
    """

    name: str
    container_id: str
    calm: float
    devices: Mapping[str, Device] | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an agent process uses: resident bytes, threads, and open descriptors."""

    memory: int = 0
    threads: int = 0
    descriptors: int = 0

    def peak(self, other: Usage) -> Usage:
        return Usage(
            max(self.memory, other.memory),
            max(self.threads, other.threads),
            max(self.descriptors, other.descriptors),
        )

    def __str__(self) -> str:
        return f"{self.memory / MIB:.0f} MiB, {self.threads} threads, {self.descriptors} descriptors"


# At least twice the peak of runs with two hundred links on a node (51 MiB, 57, 68): finds a leak, not a load.
BOUND = Usage(150 * MIB, 120, 200)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was observed at one moment.

    `records`: those that did not change while the devices were read. `pods`: running pods by name. `cut_nodes`:
    nodes whose network is cut, or was mended within CALM_SECONDS. `leases_lost`: whether VNI Leases were lost since the
    last quiet point, so that tunnels may be renumbered. `exited`: nodes whose agent ended without a signal of the run.
    `usages`: by node.
    """

    records: Mapping[str, Link] = field(default_factory=dict)
    pods: Mapping[str, PodState] = field(default_factory=dict)
    cut_nodes: Collection[str] = ()
    leases_lost: bool = False
    exited: Collection[str] = ()
    usages: Mapping[str, Usage] = field(default_factory=dict)


def always(snapshot: Snapshot) -> list[str]:
    """The violations of what holds at every moment."""
    return list(
        chain(
            duplicate_interfaces(snapshot.records.values()),
            _duplicate_vnis(snapshot),
            *(_misled(record, *pods) for record, pods in calm_links(snapshot)),
            (f"the agent of {node} exited by itself" for node in snapshot.exited),
            _exceeded(snapshot.usages),
        )
    )


def calm_links(snapshot: Snapshot) -> list[tuple[Link, tuple[PodState, PodState]]]:
    """The linked records whose pods both run undisturbed, with these pods: the primary's first."""
    by_container = {pod.container_id: pod for pod in snapshot.pods.values() if pod.calm >= CALM_SECONDS}
    found = []
    for record in snapshot.records.values():
        pods = [by_container.get(end.sandbox.container_id) for end in ends_of_record(record) if end.sandbox]
        match pods:
            case [PodState() as primary, PodState() as pair] if _is_calm(record, snapshot):
                found.append((record, (primary, pair)))
    return found


def eventually(snapshot: Snapshot, specs: Collection[LinkSpec]) -> list[str]:
    """What does not hold yet after a quiet period. `specs`: all declared links."""
    left = dict(snapshot.records)
    problems: list[str] = []
    for spec in specs:
        own = [left.pop(name) for name, record in list(left.items()) if spec.matches_record(record)]
        problems += _problems_of_link(spec, own, snapshot.pods)
    problems += [f"record {name} belongs to no declared link" for name in left]
    return problems + list(_undeclared_devices(snapshot, specs)) + list(_lost_sandboxes(snapshot))


def still_held(records: Iterable[Link], deleted: Collection[str]) -> list[str]:
    """Sandboxes in records although their DEL has succeeded."""
    return [
        f"{record.name} holds sandbox {end.sandbox.container_id[:6]} of {end.name}, whose DEL succeeded"
        for record in records
        for end in ends_of_record(record)
        if end.sandbox is not None and end.sandbox.container_id in deleted
    ]


def unanswered(
    before: Mapping[tuple[str, ...], float], answers: Mapping[tuple[str, ...], bool], now: float
) -> dict[tuple[str, ...], float]:
    """The time of each link since which no ping was answered. A link that was not pinged now starts again."""
    return {link: now if answered else before.get(link, now) for link, answered in answers.items()}


def _is_calm(record: Link, snapshot: Snapshot) -> bool:
    """Whether a record is linked, and nothing disturbs its devices. On one node they need no network and no VNI."""
    if derive(record) is not State.LINKED:
        return False
    nodes = {end.sandbox.node for end in ends_of_record(record) if end.sandbox}
    return record.kind in LOCAL_KINDS or not (snapshot.leases_lost or nodes & set(snapshot.cut_nodes))


def _duplicate_vnis(snapshot: Snapshot) -> Iterator[str]:
    """VNIs that two links of a node have. While Leases are lost, links are renumbered."""
    if snapshot.leases_lost:
        return
    numbers = Counter(
        (node, record.vni)
        for record in snapshot.records.values()
        if record.vni is not None
        for node in {end.sandbox.node for end in ends_of_record(record) if end.sandbox}
    )
    yield from (f"VNI {vni} has {times} links on node {node}" for (node, vni), times in numbers.items() if times > 1)


def _misled(record: Link, primary: PodState, pair: PodState) -> Iterator[str]:
    """Why the devices of a linked record do not lead to each other."""
    devices = []
    for end, pod in zip(ends_of_record(record), (primary, pair), strict=True):
        if pod.devices is None:
            return
        if (device := pod.devices.get(end.ifname)) is None:
            yield f"{record.name} is linked, and {end.ifname} of {pod.name} does not exist"
        elif device.kind != (record.kind if record.wiring is Wiring.DIRECT else Kind.VETH):
            yield f"{record.name} is a {record.kind}, and {end.ifname} of {pod.name} is a {device.kind}"
        else:
            devices.append(device)
    if len(devices) == 2 and record.wiring is Wiring.DIRECT:  # where a cable leads is for pings to find
        yield from _apart(record, devices[0], devices[1])


def _apart(record: Link, one: Device, other: Device) -> Iterator[str]:
    if record.kind is Kind.VETH:
        if (one.peer_index, other.peer_index) != (other.index, one.index):
            yield f"{record.name} is linked, and its vEth ends do not lead to each other"
        return
    if {one.vni, other.vni} != {record.vni}:
        yield f"{record.name} has VNI {record.vni}, and its devices have {one.vni} and {other.vni}"
    remotes = [end.sandbox.vtep for end in (record.pair, record.primary) if end.sandbox]
    if [one.remote, other.remote] != remotes:
        yield f"{record.name} is linked, and its tunnels lead to {one.remote} and {other.remote}"


def _exceeded(usages: Mapping[str, Usage]) -> Iterator[str]:
    for node, usage in usages.items():
        if usage.peak(BOUND) != BOUND:
            yield f"the agent of {node} uses {usage}; the bound is {BOUND}"


def _problems_of_link(spec: LinkSpec, own: list[Link], pods: Mapping[str, PodState]) -> list[str]:
    """What keeps a declared link from being up, if both its pods run."""
    ends = [pods.get(pod) for pod, _ in spec.endpoints]
    if len(own) > 1:
        return [f"{spec} has {len(own)} records"]
    if None in ends:
        return []
    if not own:
        return [f"{spec} has no record"]
    held = [end.sandbox.container_id if end.sandbox else "" for end in (spec.end_in(own[0], at) for at in (0, 1))]
    if held != [end.container_id for end in ends if end]:
        return [f"{spec} does not hold the current sandboxes of its pods"]
    if derive(own[0]) is not State.LINKED:
        return [f"{spec} is {derive(own[0])}"]
    primary, pair = (next(one for one in pods.values() if one.name == end.name) for end in ends_of_record(own[0]))
    return list(_misled(own[0], primary, pair))


def _undeclared_devices(snapshot: Snapshot, specs: Collection[LinkSpec]) -> Iterator[str]:
    declared = {endpoint for spec in specs for endpoint in spec.endpoints}
    for pod in snapshot.pods.values():
        for ifname in pod.devices or ():
            if (pod.name, ifname) not in declared:
                yield f"{ifname} of {pod.name} belongs to no declared link"


def _lost_sandboxes(snapshot: Snapshot) -> Iterator[str]:
    """Sandboxes in records that no pod has."""
    current = {pod.container_id for pod in snapshot.pods.values()}
    for record in snapshot.records.values():
        for end in ends_of_record(record):
            if end.sandbox and end.sandbox.container_id not in current:
                yield f"{record.name} holds sandbox {end.sandbox.container_id[:6]} of {end.name}, which is gone"
