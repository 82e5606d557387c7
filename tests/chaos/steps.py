"""The steps of a chaos run, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NODES = ("a", "b", "c")
PODS = ("p0", "p1", "p2", "p3", "p4", "p5")
HOSTILE_PODS = ("mallory-0", "mallory-1")
# Pods that no step disturbs. A new link between them shows that every agent has read the latest topology.
PROBES = ("probe-a", "probe-b", "probe-c")


class Kind(StrEnum):
    """What a step does."""

    START = "start pod"
    STOP = "stop pod"
    RESTART = "restart pod"
    MOVE = "move pod"
    KILL_CALL = "kill ADD"
    DECLARE = "declare link"
    EDIT = "edit link"
    UNDECLARE = "remove link"
    FAULT = "begin fault"
    HEAL = "end fault"
    CLOCK = "step clock"
    LOSE_LEASES = "lose VNI Leases"
    COLLECT = "ratchet gc"
    RESTART_API = "restart API server"
    QUIESCE = "quiesce"


class Ending(StrEnum):
    """The DELs of a sandbox that is replaced or removed."""

    ONCE = "DEL"
    TWICE = "two DELs"
    LATE = "a late DEL"
    NEVER = "no DEL"


class Place(StrEnum):
    """Where a link is declared."""

    LABELS = "labels"
    ANNOTATION = "annotation"
    TOPOLOGY = "topology"


class Family(StrEnum):
    """Faults that exclude each other on one node."""

    AGENT = "agent"
    API = "API"
    NETWORK = "network"
    DISK = "disk"
    TENANT = "tenant"


class Fault(StrEnum):
    """A fault that lasts for a while."""

    KILLED = "agent killed"
    STOPPED = "agent stopped"
    PAUSED = "agent paused"
    FORBIDDEN = "API answers 403"
    BUSY = "API answers 429"
    BROKEN = "API answers 500"
    REPLIES_LOST = "API replies are lost"
    SLOW = "API is slow"
    API_CUT = "API is unreachable"
    UNPLUGGED = "node is cut off"
    SPLIT = "two nodes are cut off from each other"
    READ_ONLY = "state directory is read-only"
    FULL = "state directory is full"
    CROWD = "topology with hundreds of links"
    OVERSIZED = "oversized topology"
    UNREADABLE = "unreadable topology"
    ALIASES = "topology of YAML aliases"

    @property
    def family(self) -> Family:
        return FAMILIES[self]


_AGENT = (Fault.KILLED, Fault.STOPPED, Fault.PAUSED)
_NETWORK = (Fault.UNPLUGGED, Fault.SPLIT)
_DISK = (Fault.READ_ONLY, Fault.FULL)
_TENANT = (Fault.CROWD, Fault.OVERSIZED, Fault.UNREADABLE, Fault.ALIASES)
# The faults that a middleware of the embedded API makes. A real kube-apiserver has none.
API_FAULTS = (Fault.FORBIDDEN, Fault.BUSY, Fault.BROKEN, Fault.REPLIES_LOST, Fault.SLOW, Fault.API_CUT)
FAMILIES: dict[Fault, Family] = {
    **dict.fromkeys(_AGENT, Family.AGENT),
    **dict.fromkeys(API_FAULTS, Family.API),
    **dict.fromkeys(_NETWORK, Family.NETWORK),
    **dict.fromkeys(_DISK, Family.DISK),
    **dict.fromkeys(_TENANT, Family.TENANT),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """An interface that declares a link: its pod, and where. The peer changes."""

    number: int
    pod: str
    place: Place


# A pod declares at most one link by labels.
SLOTS = tuple(
    Slot(number, pod, place)
    for number, (pod, place) in enumerate(
        [(pod, Place.LABELS) for pod in PODS[:3]]
        + [(pod, Place.ANNOTATION) for pod in PODS[1:5]]
        + [(pod, Place.TOPOLOGY) for pod in PODS]
    )
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step. Fields that its kind does not use have their defaults.

    `pause`: seconds until the next step. `seconds`: until a late DEL, of a fault, or by which a clock steps. `peer`: a
    pod, or the second node of a split. `swapped`: the endpoints of the declaration are in reverse order.
    """

    kind: Kind
    pause: float = 0.0
    pod: str = ""
    node: str = ""
    peer: str = ""
    slot: int = -1
    fault: Fault | None = None
    ending: Ending = Ending.ONCE
    seconds: float = 0.0
    swapped: bool = False

    def __str__(self) -> str:
        words: list[str] = [self.kind, self.pod]
        words += [f"slot={self.slot}"] if self.slot >= 0 else []
        words += [f"fault={self.fault!s}"] if self.fault else []
        words += [f"{name}={value}" for name, value in (("node", self.node), ("peer", self.peer)) if value]
        words += [f"ending={self.ending!s}"] if self.kind in (Kind.STOP, Kind.RESTART, Kind.MOVE) else []
        words += [f"seconds={self.seconds:g}"] if self.seconds else []
        return " ".join(word for word in words if word)
