"""From request bodies to objects: parsing, kind checks, types, unknown fields, canonical form.

The real server decodes into typed structures; this module does what shows of that: wrong types are 400,
unknown fields are dropped (or refused with fieldValidation=Strict), nulls and empty maps vanish, and
micro-second times come out in UTC.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import yaml

from ratchet.dev.api.kinds import CONFIGMAPS, EVENTS, LEASES, JsonObject, ResourceKind
from ratchet.dev.api.protobuf import MEDIA_TYPE, decode_protobuf
from ratchet.dev.api.status import ApiError, bad_request, unsupported_media

_META_FIELDS = frozenset({
    "name", "generateName", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp",
    "deletionTimestamp", "deletionGracePeriodSeconds", "labels", "annotations", "ownerReferences", "finalizers",
    "managedFields", "selfLink",
})  # fmt: skip
_BODY_TYPES = ("application/json", "application/yaml", MEDIA_TYPE)
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")


class _PlainLoader(yaml.SafeLoader):
    """YAML with the types of JSON: timestamps stay strings."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"invalid constant {text}")


def parse_body(body: bytes, content_type: str) -> Any:
    """The value in a body of type application/json (also the default), application/yaml or protobuf.

    Raises:
        ApiError: 415 for another type, 400 when it does not parse.
    """
    media = content_type.partition(";")[0].strip().lower() or "application/json"
    if media not in _BODY_TYPES:
        raise unsupported_media(_BODY_TYPES)
    if media == "application/json":
        return parse_json(body)
    if media == MEDIA_TYPE:
        return decode_protobuf(body)
    try:
        return yaml.load(body, Loader=_PlainLoader)  # noqa: S506 - derives from SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise bad_request(f"error converting YAML to JSON: {cause}") from cause


def parse_json(body: bytes) -> Any:
    """The JSON value in ``body``; ApiError 400 when it does not parse."""
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as cause:
        raise bad_request(
            f"couldn't get version/kind; json parse error: {cause} ({body[:30].hex()} [truncated])"
        ) from cause


def check_kind(kind: ResourceKind, obj: Any) -> JsonObject:
    """The value as an object of ``kind``; apiVersion and kind may be left out.

    Raises:
        ApiError: 400 when it is no object or of another kind or version.
    """
    if not isinstance(obj, dict):
        raise bad_request(
            f"the object provided is unrecognized (must be of type {kind.kind}): couldn't get version/kind; "
            f"json parse error: json: cannot unmarshal {_json_type(obj)} into Go value"
        )
    given_version = obj.get("apiVersion") or kind.api_version
    given_kind = obj.get("kind") or kind.kind
    if given_version != kind.api_version:
        raise bad_request(
            f"the API version in the data ({given_version}) does not match the expected API version "
            f"({kind.api_version})"
        )
    if given_kind != kind.kind:
        raise bad_request(
            f'{given_kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
            f"converting (v1.{given_kind}) to (core.{kind.kind}): unknown conversion"
        )
    return obj


def canonical(kind: ResourceKind, obj: JsonObject, field_validation: str = "") -> tuple[JsonObject, list[str]]:
    """The object as the server would store it, and warnings about fields it does not know.

    Args:
        field_validation: "Strict" refuses unknown fields, "Ignore" drops them silently, else they are warned of.

    Raises:
        ApiError: 400 for fields of the wrong type, or unknown ones when strict.
    """
    if not isinstance(obj.get("metadata") or {}, dict):
        raise _mismatch(kind, obj["metadata"], f"{kind.kind}.metadata", "v1.ObjectMeta")
    known = {"apiVersion", "kind", "metadata"} | kind.fields
    unknown = [f'unknown field "{key}"' for key in obj if key not in known]
    unknown += [f'unknown field "metadata.{key}"' for key in obj.get("metadata") or {} if key not in _META_FIELDS]
    if unknown and field_validation == "Strict":
        raise bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
            f"strict decoding error: {', '.join(unknown)}"
        )
    result: JsonObject = {"kind": kind.kind, "apiVersion": kind.api_version}
    meta = {key: value for key, value in (obj.get("metadata") or {}).items() if key in _META_FIELDS}
    _check_metadata(kind, meta)
    result["metadata"] = _without_empty(_without_nulls(meta))
    for key in kind.fields:
        if obj.get(key) is not None:
            result[key] = _without_nulls(obj[key])
    _check_fields(kind, result)
    return result, [] if field_validation == "Ignore" else unknown


