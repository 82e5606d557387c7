"""Objects of the Kubernetes API that declare links: pods and topologies, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

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
class Pod:
    """A pod of the API, with the fields that Ratchet reads. `node` is empty until the pod is scheduled.

    `gates` are the types of its readiness gates (`spec.readinessGates`).
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
        """Whether its containers have ended for good, and its sandbox with them."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Topology:
    """A user's ConfigMap with a list of links between pods. `text` is the list as written."""

    namespace: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
