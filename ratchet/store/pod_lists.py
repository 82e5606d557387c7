"""The lists of links in the annotations of a namespace's pods: their sizes, by the pods' names."""

from __future__ import annotations

from collections.abc import Iterable

from ratchet.core.intent.annotation_limits import NO_USAGE, Usage, usage_of
from ratchet.core.pod import Pod


class PodLists:
    """The usage of each list, and of all. Not thread-safe.

    `need` is the most memory of those within the limits of the namespace, `withheld` whether one of a kept pod is
    withheld because of others.
    """

    def __init__(self) -> None:
        self.total = NO_USAGE
        self.need = 0
        self.withheld = False
        self._usages: dict[str, Usage] = {}

    def put(self, name: str, pod: Pod | None) -> None:
        """Note a pod after its change; None if it is gone."""
        own = NO_USAGE if pod is None else usage_of(pod)
        self.total = self.total + own - self._usages.pop(name, NO_USAGE)
        if own != NO_USAGE:
            self._usages[name] = own

    def replace(self, pods: Iterable[Pod]) -> None:
        """Note these pods and no others."""
        self.total, self._usages = NO_USAGE, {}
        for pod in pods:
            self.put(pod.ref.name, pod)
