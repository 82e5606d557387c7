"""Limits on the number of links of a pod, a namespace and a node, and on the declarations of a namespace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ratchet.core.declared_memory import UNLIMITED
from ratchet.core.pod import PodRef
from ratchet.errors import InvalidIntentError

LINKS_PER_POD = 1024
# 64 lists of the greatest length. A thousand namespaces at this limit use all VNIs.
LINKS_PER_NAMESPACE = 16_384
# Bounds an agent's memory for records: that of one takes up to LINK_MEMORY. The manifests' limit is 256 MiB.
LINKS_PER_NODE = 4096
# Bytes: a record with 16 addresses, 64 routes and 64 sysctls at both ends and the longest names, and as large a
# declaration of an earlier generation in the journal.
LINK_MEMORY = 28 << 10
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


def node_violation(pod: PodRef, most: int, held: Mapping[str, int], new: int) -> InvalidIntentError | None:
    """Why a pod must not get so many `new` links on a node that may have `most`; None if it may.

    `held` is the number of the node's links by namespace. No link is ever removed for another one. So a namespace may
    have three quarters of what the others leave: some are left for each, and the namespaces with the most are refused
    first.
    """
    own, others = held.get(pod.namespace, 0), sum(held.values()) - held.get(pod.namespace, 0)
    share = max(0, -(-3 * (most - others) // 4))
    if own + new <= share:
        return None
    return InvalidIntentError(
        f"cannot link pod {pod}: namespace {pod.namespace} has {own} links on this node and the pod needs {new} more, "
        f"but its share of links_per_node, {most}, is {share}",
        details="delete pods of the namespace with links on this node, run the pod on another node, or have an "
        "administrator raise links_per_node and the memory limit of the agent",
    )
