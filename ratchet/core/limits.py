"""Limits on the links of one pod and of one namespace, and on the declarations of a namespace."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet.core.declared_memory import UNLIMITED
from ratchet.core.pod import PodRef
from ratchet.errors import InvalidIntentError

LINKS_PER_POD = 1024
# 64 lists of the greatest length. A thousand namespaces at this limit use all VNIs.
LINKS_PER_NAMESPACE = 16_384
# The memory of an agent for the declarations of all namespaces. The manifests' limit is 256 MiB.
DECLARATION_MEMORY_MIB = 48


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """The greatest number of links of one pod, and of one namespace."""

    per_pod: int = LINKS_PER_POD
    per_namespace: int = LINKS_PER_NAMESPACE

    def violation(self, pod: PodRef, links: int, namespace_links: int) -> InvalidIntentError | None:
        """Why a pod must not get its links; None if it may.

        `links` is the number of the pod's links, `namespace_links` the number that its namespace declares. A pod
        without links violates nothing.
        """
        if links > self.per_pod:
            return InvalidIntentError(
                f"cannot link pod {pod}: it has {links} links, more than links_per_pod, {self.per_pod}",
                details="declare fewer links for the pod, or have an administrator raise links_per_pod on all nodes",
            )
        if links and namespace_links > self.per_namespace:
            return InvalidIntentError(
                f"cannot link pod {pod}: namespace {pod.namespace} declares {namespace_links} links, "
                f"more than links_per_namespace, {self.per_namespace}",
                details="declare fewer links in the namespace, or have an administrator raise links_per_namespace on "
                "all nodes",
            )
        return None


DEFAULT_LIMITS = LinkLimits()


@dataclass(frozen=True, slots=True)
class TopologyLimits:
    """The most topologies of a namespace, the most links and bytes in all of them, and the most memory on a node."""

    topologies: int = 64
    links: int = 4096
    size: int = 512 * 1024
    memory: int = UNLIMITED


DEFAULT_TOPOLOGY_LIMITS = TopologyLimits()


@dataclass(frozen=True, slots=True)
class AnnotationLimits:
    """The most bytes in all annotations `ratchet.links` of a namespace, and the most memory for them on a node."""

    size: int = 1 << 20
    memory: int = UNLIMITED


DEFAULT_ANNOTATION_LIMITS = AnnotationLimits()
