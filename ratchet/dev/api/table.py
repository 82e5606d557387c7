"""Tables: the columns kubectl prints ("Kubernetes API concepts: Receiving resources as Tables").

Columns follow k8s.io/kubernetes/pkg/printers/internalversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from ratchet.dev.api.kinds import (
    CONFIGMAPS,
    EVENTS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICEACCOUNTS,
    JsonObject,
    ResourceKind,
)

_NONE = "<none>"
_UNKNOWN = "<unknown>"
_ROLE_PREFIX = "node-role.kubernetes.io/"


def table(
    kind: ResourceKind, objects: Iterable[JsonObject], meta: JsonObject, include: str = "", *, headings: bool = True
) -> JsonObject:
    """Objects as a ``Table``.

    Args:
        meta: the list metadata.
        include: what each row carries of its object: Metadata ("" means that), Object or None.
        headings: whether to send the column definitions; a watch sends them once.
    """
    columns, cells = _TABLES[kind]
    result: JsonObject = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta}
    result["columnDefinitions"] = [_definition(column) for column in columns] if headings else []
    result["rows"] = [_row(obj, cells(obj), include) for obj in objects]
    return result


def partial_metadata(obj: JsonObject) -> JsonObject:
    """The object reduced to its metadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _row(obj: JsonObject, cells: list[Any], include: str) -> JsonObject:
    row: JsonObject = {"cells": cells}
    if include == "Object":
        row["object"] = obj
    elif include != "None":
        row["object"] = partial_metadata(obj)
    return row


def _definition(column: str) -> JsonObject:
    """A column of type string; a leading "+" marks one that only wide output shows, "#" a number."""
    wide = column.startswith("+")
    name = column.lstrip("+#")
    return {
        "name": name,
        "type": "integer" if "#" in column else "string",
        "format": "name" if name == "Name" else "",
        "description": f"{name} of the object.",
        "priority": 1 if wide else 0,
    }


def age(timestamp: str | None, now: datetime | None = None) -> str:
    """Time since an API timestamp in kubectl's short form, such as "5s", "3m20s", "4d1h", "<unknown>"."""
    if not timestamp:
        return _UNKNOWN
    moment = datetime.fromisoformat(timestamp)
    seconds = int(((now or datetime.now(UTC)) - moment).total_seconds())
    return _duration(max(seconds, 0))


def _duration(seconds: int) -> str:
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    return f"{days // 365}y{days % 365}d"


def _created(obj: JsonObject) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def _pod_cells(pod: JsonObject) -> list[Any]:
    spec, status = pod.get("spec", {}), pod.get("status", {})
    states = status.get("containerStatuses", [])
    ready = sum(1 for state in states if state.get("ready"))
    restarts = sum(state.get("restartCount", 0) for state in states)
    addresses = status.get("podIPs") or [{"ip": status.get("podIP")}]
    return [
        pod["metadata"]["name"],
        f"{ready}/{len(spec.get('containers', []))}",
        _pod_reason(pod, states),
        str(restarts),
        _created(pod),
        addresses[0].get("ip") or _NONE,
        spec.get("nodeName") or _NONE,
        status.get("nominatedNodeName") or _NONE,
        _NONE,
    ]


def _pod_reason(pod: JsonObject, states: list[JsonObject]) -> str:
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    for state in reversed(states):
        for phase in ("waiting", "terminated"):
            reason = state.get("state", {}).get(phase, {}).get("reason")
            if reason:
                return str(reason)
    status = pod.get("status", {})
    return str(status.get("reason") or status.get("phase", ""))


def _node_cells(node: JsonObject) -> list[Any]:
    status = node.get("status", {})
    info = status.get("nodeInfo", {})
    labels = node["metadata"].get("labels", {})
    roles = sorted(key[len(_ROLE_PREFIX) :] for key in labels if key.startswith(_ROLE_PREFIX))
    return [
        node["metadata"]["name"],
        _node_status(node),
        ",".join(roles) or _NONE,
        _created(node),
        info.get("kubeletVersion", ""),
        _node_address(status, "InternalIP"),
        _node_address(status, "ExternalIP"),
        info.get("osImage") or _UNKNOWN,
        info.get("kernelVersion") or _UNKNOWN,
        info.get("containerRuntimeVersion") or _UNKNOWN,
    ]


def _node_status(node: JsonObject) -> str:
    ready = [item for item in node.get("status", {}).get("conditions", []) if item.get("type") == "Ready"]
    words = ["Unknown"] if not ready else ["Ready" if ready[0].get("status") == "True" else "NotReady"]
    if node.get("spec", {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _node_address(status: JsonObject, kind: str) -> str:
    found = (item.get("address", "") for item in status.get("addresses", []) if item.get("type") == kind)
    return str(next(found, _NONE))


def _event_cells(event: JsonObject) -> list[Any]:
    involved, source = event.get("involvedObject", {}), event.get("source", {})
    first = event.get("firstTimestamp") or event.get("eventTime")
    last = event.get("series", {}).get("lastObservedTime") or event.get("lastTimestamp") or first
    return [
        age(last),
        event.get("type", ""),
        event.get("reason", ""),
        f"{involved.get('kind', '').lower()}/{involved.get('name', '')}",
        involved.get("fieldPath", ""),
        ", ".join(filter(None, [source.get("component") or event.get("reportingComponent"), source.get("host")])),
        str(event.get("message", "")).strip(),
        age(first),
        event.get("count") or 1,
        event["metadata"]["name"],
    ]


def _configmap_cells(configmap: JsonObject) -> list[Any]:
    entries = len(configmap.get("data", {})) + len(configmap.get("binaryData", {}))
    return [configmap["metadata"]["name"], entries, _created(configmap)]


def _namespace_cells(namespace: JsonObject) -> list[Any]:
    return [namespace["metadata"]["name"], namespace.get("status", {}).get("phase", ""), _created(namespace)]


def _lease_cells(lease: JsonObject) -> list[Any]:
    return [lease["metadata"]["name"], lease.get("spec", {}).get("holderIdentity", ""), _created(lease)]


def _account_cells(account: JsonObject) -> list[Any]:
    return [account["metadata"]["name"], len(account.get("secrets", [])), _created(account)]


_TABLES: dict[ResourceKind, tuple[list[str], Callable[[JsonObject], list[Any]]]] = {
    PODS: (
        [
            "Name", "Ready", "Status", "Restarts", "Age",
            "+IP", "+Node", "+Nominated Node", "+Readiness Gates",
        ],
        _pod_cells,
    ),
    NODES: (
        [
            "Name", "Status", "Roles", "Age", "Version",
            "+Internal-IP", "+External-IP", "+OS-Image", "+Kernel-Version", "+Container-Runtime",
        ],
        _node_cells,
    ),
    EVENTS: (
        [
            "Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message", "+First Seen", "+#Count",
            "+Name",
        ],
        _event_cells,
    ),
    CONFIGMAPS: (["Name", "#Data", "Age"], _configmap_cells),
    NAMESPACES: (["Name", "Status", "Age"], _namespace_cells),
    LEASES: (["Name", "Holder", "Age"], _lease_cells),
    SERVICEACCOUNTS: (["Name", "#Secrets", "Age"], _account_cells),
}  # fmt: skip
