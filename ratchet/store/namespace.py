"""The cache of one namespace: its pods and topologies, and the links that they declare."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from ratchet.core.intent import Wanted, meant_name, names_of
from ratchet.core.intent.index import IntentIndex, PodIndex
from ratchet.core.intent.topology_limits import (
    DEFAULT_TOPOLOGY_LIMITS,
    TopologyLimits,
    admit,
    must_be_listed,
    stands_for_others,
)
from ratchet.core.pod import Pod, Topology
from ratchet.store.listwatch import SyncState, vanished
from ratchet.store.pods import PodChange
from ratchet.store.topologies import TopologyChange

log = logging.getLogger(__name__)

# Results of `NamespaceCache.wanted_for` that are kept: more than the pods that start on a node at the same time.
RESULTS_KEPT = 64
# A result depends on the reserved interface names and on both names of the pod: its own and `ratchet.pod_name`.
_ResultKey = tuple[frozenset[str], str, str]


class NamespaceCache:
    """The pods and topologies of one namespace; safe between threads.

    It is the cache of the informer of pods; `topologies_cache` is that of the informer of topologies. `concerned` is
    called with the names of the pods whose links can have changed. Without `with_topologies` there are none. Topologies
    over the `limits` are withheld.
    """

    def __init__(
        self,
        concerned: Callable[[Collection[str]], None] = lambda _: None,
        *,
        with_topologies: bool = False,
        limits: TopologyLimits = DEFAULT_TOPOLOGY_LIMITS,
    ) -> None:
        self.state = SyncState()
        self.topologies_state = SyncState()
        if not with_topologies:
            self.topologies_state.set_synced()
        self._concerned = concerned
        self._limits = limits
        self._lock = threading.Lock()
        self._pods = PodIndex()
        self._topologies: dict[str, Topology] = {}
        # Whether a topology that is not kept was deleted, or the one that stands for those has changed.
        self._others_changed = False
        # By the interface names that belong to the runtime.
        self._intents: dict[frozenset[str], IntentIndex] = {}
        # The latest results of `wanted_for`. Any change of a pod or a topology drops them all.
        self._results: dict[_ResultKey, Wanted] = {}

    # Changes

    def replace(self, pods: Collection[Pod], version: str = "") -> list[PodChange]:  # noqa: ARG002  # `listwatch.Cache`
        """Hold these pods and no others. Returns the deletions, also of a pod whose name another pod has now."""
        with self._lock:
            before = {pod.ref: pod for pod in self._pods.all()}
            gone = vanished(before, {pod.ref: pod for pod in pods})
            concerned = set[str]() if self.state.is_synced else {pod.ref.name for pod in pods}
            for pod in gone:
                concerned |= self._change_pod(pod.ref.name, None)
            for pod in pods:
                concerned |= self._change_pod(pod.ref.name, pod)
        self._concerned(concerned)
        return [PodChange(pod, gone=True) for pod in gone]

    def apply(self, change: PodChange) -> bool:
        """Apply one change of a pod. Returns whether it changed anything that Ratchet reads."""
        name = change.pod.ref.name
        with self._lock:
            if self._pods.get(name) == (None if change.gone else change.pod):
                return False
            concerned = self._change_pod(name, None if change.gone else change.pod)
        self._concerned(concerned)
        return True

    def replace_topologies(self, topologies: Collection[Topology]) -> list[TopologyChange]:
        """Hold these topologies and no others. Returns the deletions."""
        with self._lock:
            self._others_changed = False
            after = {one.name: one for one in topologies}
            gone = vanished(self._topologies, after)
            concerned = set[str]() if self.topologies_state.is_synced else {pod.ref.name for pod in self._pods.all()}
            concerned |= self._hold(topologies)
        self._concerned(concerned)
        return [TopologyChange(one, gone=True) for one in gone]

    def apply_topology(self, change: TopologyChange) -> bool:
        """Apply one change of a topology. Returns whether it changed anything."""
        name = change.topology.name
        with self._lock:
            before = self._topologies.get(name)
            self._note_others(before, gone=change.gone)
            if before == (None if change.gone else change.topology):
                return False
            others = [one for one in self._topologies.values() if one.name != name]
            concerned = self._hold(others if change.gone else [*others, change.topology])
        self._concerned(concerned)
        return True

    def withholds_topologies(self) -> bool:
        """Whether the namespace is over a limit."""
        with self._lock:
            return any(one.withheld and one.withheld.by_namespace for one in self._topologies.values())

    def lacks_topologies(self) -> bool:
        """Whether a topology is withheld that a list may admit (`must_be_listed`)."""
        with self._lock:
            return self._others_changed or must_be_listed(self._topologies.values(), self._limits)

    @property
    def topologies_cache(self) -> TopologyCache:
        return TopologyCache(self)

    # Lookups

    @property
    def is_synced(self) -> bool:
        """Whether both the pods and the topologies are synced."""
        return self.state.is_synced and self.topologies_state.is_synced

    def wanted_for(self, pod: Pod, reserved: frozenset[str]) -> Wanted:
        """The wanted links that concern one pod (`IntentIndex`).

        At a pod start, both the ADD and the reconciliation of the pod need the result. So the latest ones are kept.
        """
        key = (reserved, pod.ref.name, meant_name(pod))
        with self._lock:
            wanted = self._results.get(key)
            if wanted is None:
                if len(self._results) >= RESULTS_KEPT:
                    del self._results[next(iter(self._results))]
                wanted = self._results[key] = self._intents_with(reserved).wanted_for(pod)
            return wanted

    def get(self, name: str) -> Pod | None:
        return self._pods.get(name)

    def called(self, name: str) -> list[Pod]:
        """The pods that have a name: their own name or `ratchet.pod_name`."""
        with self._lock:
            return self._pods.called(name)

    def all(self) -> list[Pod]:
        with self._lock:
            return self._pods.all()

    def topologies(self) -> list[Topology]:
        with self._lock:
            return list(self._topologies.values())

    # With the lock held

    def _intents_with(self, reserved: frozenset[str]) -> IntentIndex:
        intents = self._intents.get(reserved)
        if intents is None:
            intents = self._intents[reserved] = IntentIndex(self._pods, self._topologies.values(), reserved)
        return intents

    def _change_pod(self, name: str, after: Pod | None) -> set[str]:
        self._results.clear()
        before = self._pods.get(name)
        if before is not None and after is not None and _declares_alike(before, after):
            self._pods.put(after)
            return set()
        names = {one for pod in (before, after) if pod is not None for one in names_of(pod)}
        concerned = self._dependents(names)
        if after is not None:
            self._pods.put(after)
        else:
            self._pods.remove(name)
        for intents in self._intents.values():
            intents.pod_changed(name)
        return concerned | self._dependents(names) | {name}

    def _note_others(self, before: Topology | None, *, gone: bool) -> None:
        """Note the change of a topology if it is not kept, or if it stands for those that are not."""
        if before is not None:
            changed = stands_for_others([before])
        else:
            changed = gone and stands_for_others(self._topologies.values())
        self._others_changed = self._others_changed or changed

    def _hold(self, topologies: Iterable[Topology]) -> set[str]:
        """Hold these topologies, as far as they are admitted, and no others. Returns the pods that it concerns."""
        after = {one.name: one for one in admit(topologies, self._limits)}
        changed = [name for name in {**self._topologies, **after} if self._topologies.get(name) != after.get(name)]
        return set[str]().union(*(self._change_topology(name, after.get(name)) for name in changed))

    def _change_topology(self, name: str, after: Topology | None) -> set[str]:
        if (before := self._topologies.get(name)) == after:
            return set()
        self._results.clear()
        concerned = self._drawn_in(name)
        if after is not None:
            self._topologies[name] = after
            if after.fault and (before is None or before.fault != after.fault):
                log.warning('topology without links topology=%s cause="%s"', after, after.fault)
        else:
            self._topologies.pop(name, None)
        for intents in self._intents.values():
            intents.topology_changed(name, after)
        return concerned | self._drawn_in(name)

    def _dependents(self, names: Iterable[str]) -> set[str]:
        return set[str]().union(*(intents.dependents(names) for intents in self._intents.values()))

    def _drawn_in(self, topology: str) -> set[str]:
        """The pods that a topology concerns: all of them if it is malformed."""
        found = set[str]()
        for intents in self._intents.values():
            names = intents.names_drawn(topology)
            if names is None:
                return {pod.ref.name for pod in self._pods.all()}
            found |= intents.dependents(names)
        return found


class TopologyCache:
    """The topologies of a `NamespaceCache`, as the cache of their own informer."""

    def __init__(self, cache: NamespaceCache) -> None:
        self._cache = cache
        self.state = cache.topologies_state

    def replace(self, topologies: Collection[Topology], version: str) -> list[TopologyChange]:  # noqa: ARG002
        return self._cache.replace_topologies(topologies)

    def apply(self, change: TopologyChange) -> bool:
        return self._cache.apply_topology(change)


def _declares_alike(before: Pod, after: Pod) -> bool:
    """Whether a change of a pod does not affect links: of its node, its gates, or its phase while it runs."""
    if (before.deleting, before.finished) != (after.deleting, after.finished):
        return False
    return replace(before, node=after.node, phase=after.phase, gates=after.gates) == after
