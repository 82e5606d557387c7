"""Limits on the annotations `ratchet.links` of a namespace: they bound the memory that pods take on every node.

A list over a limit is withheld: its text is dropped, and its pod counts as one whose declaration is invalid. The pod
does not start, and no link of it or to it is removed. As with topologies (`topology_limits`), the oldest are admitted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from zlib import crc32

from ratchet.core.declared_memory import in_mib
from ratchet.core.intent.pods import LINKS, seniority
from ratchet.core.intent.yaml_source import SIZE_MOST
from ratchet.core.limits import AnnotationLimits
from ratchet.core.pod import Pod, WithheldLinks


@dataclass(frozen=True, slots=True)
class Usage:
    """The bytes of text of a pod's list of links, or of several, and the most memory that they take when read."""

    size: int = 0
    memory: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.size + other.size, self.memory + other.memory)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.size - other.size, self.memory - other.memory)

    def is_within(self, limits: AnnotationLimits) -> bool:
        return self.size <= limits.size and self.memory <= limits.memory


NO_USAGE = Usage()


def usage_of(pod: Pod) -> Usage:
    """The usage of a pod's list, also if it is withheld. A list that is too long itself uses nothing."""
    if pod.withheld is not None:
        return Usage(pod.withheld.size, pod.withheld.memory)
    text = pod.annotations.get(LINKS)
    return Usage(_size(text), pod.list_memory) if text else NO_USAGE


def with_bounded_links(pod: Pod) -> Pod:
    """The pod, with its list withheld if it is too long for a list of links."""
    text = pod.annotations.get(LINKS, "")
    if len(text) <= SIZE_MOST:
        return pod
    cause = f"longer than {SIZE_MOST} bytes"
    return _withhold(pod, WithheldLinks(cause, f"shorten the annotation {LINKS} of pod {pod.ref}", 0, 0, _digest(text)))


def admit_lists(pods: Iterable[Pod], limits: AnnotationLimits) -> list[Pod]:
    """The pods, the oldest first. Lists over a limit are withheld."""
    admitted, total = list[Pod](), NO_USAGE
    for pod in sorted(pods, key=seniority):
        own = usage_of(pod)
        total += own
        admitted.append(pod if own == NO_USAGE or total.is_within(limits) else _over(pod, own, total, limits))
    return admitted


def needed_memory(pods: Iterable[Pod], limits: AnnotationLimits) -> int:
    """The memory of the lists that the limit on bytes admits."""
    total = NO_USAGE
    for pod in sorted(pods, key=seniority):
        grown = total + usage_of(pod)
        if grown.size > limits.size:
            break
        total = grown
    return total.memory


def must_list_pods(pods: Iterable[Pod], limits: AnnotationLimits) -> bool:
    """Whether a list of the pods may admit a list of links that is withheld here."""
    total = NO_USAGE
    for pod in sorted(pods, key=seniority):
        total += usage_of(pod)
        if not total.is_within(limits):
            return False
        if pod.withheld is not None and pod.withheld.size:
            return True
    return False


class ListAdmission:
    """The pods of a list, whose annotations are admitted while it is read: few texts are in memory at a time."""

    def __init__(self, limits: AnnotationLimits) -> None:
        self._limits = limits
        self._pods: list[Pod] = []
        self._new = 0

    def add(self, pod: Pod) -> None:
        self._pods.append(pod)
        self._new += usage_of(pod).size if pod.withheld is None else 0
        if self._new > self._limits.size:
            self._pods, self._new = self.admitted(), 0

    def admitted(self) -> list[Pod]:
        """The pods so far, as by `admit_lists`."""
        return admit_lists(self._pods, self._limits)


def _over(pod: Pod, own: Usage, total: Usage, limits: AnnotationLimits) -> Pod:
    if total.size > limits.size:
        cause = (
            f"over the limit of {limits.size} bytes in the annotations {LINKS} of a namespace "
            f"(annotation_bytes_per_namespace); this one has {own.size} bytes"
        )
        remedy = (
            "shorten the annotations of older pods of the namespace, or set annotation_bytes_per_namespace on all nodes"
        )
    else:
        cause = (
            "over the namespace's share of this node's memory for declarations (declaration_memory); this one "
            f"takes up to {in_mib(own.memory)}"
        )
        remedy = "declare fewer links in the namespace, or have an administrator raise declaration_memory"
    digest = pod.withheld.text_digest if pod.withheld is not None else _digest(pod.annotations[LINKS])
    return _withhold(pod, WithheldLinks(cause, remedy, own.size, own.memory, digest))


def declares_alike(kept: Pod, read: Pod) -> bool:
    """Whether a kept pod is the one that was read, with the same declarations. Its list of links may be withheld."""
    if (kept.ref, kept.labels) != (read.ref, read.labels):
        return False
    if kept.annotations == read.annotations and kept.withheld == read.withheld:
        return True
    return _list_digest(kept) == _list_digest(read) and _without_list(kept) == _without_list(read)


def _list_digest(pod: Pod) -> int | None:
    if pod.withheld is not None:
        return pod.withheld.text_digest
    text = pod.annotations.get(LINKS)
    return _digest(text) if text is not None else None


def _without_list(pod: Pod) -> dict[str, str]:
    return {key: value for key, value in pod.annotations.items() if key != LINKS}


def _withhold(pod: Pod, withheld: WithheldLinks) -> Pod:
    return replace(pod, annotations=_without_list(pod), withheld=withheld)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def _digest(text: str) -> int:
    return crc32(text.encode(errors="replace"))
