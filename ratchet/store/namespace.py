"""The cache of one namespace: its pods and topologies, and the links that they declare."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import replace

from ratchet.core.intent import Wanted, annotation_limits, names_of, topology_limits
from ratchet.core.intent.index import PodIndex
from ratchet.core.intent.topology_limits import stands_for_others
from ratchet.core.limits import DEFAULT_ANNOTATION_LIMITS, DEFAULT_TOPOLOGY_LIMITS, AnnotationLimits, TopologyLimits
from ratchet.core.pod import Pod, Topology
from ratchet.store.declaration_budget import BudgetShare, DeclarationBudget
from ratchet.store.intents import Intents
from ratchet.store.listwatch import SyncState, vanished
from ratchet.store.pod_lists import PodLists
from ratchet.store.pods import PodChange
from ratchet.store.topologies import TopologyChange

log = logging.getLogger(__name__)


class NamespaceCache:
    """The pods and topologies of one namespace; safe between threads.

    It is the cache of the informer of pods; `TopologyCache` is that of the informer of topologies. `concerned` is
    called with the names of the pods whose links can have changed. Without `with_topologies` there are none.

    Topologies and annotations are withheld if they are over the `limits` and `annotation_limits`, or over the
    namespace's share of the `budget` (None: there is none).
    """

    def __init__(
        self,
        concerned: Callable[[Collection[str]], None] = lambda _: None,
        *,
        with_topologies: bool = False,
        limits: TopologyLimits = DEFAULT_TOPOLOGY_LIMITS,
        annotation_limits: AnnotationLimits = DEFAULT_ANNOTATION_LIMITS,
        budget: DeclarationBudget | None = None,
    ) -> None:
        self.state = SyncState()
        self.topologies_state = SyncState()
        if not with_topologies:
            self.topologies_state.set_synced()
        self._concerned = concerned
        self._limits = limits
        self._annotation_limits = annotation_limits
        self._lock = threading.Lock()
        self._pods = PodIndex()
        self._lists = PodLists()
        self._topologies: dict[str, Topology] = {}
        # Bytes of memory of the topologies that the limits admit, and of those that are admitted.
        self._topology_need = self._topology_use = 0
        # Whether a topology that is not kept was deleted, or the one that stands for those has changed.
        self._others_changed = False
        self._intents = Intents(self._pods, self._topologies)
        self._share = BudgetShare(budget, self)

    # Changes

    def replace(self, pods: Collection[Pod], version: str = "") -> list[PodChange]:  # noqa: ARG002  # `listwatch.Cache`
        """Hold these pods and no others. Returns the deletions, also of a pod whose name another pod has now."""
        with self._lock:
            before = {pod.ref: pod for pod in self._pods.all()}
            gone = vanished(before, {pod.ref: pod for pod in pods})
            concerned = set[str]() if self.state.is_synced else {pod.ref.name for pod in pods}
            for pod in gone:
                concerned |= self._change_pod(pod.ref.name, None)
            self._intents.drop_results()
            self._lists.replace(pods)
            concerned |= self._hold_pods(pods)
        self._report(concerned)
        return [PodChange(pod, gone=True) for pod in gone]

    def apply(self, change: PodChange) -> bool:
        """Apply one change of a pod. Returns whether it changed anything that Ratchet reads."""
        name, after = change.pod.ref.name, None if change.gone else change.pod
        with self._lock:
            before = self._pods.get(name)
            if before == after:
                return False
            concerned = self._put_pod(name, after)
            changed = bool(concerned) or before != self._pods.get(name)
        self._report(concerned)
        return changed

    def replace_topologies(self, topologies: Collection[Topology]) -> list[TopologyChange]:
        """Hold these topologies and no others. Returns the deletions."""
        with self._lock:
            self._others_changed = False
            after = {one.name: one for one in topologies}
            gone = vanished(self._topologies, after)
            concerned = set[str]() if self.topologies_state.is_synced else {pod.ref.name for pod in self._pods.all()}
            concerned |= self._hold(topologies)
        self._report(concerned)
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
        self._report(concerned)
        return True

    def readmit(self) -> None:
        """Withhold what is over the namespace's share of the budget now."""
        with self._lock:
            concerned = self._hold(list(self._topologies.values()))
        self._report(concerned)

    def close(self) -> None:
        """Give the share of the budget back. The cache is not used any more."""
        self._share.close()

    def withholds_topologies(self) -> bool:
        """Whether the namespace is over a limit."""
        with self._lock:
            return any(one.withheld and one.withheld.by_namespace for one in self._topologies.values())

    def lacks_topologies(self) -> bool:
        """Whether a topology is withheld that a list may admit."""
        with self._lock:
            limits = replace(self._limits, memory=self._share.of_each(len(self._intents)))
            return self._others_changed or topology_limits.must_be_listed(self._topologies.values(), limits)

    def withholds_lists(self) -> bool:
        """Whether the annotation of a pod is withheld because of those of others."""
        return self._lists.withheld

    def lacks_lists(self) -> bool:
        """Whether the annotation of a pod is withheld that a list of the pods may admit."""
        with self._lock:
            memory = self._share.of_each(len(self._intents)) - self._topology_use
            limits = replace(self._annotation_limits, memory=memory)
            return self._lists.withheld and annotation_limits.must_list_pods(self._pods.all(), limits)

    # Lookups

    @property
    def is_synced(self) -> bool:
        """Whether both the pods and the topologies are synced."""
        return self.state.is_synced and self.topologies_state.is_synced

    def wanted_for(self, pod: Pod, reserved: frozenset[str]) -> Wanted:
        """The wanted links that concern one pod (`Intents.wanted_for`)."""
        with self._lock:
            grows = not self._intents.has_index(reserved)
            if grows:
                self._intents.keep_indexes(self._share.indexes(self._need(), len(self._intents) + 1) - 1)
            wanted = self._intents.wanted_for(pod, reserved)
        if grows:
            self._share.settle()
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

    def _report(self, concerned: Collection[str]) -> None:
        self._share.settle()
        self._concerned(concerned)

    # With the lock held

    def _need(self) -> int:
        return self._topology_need + self._lists.need

    def _claim(self) -> int:
        """Claim the memory that one index needs, and return the namespace's share for it."""
        indexes = self._share.indexes(self._need(), max(1, len(self._intents)))
        self._intents.keep_indexes(indexes)
        return self._share.of_each(indexes)

    def _put_pod(self, name: str, after: Pod | None) -> set[str]:
        """Hold a pod after its change; None if it is gone."""
        self._lists.put(name, after)
        if after is None:
            return self._change_pod(name, None)
        if not self._lists.withheld and self._lists.total.size <= self._annotation_limits.size:
            self._lists.need = self._lists.total.memory
            if self._lists.need <= self._claim() - self._topology_use:
                return self._change_pod(name, after)
        return self._hold_pods([*(pod for pod in self._pods.all() if pod.ref.name != name), after])

    def _hold_pods(self, pods: Collection[Pod]) -> set[str]:
        """Hold all these pods, with their lists as far as they are admitted. Returns the pods that it concerns."""
        self._lists.need = annotation_limits.needed_memory(pods, self._annotation_limits)
        memory = self._claim() - self._topology_use
        admitted = annotation_limits.admit_lists(pods, replace(self._annotation_limits, memory=memory))
        self._lists.withheld = any(pod.withheld is not None and pod.withheld.size for pod in admitted)
        changed = [pod for pod in admitted if pod != self._pods.get(pod.ref.name)]
        return set[str]().union(*(self._change_pod(pod.ref.name, pod) for pod in changed))

    def _change_pod(self, name: str, after: Pod | None) -> set[str]:
        self._intents.drop_results()
        before = self._pods.get(name)
        if (
            before is not None
            and after is not None
            and _declares_alike(before, after)
            and not self._has_namesake(after)
        ):
            self._pods.put(after)
            return set()
        names = {one for pod in (before, after) if pod is not None for one in names_of(pod)}
        concerned = self._intents.dependents(names)
        if after is not None:
            self._pods.put(after)
        else:
            self._pods.remove(name)
        self._intents.pod_changed(name)
        return concerned | self._intents.dependents(names) | {name}

    def _has_namesake(self, pod: Pod) -> bool:
        """Whether another pod shares a name. Their states can decide which of them has it."""
        return any(len(self._pods.called(name)) > 1 for name in names_of(pod))

    def _note_others(self, before: Topology | None, *, gone: bool) -> None:
        """Note the change of a topology if it is not kept, or if it stands for those that are not."""
        if before is not None:
            changed = stands_for_others([before])
        else:
            changed = gone and stands_for_others(self._topologies.values())
        self._others_changed = self._others_changed or changed

    def _hold(self, topologies: Collection[Topology]) -> set[str]:
        """Hold these topologies, as far as they are admitted, and no others. Returns the pods that it concerns."""
        self._topology_need = topology_limits.needed_memory(topologies, self._limits)
        share = self._claim()
        limits = replace(self._limits, memory=share)
        after = {one.name: one for one in topology_limits.admit(topologies, limits)}
        self._topology_use = sum(topology_limits.memory_used(one) for one in after.values())
        changed = [name for name in {**self._topologies, **after} if self._topologies.get(name) != after.get(name)]
        concerned = set[str]().union(*(self._change_topology(name, after.get(name)) for name in changed))
        if self._lists.withheld or self._lists.need > share - self._topology_use:
            concerned |= self._hold_pods(self._pods.all())
        return concerned

    def _change_topology(self, name: str, after: Topology | None) -> set[str]:
        if (before := self._topologies.get(name)) == after:
            return set()
        self._intents.drop_results()
        concerned = self._intents.drawn_in(name)
        if after is not None:
            self._topologies[name] = after
            if after.fault and (before is None or before.fault != after.fault):
                log.warning('topology without links topology=%s cause="%s"', after, after.fault)
        else:
            self._topologies.pop(name, None)
        self._intents.topology_changed(name, after)
        return concerned | self._intents.drawn_in(name)


def _declares_alike(before: Pod, after: Pod) -> bool:
    """Whether a change of a pod without namesake does not affect links: of its node, gates, or state while it runs."""
    if (before.deleting, before.finished) != (after.deleting, after.finished):
        return False
    states = replace(before, node=after.node, phase=after.phase, gates=after.gates, networked=after.networked)
    return states == after
