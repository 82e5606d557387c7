"""Decode request bodies into objects: parsing, kind checks, types, unknown fields, canonical form.

kube-apiserver decodes into typed structures. This module has the same visible effects: wrong types are 400, unknown
fields are dropped (or rejected with fieldValidation=Strict), nulls and empty maps are removed, times become UTC.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import yaml

from ratchet.dev.api.fieldtypes import check_types, json_type
from ratchet.dev.api.kinds import CONFIGMAPS, JsonObject, ResourceKind
from ratchet.dev.api.protobuf import MEDIA_TYPE, decode_protobuf
from ratchet.dev.api.status import bad_request, unsupported_media

_META_FIELDS = frozenset({
    "name", "generateName", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp",
    "deletionTimestamp", "deletionGracePeriodSeconds", "labels", "annotations", "ownerReferences", "finalizers",
    "managedFields", "selfLink",
})  # fmt: skip
_UNSTORED_META = {"managedFields", "selfLink"}
_BODY_TYPES = ("application/json", "application/yaml", MEDIA_TYPE)
_TIMES = frozenset({
    "creationTimestamp", "deletionTimestamp", "lastTransitionTime", "lastProbeTime", "lastHeartbeatTime", "startTime",
    "startedAt", "finishedAt", "firstTimestamp", "lastTimestamp", "timeAdded",
})  # fmt: skip
_MICRO_TIMES = frozenset({"acquireTime", "renewTime", "eventTime", "lastObservedTime"})
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_RFC3339_MICRO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")


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
            f"json parse error: json: cannot unmarshal {json_type(obj)} into Go value"
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
    check_types(kind, obj)
    unknown = _unknown_fields(kind, obj)
    if unknown and field_validation == "Strict":
        raise bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
            f"strict decoding error: {', '.join(unknown)}"
        )
    result = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": _metadata(kind, obj.get("metadata") or {})}
    for key in kind.fields:
        if obj.get(key) is not None:
            result[key] = _without_nulls(obj[key])
    if kind is CONFIGMAPS:
        result = {key: value for key, value in result.items() if value != {} or key == "metadata"}
    else:
        result.update({key: _with_times(kind, result[key], key) for key in kind.fields if key in result})
    return result, [] if field_validation == "Ignore" else unknown


def _unknown_fields(kind: ResourceKind, obj: JsonObject) -> list[str]:
    known = {"apiVersion", "kind", "metadata"} | kind.fields
    unknown = [f'unknown field "{key}"' for key in obj if key not in known]
    return unknown + [f'unknown field "metadata.{key}"' for key in obj.get("metadata") or {} if key not in _META_FIELDS]


def _metadata(kind: ResourceKind, given: JsonObject) -> JsonObject:
    known = {key: value for key, value in given.items() if key in _META_FIELDS - _UNSTORED_META}
    meta = {key: value for key, value in _without_nulls(known).items() if value not in ({}, "")}
    for key in ("creationTimestamp", "deletionTimestamp"):
        if key in meta:
            meta[key] = _time(kind, meta[key], micro=False)
    return meta


def _with_times(kind: ResourceKind, value: Any, name: str = "") -> Any:
    """The value of field ``name`` with every known time inside in canonical form."""
    if name in _TIMES or name in _MICRO_TIMES:
        return _time(kind, value, micro=name in _MICRO_TIMES)
    if isinstance(value, dict):
        return {key: _with_times(kind, item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_times(kind, item) for item in value]
    return value


def _time(kind: ResourceKind, value: Any, *, micro: bool) -> str:
    """A time in UTC: micro times have six digits of fraction and are refused without, others have none."""
    layout = "2006-01-02T15:04:05.000000Z07:00" if micro else "2006-01-02T15:04:05Z07:00"
    problem = bad_request(
        f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: parsing time '
        f'"{value}" as "{layout}": cannot parse "{value}"'
    )
    if not isinstance(value, str) or not (_RFC3339_MICRO if micro else _RFC3339).fullmatch(value):
        raise problem
    try:
        moment = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError) as cause:
        raise problem from cause
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None and item != []}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
