"""The pods that an object creates: how many, with which names, and their template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ratchet.cli.documents import Value
from ratchet.cli.yaml_nodes import Kind

# Pods of a workload that are checked. A cluster has at most 110 pods on each of 5000 nodes, and rarely so many of one.
PODS_MOST = 5000
# In the place of the random part of a name. No pod's name has upper case, so no declaration can mean such a pod.
GENERATED = "HASH"

_IN_SPEC = ("spec", "template")
_TEMPLATES = {
    "Deployment": _IN_SPEC,
    "StatefulSet": _IN_SPEC,
    "DaemonSet": _IN_SPEC,
    "ReplicaSet": _IN_SPEC,
    "ReplicationController": _IN_SPEC,
    "Job": _IN_SPEC,
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
KINDS = frozenset({"Pod", "ConfigMap", *_TEMPLATES})


@dataclass(frozen=True, slots=True)
class Workload:
    """The pods of a workload. `template` is the pod template.

    `names` are their names; None if the names are generated. `wanted` is the number that the manifest asks for, `count`
    the number of pods that are checked.
    """

    template: Value
    wanted: int
    names: Sequence[str] | None = None

    @property
    def count(self) -> int:
        return min(self.wanted, PODS_MOST)


def workload_of(kind: str, document: Value, name: str) -> Workload | None:
    """The pods of an object with a pod template; None for other objects. Raises ManifestError.

    An object of an unknown kind has one if its template has labels or annotations of Ratchet.
    """
    path = _TEMPLATES.get(kind)
    if path is None:
        return _of_unknown_kind(document)
    template = document
    for key in path:
        template = template[key]
    owner = _owner_spec(document, path)
    if kind in ("Job", "CronJob"):
        parallel = owner["parallelism"].whole_number(1)
        return Workload(template, min(parallel, owner["completions"].whole_number(parallel)))
    if kind == "DaemonSet":
        return Workload(template, 1)
    workload = Workload(template, owner["replicas"].whole_number(1))
    if kind != "StatefulSet":
        return workload
    start = owner["ordinals"]["start"].whole_number(0)
    names = [f"{name}-{ordinal}" for ordinal in range(start, start + workload.count)]
    return Workload(template, workload.wanted, names)


def _owner_spec(document: Value, path: Sequence[str]) -> Value:
    """The spec that has the template."""
    for key in path[:-1]:
        document = document[key]
    return document


def _of_unknown_kind(document: Value) -> Workload | None:
    fields = document.fields()
    spec = fields.get("spec")
    template = spec["template"] if spec is not None and spec.kind is Kind.MAPPING else None
    if template is None or not _mentions_ratchet(template):
        return None
    replicas = document["spec"]["replicas"]
    return Workload(template, replicas.whole_number(1) if replicas.kind is Kind.NUMBER else 1)


def _mentions_ratchet(template: Value) -> bool:
    if template.kind is not Kind.MAPPING or (metadata := template["metadata"]).kind is not Kind.MAPPING:
        return False
    settings = (metadata["labels"], metadata["annotations"])
    keys = [key for one in settings if one.kind is Kind.MAPPING for key in one.fields()]
    return any(key == "ratchet" or key.startswith("ratchet.") for key in keys)