def _check_metadata(kind: ResourceKind, meta: JsonObject) -> None:
    for unwanted in ("managedFields", "selfLink"):
        meta.pop(unwanted, None)
    for key in ("name", "generateName", "namespace", "uid", "resourceVersion"):
        if not isinstance(meta.get(key), str | None):
            raise _mismatch(kind, meta[key], f"ObjectMeta.metadata.{key}", "string")
    for key in ("labels", "annotations"):
        _check_strings(kind, meta.get(key), f"ObjectMeta.metadata.{key}")
    if not isinstance(finalizers := meta.get("finalizers") or [], list):
        raise _mismatch(kind, finalizers, "ObjectMeta.metadata.finalizers", "[]string")
    for finalizer in finalizers:
        if not isinstance(finalizer, str):
            raise _mismatch(kind, finalizer, "ObjectMeta.metadata.finalizers", "string")
    if not isinstance(owners := meta.get("ownerReferences") or [], list):
        raise _mismatch(kind, owners, "ObjectMeta.metadata.ownerReferences", "[]v1.OwnerReference")
    for owner in owners:
        if not isinstance(owner, dict):
            raise _mismatch(kind, owner, "ObjectMeta.metadata.ownerReferences", "v1.OwnerReference")


def _check_fields(kind: ResourceKind, obj: JsonObject) -> None:
    for key in ("spec", "status", "involvedObject", "source"):
        if key in obj and not isinstance(obj[key], dict):
            raise _mismatch(kind, obj[key], f"{kind.kind}.{key}", f"v1.{kind.kind}{key.capitalize()}")
    if kind is CONFIGMAPS:
        _check_configmap(obj)
    elif kind is LEASES:
        _check_lease(obj)
    elif kind is EVENTS and "eventTime" in obj:
        obj["eventTime"] = _micro_time(kind, obj["eventTime"])
    _check_lists(kind, obj)


def _check_configmap(obj: JsonObject) -> None:
    for key in ("data", "binaryData"):
        _check_strings(CONFIGMAPS, obj.get(key), f"ConfigMap.{key}")
        if obj.get(key) == {}:
            del obj[key]
    if not isinstance(obj.get("immutable", False), bool):
        raise _mismatch(CONFIGMAPS, obj["immutable"], "ConfigMap.immutable", "bool")


def _check_lease(obj: JsonObject) -> None:
    spec = obj.setdefault("spec", {})
    if not isinstance(spec.get("holderIdentity", ""), str):
        raise _mismatch(LEASES, spec["holderIdentity"], "LeaseSpec.spec.holderIdentity", "string")
    for key in ("leaseDurationSeconds", "leaseTransitions"):
        if not isinstance(spec.get(key, 0), int) or isinstance(spec.get(key), bool):
            raise _mismatch(LEASES, spec[key], f"LeaseSpec.spec.{key}", "int32")
    for key in ("acquireTime", "renewTime"):
        if key in spec:
            spec[key] = _micro_time(LEASES, spec[key])


def _check_lists(kind: ResourceKind, obj: JsonObject) -> None:
    """Lists of objects must be that, or merging and validation would stumble over them."""
    for path in kind.merge_keys:
        for holder, key in _holders(obj, path.split(".")):
            value = holder.get(key)
            if value is None:
                continue
            if not isinstance(value, list):
                raise _mismatch(kind, value, f"{kind.kind}.{path}", "[]v1." + key.capitalize())
            for item in value:
                if kind.merge_keys[path] and not isinstance(item, dict):
                    raise _mismatch(kind, item, f"{kind.kind}.{path}", "v1." + key.capitalize())


def _holders(obj: JsonObject, path: list[str]) -> list[tuple[JsonObject, str]]:
    """The maps that hold the last step of ``path``, looking into every item of lists on the way."""
    holders: list[Any] = [obj]
    for step in path[:-1]:
        values = [holder.get(step) for holder in holders if isinstance(holder, dict)]
        holders = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [(holder, path[-1]) for holder in holders if isinstance(holder, dict)]


def _check_strings(kind: ResourceKind, value: Any, path: str) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise _mismatch(kind, value, path, "map[string]string")
    for item in value.values():
        if not isinstance(item, str | None):
            raise _mismatch(kind, item, path, "string")


def _micro_time(kind: ResourceKind, value: Any) -> str:
    if not isinstance(value, str) or not _MICRO_TIME.fullmatch(value):
        raise bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: parsing time '
            f'"{value}" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "{value}"'
        )
    try:
        moment = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError) as cause:
        raise bad_request(f'parsing time "{value}": {cause}') from cause
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _mismatch(kind: ResourceKind, value: Any, path: str, wanted: str) -> ApiError:
    return bad_request(
        f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: json: cannot unmarshal '
        f"{_json_type(value)} into Go struct field {path} of type {wanted}"
    )


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if value is None:
        return "null"
    for python, name in ((dict, "object"), (list, "array"), (str, "string")):
        if isinstance(value, python):
            return name
    return "number"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None and item != []}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _without_empty(meta: JsonObject) -> JsonObject:
    return {key: value for key, value in meta.items() if value not in ({}, "", [])}
