"""Objects of the Kubernetes API that declare links: pods and topologies, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ratchet.core.declared_memory import memory_of

LINKS = "ratchet.links"  # the annotation with a pod's list of links
# The kubelet runs a static pod under a UID of its own. It stores that UID in this annotation of the pod's mirror in the
# API (kubernetes.io/docs/reference/labels-annotations-taints).
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"


@dataclass(frozen=True, slots=True)
class PodRef:
    """A reference to a pod of the API. `uid` distinguishes it from an earlier pod of the same name.

    `mirror` is the UID of the static pod that a mirror pod represents; it is empty for every other pod. It is no part
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
class WithheldLinks:
    """Why a pod's annotation with links is not kept, and what is kept of it.

    `remedy` says what to do. `size` and `memory` are the bytes of the text, and of it once read. Both are 0 if it is
    too long by itself. `text_digest` tells whether the text has changed.
    """

    cause: str
    remedy: str
    size: int
    memory: int
    text_digest: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the API, with the fields that Ratchet reads. `node` is empty until the pod is scheduled.

    `gates` are the types of its readiness gates (`spec.readinessGates`). `host_network`: it has no network namespace of
    its own, so the runtime calls no CNI plugin for it. `networked` is when its sandbox got its network (condition
    PodReadyToStartContainers); None if it has none, or if the kubelet does not report it. A pod whose list of links is
    `withheld` has an invalid declaration, and its annotation is left out. `list_memory` are the most bytes that the
    list takes once read.
    """

    ref: PodRef
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node: str = ""
    phase: str = "Pending"
    deleting: bool = False
    created: datetime | None = None
    gates: tuple[str, ...] = ()
    host_network: bool = False
    networked: datetime | None = None
    withheld: WithheldLinks | None = None
    list_memory: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        text = self.annotations.get(LINKS)
        memory = self.withheld.memory if self.withheld is not None else memory_of(text) if text else 0
        object.__setattr__(self, "list_memory", memory)

    @property
    def finished(self) -> bool:
        """Whether its containers have ended for good, and its sandbox with them."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Withheld:
    """Why the text of a topology is not kept, and what is kept of it.

    `remedy` says what to do. `names` is a Bloom filter of the names that the text may spell
    (`core/intent/topology_limits`). `size` are the bytes and `links` the links of the text, `memory` the bytes that it
    takes once read. `text_digest` tells whether the text has changed. `by_namespace`: the namespace is over a limit,
    and not the topology alone. `stands_for_others`: it counts for younger ones too, which are not kept.
    """

    cause: str
    remedy: str
    names: bytes
    size: int
    links: int
    memory: int
    text_digest: int
    by_namespace: bool
    stands_for_others: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    """A user's ConfigMap with a list of links between pods. `text` is the list as written.

    A topology that is `withheld` is refused, and its text is empty. `fault`: why it has no list; `text` is then all
    that it has, in which names are looked up. `memory` are the most bytes that it takes once read.
    """

    namespace: str
    name: str
    text: str
    created: datetime | None = None
    withheld: Withheld | None = None
    fault: str = ""
    memory: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", self.withheld.memory if self.withheld else memory_of(self.text))

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
