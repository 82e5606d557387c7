"""The table of resources the embedded API serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JsonObject = dict[str, Any]

_COLLECTION_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")

_POD_LABELS = {
    "spec.nodeName": ("spec", "nodeName"),
    "spec.restartPolicy": ("spec", "restartPolicy"),
    "spec.schedulerName": ("spec", "schedulerName"),
    "spec.serviceAccountName": ("spec", "serviceAccountName"),
    "spec.hostNetwork": ("spec", "hostNetwork"),
    "status.phase": ("status", "phase"),
    "status.podIP": ("status", "podIP"),
    "status.nominatedNodeName": ("status", "nominatedNodeName"),
}

_EVENT_LABELS = {
    **{
        f"involvedObject.{name}": ("involvedObject", name)
        for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    },
    "reason": ("reason",),
    "reportingComponent": ("reportingComponent",),
    "source": ("source", "component"),
    "type": ("type",),
}

_CONTAINER_KEYS = {"ports": "containerPort", "env": "name", "volumeMounts": "mountPath", "volumeDevices": "devicePath"}

# Merge keys as the `patchMergeKey` tags of k8s.io/api give them; "" marks a merged list of plain values.
# Lists missing here (tolerations, taints, containerStatuses...) are atomic: a patch replaces them.
_META_MERGE = {"metadata.ownerReferences": "uid", "metadata.finalizers": ""}
_POD_MERGE = {
    **_META_MERGE,
    "spec.volumes": "name",
    "spec.imagePullSecrets": "name",
    "spec.hostAliases": "ip",
    "spec.topologySpreadConstraints": "topologyKey",
    "spec.schedulingGates": "name",
    "spec.resourceClaims": "name",
    "status.conditions": "type",
    "status.podIPs": "ip",
    "status.hostIPs": "ip",
    **{f"spec.{group}": "name" for group in ("containers", "initContainers", "ephemeralContainers")},
    **{
        f"spec.{group}.{name}": key
        for group in ("containers", "initContainers", "ephemeralContainers")
        for name, key in _CONTAINER_KEYS.items()
    },
}
_NODE_MERGE = {**_META_MERGE, "spec.podCIDRs": "", "status.conditions": "type", "status.addresses": "type"}


@dataclass(frozen=True, eq=False)
class ResourceKind:
    """One resource: its names, its scope and the ways in which it differs from the others.

    ``fields`` are the known top-level fields besides apiVersion, kind and metadata; ``field_labels`` maps
    selectable field names to paths; ``merge_keys`` maps dotted list paths to their strategic-merge key.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    fields: frozenset[str]
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = _COLLECTION_VERBS
    has_status: bool = False
    field_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    merge_keys: Mapping[str, str] = field(default_factory=lambda: _META_MERGE)
    unconditional_update: bool = True
    create_on_update: bool = False
    has_generation: bool = False
    returns_deleted: bool = False

    @property
    def api_version(self) -> str:
        """Group and version as objects carry them, such as "v1" or "coordination.k8s.io/v1"."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """The resource with its group, as error messages name it, such as "leases.coordination.k8s.io"."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """The kind with its group, as validation messages name it, such as "Lease.coordination.k8s.io"."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def singular(self) -> str:
        """The name of one such object in discovery."""
        return self.kind.lower()

    def field_path(self, label: str) -> tuple[str, ...] | None:
        """Path of the field a field selector names, or None when it is not selectable."""
        if label == "metadata.name" or (label == "metadata.namespace" and self.namespaced):
            return tuple(label.split("."))
        return self.field_labels.get(label)


NAMESPACES = ResourceKind(
    "", "v1", "namespaces", "Namespace", False, frozenset({"spec", "status"}),
    short_names=("ns",),
    verbs=tuple(verb for verb in _COLLECTION_VERBS if verb != "deletecollection"),
    has_status=True,
    field_labels={"status.phase": ("status", "phase")},
    merge_keys={**_META_MERGE, "status.conditions": "type"},
)  # fmt: skip
NODES = ResourceKind(
    "", "v1", "nodes", "Node", False, frozenset({"spec", "status"}),
    short_names=("no",),
    has_status=True,
    field_labels={"spec.unschedulable": ("spec", "unschedulable")},
    merge_keys=_NODE_MERGE,
)  # fmt: skip
PODS = ResourceKind(
    "", "v1", "pods", "Pod", True, frozenset({"spec", "status"}),
    short_names=("po",),
    categories=("all",),
    has_status=True,
    field_labels=_POD_LABELS,
    merge_keys=_POD_MERGE,
    has_generation=True,
    returns_deleted=True,
)  # fmt: skip
CONFIGMAPS = ResourceKind(
    "", "v1", "configmaps", "ConfigMap", True, frozenset({"data", "binaryData", "immutable"}),
    short_names=("cm",),
)  # fmt: skip
SERVICEACCOUNTS = ResourceKind(
    "", "v1", "serviceaccounts", "ServiceAccount", True,
    frozenset({"secrets", "imagePullSecrets", "automountServiceAccountToken"}),
    short_names=("sa",),
    merge_keys={**_META_MERGE, "secrets": "name"},
    unconditional_update=False,
    returns_deleted=True,
)  # fmt: skip
EVENTS = ResourceKind(
    "", "v1", "events", "Event", True,
    frozenset({
        "involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "type",
        "eventTime", "series", "action", "related", "reportingComponent", "reportingInstance",
    }),
    short_names=("ev",),
    field_labels=_EVENT_LABELS,
    create_on_update=True,
)  # fmt: skip
LEASES = ResourceKind(
    "coordination.k8s.io", "v1", "leases", "Lease", True, frozenset({"spec"}),
    unconditional_update=False,
)  # fmt: skip

KINDS: tuple[ResourceKind, ...] = (CONFIGMAPS, EVENTS, NAMESPACES, NODES, PODS, SERVICEACCOUNTS, LEASES)
"""Every resource served."""

_BY_PATH = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}


def find_kind(group: str, version: str, plural: str) -> ResourceKind | None:
    """The resource at ``/apis/<group>/<version>/<plural>`` (group "" is ``/api``), or None."""
    return _BY_PATH.get((group, version, plural))


def groups() -> list[tuple[str, str]]:
    """The (group, version) pairs served, the core group first."""
    return sorted({(kind.group, kind.version) for kind in KINDS})
