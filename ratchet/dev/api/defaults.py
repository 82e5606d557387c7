"""Fields that the server sets: defaults, and fields that an update keeps from the earlier object."""

from __future__ import annotations

import copy
import secrets
import uuid
from datetime import UTC, datetime
from typing import Any

from ratchet.dev.api.kinds import LEASES, NAMESPACES, PODS, JsonObject, ResourceKind

_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_MAX_GENERATED = 63 - 5
_KEPT_META = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")


def now() -> str:
    """The current time in the format of the API, in whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def generated_name(prefix: str) -> str:
    """A name made of ``prefix`` and five random characters."""
    return prefix[:_MAX_GENERATED] + "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(5))


def prepare_new(kind: ResourceKind, namespace: str, obj: JsonObject) -> JsonObject:
    """A canonical object completed for creation; changes and returns ``obj``."""
    meta = obj["metadata"]
    for name in ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"):
        meta.pop(name, None)
    if kind.namespaced:
        meta["namespace"] = namespace
    if not meta.get("name") and meta.get("generateName"):
        meta["name"] = generated_name(meta["generateName"])
    meta["uid"] = str(uuid.uuid4())
    meta["creationTimestamp"] = now()
    if kind.has_generation:
        meta["generation"] = 1
    if kind is NAMESPACES:
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
    if kind is PODS:
        obj["status"] = {"phase": "Pending", "qosClass": _quality(obj.get("spec", {}))}
    return apply_defaults(kind, obj)


def apply_defaults(kind: ResourceKind, obj: JsonObject) -> JsonObject:
    """A canonical object with the defaults of its kind; changes and returns ``obj``."""
    if kind is NAMESPACES and obj["metadata"].get("name"):
        labels = obj["metadata"].setdefault("labels", {})
        labels["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
    if kind is LEASES:
        obj.setdefault("spec", {})
    if kind.has_status:
        obj.setdefault("spec", {})
        obj.setdefault("status", {})
    if kind is PODS:
        _default_pod(obj["spec"])
    return obj


def prepare_update(kind: ResourceKind, obj: JsonObject, previous: JsonObject, subresource: str) -> JsonObject:
    """A canonical object completed as the successor of ``previous``; changes and returns ``obj``.

    The main resource cannot change status and the status subresource cannot change spec.
    """
    meta, before = obj["metadata"], previous["metadata"]
    for name in _KEPT_META:
        if name in before and (name != "uid" or name not in meta):
            meta[name] = before[name]
        elif name not in before:
            meta.pop(name, None)
    meta.setdefault("resourceVersion", before["resourceVersion"])
    if kind.has_status:
        kept = "spec" if subresource == "status" else "status"
        if kept in previous:
            obj[kept] = copy.deepcopy(previous[kept])
        else:
            obj.pop(kept, None)
    if kind is NAMESPACES:
        obj["spec"] = copy.deepcopy(previous.get("spec", {}))
    apply_defaults(kind, obj)
    if kind.has_generation and obj.get("spec") != previous.get("spec"):
        meta["generation"] = before.get("generation", 0) + 1
    return obj


def bound_pod(pod: JsonObject, node: str) -> JsonObject:
    """A pod as the binding subresource leaves it: on a node, with condition PodScheduled."""
    bound = copy.deepcopy(pod)
    bound["spec"]["nodeName"] = node
    conditions = [item for item in bound["status"].get("conditions", []) if item.get("type") != "PodScheduled"]
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}
    bound["status"]["conditions"] = [*conditions, scheduled]
    bound["metadata"]["generation"] = bound["metadata"].get("generation", 0) + 1
    return bound


def _default_pod(spec: JsonObject) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("enableServiceLinks", True)
    containers: list[Any] = [*spec.get("containers", []), *spec.get("initContainers", [])]
    for container in containers:
        latest = ":" not in str(container.get("image", "")).rpartition("/")[2]
        latest = latest or str(container.get("image", "")).endswith(":latest")
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        for port in container.get("ports", []):
            port.setdefault("protocol", "TCP")


def _quality(spec: JsonObject) -> str:
    resources = [container.get("resources") or {} for container in spec.get("containers", [])]
    if not any(item.get("requests") or item.get("limits") for item in resources):
        return "BestEffort"
    for item in resources:
        limits = item.get("limits", {})
        if set(limits) != {"cpu", "memory"} or item.get("requests", limits) != limits:
            return "Burstable"
    return "Guaranteed"
