"""The types of the fields that this server reads. Decoding rejects values of other types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet.dev.api.kinds import (
    CONFIGMAPS,
    EVENTS,
    KINDS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICEACCOUNTS,
    JsonObject,
    ResourceKind,
)
from ratchet.dev.api.status import ApiError, bad_request


def _each(kind_of_value: str, prefix: str, names: str) -> dict[str, str]:
    return {f"{prefix}{name}": kind_of_value for name in names.split()}


_METADATA = {
    "metadata": "object",
    **_each("string", "metadata.", "name generateName namespace uid resourceVersion"),
    **_each("strings", "metadata.", "labels annotations"),
    **_each("string", "metadata.ownerReferences.", "apiVersion kind name uid"),
}
_CONDITIONS = _each("string", "status.conditions.", "type status reason message")
_CONTAINERS = {
    path: kind_of_value
    for group in ("containers", "initContainers")
    for path, kind_of_value in {
        **_each("string", f"spec.{group}.", "name image imagePullPolicy"),
        **_each("object", f"spec.{group}.", "resources resources.limits resources.requests"),
    }.items()
}
_POD = {
    **_each("object", "", "spec status"),
    **_each("string", "spec.", "nodeName schedulerName restartPolicy serviceAccountName"),
    **_each("boolean", "spec.", "hostNetwork automountServiceAccountToken"),
    "spec.nodeSelector": "strings",
    "spec.terminationGracePeriodSeconds": "integer",
    "spec.tolerations": "objects",
    **_CONTAINERS,
    **_each("string", "status.", "phase reason message podIP nominatedNodeName podIPs.ip"),
    "status.containerStatuses": "objects",
    "status.containerStatuses.ready": "boolean",
    "status.containerStatuses.restartCount": "integer",
    **_each("object", "status.containerStatuses.", "state state.waiting state.terminated state.running"),
    **_each("string", "status.containerStatuses.state.", "waiting.reason terminated.reason"),
    **_CONDITIONS,
}
_NODE = {
    **_each("object", "", "spec status status.nodeInfo"),
    "spec.unschedulable": "boolean",
    "spec.taints": "objects",
    **_each("string", "status.addresses.", "type address"),
    **_each("string", "status.nodeInfo.", "kubeletVersion osImage kernelVersion containerRuntimeVersion"),
    **_CONDITIONS,
}
_EVENT = {
    **_each("object", "", "involvedObject related source series"),
    **_each("string", "", "reason message type action reportingComponent reportingInstance"),
    **_each("string", "involvedObject.", "kind namespace name uid apiVersion resourceVersion fieldPath"),
    **_each("string", "source.", "component host"),
    "count": "integer",
}
_LEASE = {
    "spec": "object",
    **_each("string", "spec.", "holderIdentity strategy preferredHolder"),
    **_each("integer", "spec.", "leaseDurationSeconds leaseTransitions"),
}
_OF_KIND: Mapping[ResourceKind, Mapping[str, str]] = {
    CONFIGMAPS: {"data": "strings", "binaryData": "strings", "immutable": "boolean"},
    EVENTS: _EVENT,
    LEASES: _LEASE,
    NAMESPACES: {**_each("object", "", "spec status"), "spec.finalizers": "list", "status.phase": "string"},
    NODES: _NODE,
    PODS: _POD,
    SERVICEACCOUNTS: {"imagePullSecrets": "objects", "automountServiceAccountToken": "boolean"},
}


def _paths(kind: ResourceKind) -> list[tuple[list[str], str]]:
    merged = {path: "objects" if key else "list" for path, key in kind.merge_keys.items()}
    types = {**_METADATA, **merged, **_OF_KIND[kind]}
    return [(path.split("."), types[path]) for path in sorted(types, key=lambda path: path.count("."))]


_PATHS = {kind: _paths(kind) for kind in KINDS}
_PYTHON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "strings": (dict,),
    "objects": (list,),
    "list": (list,),
}
_ITEM_TYPES: Mapping[str, type] = {"strings": str, "objects": dict, "list": str}
_GO_TYPES = {"integer": "int32", "boolean": "bool", "strings": "map[string]string", "list": "[]string"}


def check_types(kind: ResourceKind, obj: JsonObject) -> None:
    """Refuse an object with a field of the wrong type; nulls are the same as absent fields.

    Raises:
        ApiError: 400 naming the field.
    """
    for path, wanted in _PATHS[kind]:
        for value in _values_at(obj, path):
            if not _is(value, _PYTHON_TYPES[wanted]):
                raise _mismatch(kind, value, path, _GO_TYPES.get(wanted, wanted))
            if wanted in _ITEM_TYPES:
                _check_items(kind, value, path, _ITEM_TYPES[wanted])


def _check_items(kind: ResourceKind, value: Any, path: list[str], wanted: type) -> None:
    for item in value.values() if isinstance(value, dict) else value:
        if not isinstance(item, wanted) and not (item is None and isinstance(value, dict)):
            raise _mismatch(kind, item, path, "string" if wanted is str else "object")


def _values_at(obj: JsonObject, path: list[str]) -> list[Any]:
    """The values at ``path``, in every item of lists on the way, without absent ones and nulls."""
    values: list[Any] = [obj]
    for step in path:
        items = [item for value in values for item in (value if isinstance(value, list) else [value])]
        values = [item[step] for item in items if isinstance(item, dict) and item.get(step) is not None]
    return values


def _is(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _mismatch(kind: ResourceKind, value: Any, path: list[str], wanted: str) -> ApiError:
    struct = "ObjectMeta" if path[0] == "metadata" else kind.kind
    return bad_request(
        f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: json: cannot unmarshal '
        f"{json_type(value)} into Go struct field {struct}.{'.'.join(path)} of type {wanted}"
    )


def json_type(value: Any) -> str:
    """What JSON calls the type of a value."""
    if value is None:
        return "null"
    for python, name in ((bool, "bool"), (dict, "object"), (list, "array"), (str, "string")):
        if isinstance(value, python):
            return name
    return "number"
