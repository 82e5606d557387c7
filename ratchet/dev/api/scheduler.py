"""A scheduler for demonstrations: pods go to the matching node with the fewest pods."""

from __future__ import annotations

from ratchet.dev.api.kinds import NODES, PODS, JsonObject, ResourceKind
from ratchet.dev.api.registry import Registry
from ratchet.dev.api.storage import Change, key_of

_NAME = "default-scheduler"


class Scheduler:
    """Binds every pod that asks for the default scheduler, as soon as a node matches its nodeSelector.

    Only nodeSelector and ``spec.unschedulable`` count: no resources, taints, affinity or readiness.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.stop = registry.storage.listen(self._on_change)

    def _on_change(self, kind: ResourceKind, change: Change) -> None:
        if kind is PODS and change.type == "ADDED":
            self._place(change.object)
        elif kind is NODES and change.type != "DELETED":
            for pod in self._registry.storage.list(PODS)[0]:
                self._place(pod)

    def _place(self, pod: JsonObject) -> None:
        spec = pod["spec"]
        if spec.get("nodeName") or spec.get("schedulerName") != _NAME or "deletionTimestamp" in pod["metadata"]:
            return
        candidates = [node for node in self._registry.storage.list(NODES)[0] if _accepts(node, spec)]
        if not candidates:
            return
        counts = self._pod_counts()
        chosen = min(candidates, key=lambda node: (counts.get(node["metadata"]["name"], 0), key_of(node)))
        self._registry.bind(*key_of(pod), chosen["metadata"]["name"])

    def _pod_counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for pod in self._registry.storage.list(PODS)[0]:
            node = pod["spec"].get("nodeName", "")
            counts[node] = counts.get(node, 0) + 1
        return counts


def _accepts(node: JsonObject, spec: JsonObject) -> bool:
    labels = node["metadata"].get("labels", {})
    wanted = spec.get("nodeSelector", {})
    return not node["spec"].get("unschedulable") and all(labels.get(key) == wanted[key] for key in wanted)
