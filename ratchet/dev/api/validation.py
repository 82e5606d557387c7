"""Validation of decoded objects: names, labels, annotations and what each kind demands.

Rules and wording follow k8s.io/apimachinery/pkg/util/validation and k8s.io/kubernetes/pkg/apis/core/validation.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from ratchet.dev.api.kinds import CONFIGMAPS, EVENTS, LEASES, NAMESPACES, PODS, JsonObject, ResourceKind
from ratchet.dev.api.status import FieldError, forbidden_field, invalid, invalid_value, required, too_long

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_NAME_PART = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = f"({_NAME_PART})?"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"

_CONFIGMAP_LIMIT = 1024 * 1024
_ANNOTATIONS_LIMIT = 256 * 1024
_STANDARD_FINALIZERS = {"kubernetes", "orphan", "foregroundDeletion"}


def dns_label_problem(value: str) -> str | None:
    """Why ``value`` is no RFC 1123 label, or None when it is one."""
    if len(value) > 63:
        return "must be no more than 63 characters"
    if not re.fullmatch(_LABEL, value):
        if re.fullmatch(_SUBDOMAIN, value):
            return "must not contain dots"
        return (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start "
            "and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
            f"'{_LABEL}')"
        )
    return None


def dns_subdomain_problem(value: str) -> str | None:
    """Why ``value`` is no RFC 1123 subdomain, or None when it is one."""
    if len(value) > 253:
        return "must be no more than 253 characters"
    if not re.fullmatch(_SUBDOMAIN, value):
        return (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
            f"'{_SUBDOMAIN}')"
        )
    return None


def qualified_name_problem(value: str) -> str | None:
    """Why ``value`` is no label or annotation key (``[prefix/]name``), or None when it is one."""
    prefix, slash, name = value.rpartition("/")
    if slash:
        if not prefix:
            return "prefix part must be non-empty"
        if problem := dns_subdomain_problem(prefix):
            return f"prefix part {problem}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 characters"
    if not re.fullmatch(_NAME_PART, name):
        return (
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            f"'{_NAME_PART}')"
        )
    return None


def label_value_problem(value: str) -> str | None:
    """Why ``value`` is no label value, or None when it is one."""
    if len(value) > 63:
        return "must be no more than 63 characters"
    if not re.fullmatch(_LABEL_VALUE, value):
        return (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
            f"for validation is '{_LABEL_VALUE}')"
        )
    return None


def check_valid(kind: ResourceKind, obj: JsonObject, previous: JsonObject | None = None) -> None:
    """Refuse an object that breaks the rules of its kind, alone or as the successor of ``previous``.

    Raises:
        ApiError: 422 naming every field at fault.
    """
    errors = _metadata_errors(kind, obj["metadata"])
    errors += _KIND_RULES.get(kind, lambda _: [])(obj)
    if previous is not None:
        errors += _transition_errors(kind, obj, previous)
    if errors:
        raise invalid(kind, obj["metadata"].get("name", ""), errors)


def _metadata_errors(kind: ResourceKind, meta: JsonObject) -> list[FieldError]:
    errors = []
    problem_of = dns_label_problem if kind is NAMESPACES else dns_subdomain_problem
    if not meta.get("name"):
        errors.append(required("metadata.name", "name or generateName is required"))
    elif problem := problem_of(meta["name"]):
        errors.append(invalid_value("metadata.name", meta["name"], problem))
    for key, value in meta.get("labels", {}).items():
        if problem := qualified_name_problem(key):
            errors.append(invalid_value("metadata.labels", key, problem))
        if problem := label_value_problem(value):
            errors.append(invalid_value("metadata.labels", value, problem))
    errors += _annotation_errors(meta.get("annotations", {}))
    for index, name in enumerate(meta.get("finalizers", [])):
        if "/" not in name and name not in _STANDARD_FINALIZERS:
            problem = "name is neither a standard finalizer name nor is it fully qualified"
            errors.append(invalid_value(f"metadata.finalizers[{index}]", name, problem))
    for index, owner in enumerate(meta.get("ownerReferences", [])):
        for part in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(part):
                errors.append(invalid_value(f"metadata.ownerReferences[{index}].{part}", "", "must not be empty"))
    return errors


def _annotation_errors(annotations: dict[str, str]) -> list[FieldError]:
    errors = [
        invalid_value("metadata.annotations", key, problem)
        for key in annotations
        if (problem := qualified_name_problem(key.lower()))
    ]
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > _ANNOTATIONS_LIMIT:
        errors.append(too_long("metadata.annotations", _ANNOTATIONS_LIMIT))
    return errors


def _configmap_errors(obj: JsonObject) -> list[FieldError]:
    errors = []
    size = 0
    data, binary = obj.get("data", {}), obj.get("binaryData", {})
    for field, values in (("data", data), ("binaryData", binary)):
        for key, value in values.items():
            size += len(_decoded(value)) if field == "binaryData" else len(value.encode())
            if problem := _config_key_problem(key):
                errors.append(invalid_value(f"{field}[{key}]", key, problem))
    errors.extend(
        invalid_value(f"data[{key}]", key, "duplicate of key present in binaryData")
        for key in sorted(set(data) & set(binary))
    )
    if size > _CONFIGMAP_LIMIT:
        errors.append(too_long("[]", _CONFIGMAP_LIMIT))
    return errors


def _config_key_problem(key: str) -> str | None:
    if len(key) > 253:
        return "must be no more than 253 characters"
    if key in (".", "..") or key.startswith(".."):
        return f"must not be '{key}'" if key in (".", "..") else "must not start with '..'"
    if not re.fullmatch(_CONFIG_KEY, key):
        return (
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
            f"'KEY_NAME',  or 'key-name', regex used for validation is '{_CONFIG_KEY}')"
        )
    return None


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value)
    except binascii.Error:
        return b""


def _lease_errors(obj: JsonObject) -> list[FieldError]:
    errors = []
    spec = obj.get("spec", {})
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if duration is not None and duration <= 0:
        errors.append(invalid_value("spec.leaseDurationSeconds", duration, "must be greater than 0"))
    if transitions is not None and transitions < 0:
        errors.append(invalid_value("spec.leaseTransitions", transitions, "must be greater than or equal to 0"))
    return errors


def _event_errors(obj: JsonObject) -> list[FieldError]:
    namespace = obj["metadata"].get("namespace", "")
    involved = obj.get("involvedObject", {}).get("namespace", "")
    if involved == namespace or (not involved and namespace in ("default", "kube-system")):
        return []
    return [invalid_value("involvedObject.namespace", involved, "does not match event.namespace")]


def _pod_errors(obj: JsonObject) -> list[FieldError]:
    containers: list[JsonObject] = obj.get("spec", {}).get("containers", [])
    if not containers:
        return [required("spec.containers")]
    errors = []
    names: set[str] = set()
    for index, container in enumerate(containers):
        path = f"spec.containers[{index}]"
        name = container.get("name", "")
        if not name:
            errors.append(required(f"{path}.name"))
        elif problem := dns_label_problem(name):
            errors.append(invalid_value(f"{path}.name", name, problem))
        elif name in names:
            errors.append(FieldError("FieldValueDuplicate", f"{path}.name", f'Duplicate value: "{name}"'))
        names.add(name)
        if not container.get("image"):
            errors.append(required(f"{path}.image"))
    return errors


_KIND_RULES: dict[ResourceKind, Any] = {
    CONFIGMAPS: _configmap_errors,
    EVENTS: _event_errors,
    LEASES: _lease_errors,
    PODS: _pod_errors,
}


def _transition_errors(kind: ResourceKind, obj: JsonObject, previous: JsonObject) -> list[FieldError]:
    meta, before = obj["metadata"], previous["metadata"]
    errors = [
        invalid_value(f"metadata.{part}", meta.get(part, ""), "field is immutable")
        for part in ("name", "namespace", "uid")
        if meta.get(part) != before.get(part)
    ]
    if "deletionTimestamp" in before:
        added = sorted(set(meta.get("finalizers", [])) - set(before.get("finalizers", [])))
        if added:
            problem = f"no new finalizers can be added if the object is being deleted, found new finalizers {added}"
            errors.append(forbidden_field("metadata.finalizers", problem))
    if kind is CONFIGMAPS and previous.get("immutable"):
        errors.extend(
            forbidden_field(part, "field is immutable when `immutable` is set")
            for part in ("data", "binaryData", "immutable")
            if obj.get(part) != previous.get(part)
        )
    return errors
