"""The links that a namespace declares, read once for each set of reserved interface names, and the latest results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ratchet.core.intent import Wanted, meant_name
from ratchet.core.intent.index import IntentIndex, PodIndex
from ratchet.core.pod import Pod, Topology

# Results of `Intents.wanted_for` that are kept: more than the pods that start on a node at the same time.
RESULTS_KEPT = 64
# Links in all kept results, of some 300 bytes each. The latest result is kept, however large.
LINKS_KEPT = 8192
# A result depends on the reserved interface names and on both names of the pod: its own and `ratchet.pod_name`.
_ResultKey = tuple[frozenset[str], str, str]


class Intents:
    """The indexes of the pods and topologies of a namespace, by the interface names that belong to the runtime.

    Their owner reports each change. Not thread-safe.
    """

    def __init__(self, pods: PodIndex, topologies: Mapping[str, Topology]) -> None:
        self._pods = pods
        self._topologies = topologies
        self._indexes: dict[frozenset[str], IntentIndex] = {}
        # The latest results of `wanted_for`. Any change of a pod or a topology drops them all.
        self._results: dict[_ResultKey, Wanted] = {}
        self._links_kept = 0

    def __len__(self) -> int:
        """The number of indexes. Each of them reads all declarations."""
        return len(self._indexes)

    def has_index(self, reserved: frozenset[str]) -> bool:
        return reserved in self._indexes

    def keep_indexes(self, most: int) -> None:
        """Drop the oldest indexes if there are more than `most`."""
        while len(self._indexes) > most:
            del self._indexes[next(iter(self._indexes))]

    def drop_results(self) -> None:
        self._results.clear()
        self._links_kept = 0

    def wanted_for(self, pod: Pod, reserved: frozenset[str]) -> Wanted:
        """The wanted links that concern one pod (`IntentIndex`).

        At a pod start, both the ADD and the reconciliation of the pod need the result. So the latest ones are kept.
        """
        key = (reserved, pod.ref.name, meant_name(pod))
        wanted = self._results.get(key)
        if wanted is None:
            wanted = self._index_with(reserved).wanted_for(pod)
            self._keep(key, wanted)
        return wanted

    def pod_changed(self, name: str) -> None:
        for index in self._indexes.values():
            index.pod_changed(name)

    def topology_changed(self, name: str, topology: Topology | None) -> None:
        for index in self._indexes.values():
            index.topology_changed(name, topology)

    def dependents(self, names: Iterable[str]) -> set[str]:
        """The names of pods whose links can depend on the pods of these names or on their declarations."""
        return set[str]().union(*(index.dependents(names) for index in self._indexes.values()))

    def drawn_in(self, topology: str) -> set[str]:
        """The pods that a topology concerns: all of them if it is malformed."""
        found = set[str]()
        for index in self._indexes.values():
            names = index.names_drawn(topology)
            if names is None:
                return {pod.ref.name for pod in self._pods.all()}
            found |= index.dependents(names)
        return found

    def _index_with(self, reserved: frozenset[str]) -> IntentIndex:
        index = self._indexes.get(reserved)
        if index is None:
            index = self._indexes[reserved] = IntentIndex(self._pods, self._topologies.values(), reserved)
        return index

    def _keep(self, key: _ResultKey, wanted: Wanted) -> None:
        links = _size(wanted)
        while self._results and (len(self._results) >= RESULTS_KEPT or self._links_kept + links > LINKS_KEPT):
            self._links_kept -= _size(self._results.pop(next(iter(self._results))))
        self._results[key] = wanted
        self._links_kept += links


def _size(wanted: Wanted) -> int:
    return len(wanted.links) + len(wanted.refused)
