"""Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386), strategic merge patch.

Strategic merge patch follows "Kubernetes community: Strategic Merge Patch" and
k8s.io/apimachinery/pkg/util/strategicpatch. Every function returns a new value and leaves its arguments alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import jsonpatch

from ratchet.dev.api.kinds import JsonObject, ResourceKind
from ratchet.dev.api.status import ApiError, bad_request, unsupported_media

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

_ACCEPTED = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)
_ORDER = "$setElementOrder/"
_DELETE_PLAIN = "$deleteFromPrimitiveList/"


def check_patch_type(media: str) -> None:
    """Refuse a content type that names no supported patch: ApiError 415."""
    if media.startswith("application/apply-patch+"):
        raise unsupported_media(_ACCEPTED, "server-side apply is not implemented by this server")
    if media not in _ACCEPTED:
        raise unsupported_media(_ACCEPTED)


def apply_patch(kind: ResourceKind, obj: JsonObject, media: str, patch: Any) -> JsonObject:
    """The object changed by a patch of content type ``media``.

    Raises:
        ApiError: 400 when the patch is malformed, 422 when a JSON patch does not apply, 415 for another type.
    """
    check_patch_type(media)
    if media == JSON_PATCH:
        return _json_patched(obj, patch)
    if not isinstance(patch, dict):
        raise bad_request(f"error decoding patch: json: cannot unmarshal into {kind.kind}: not an object")
    if media == MERGE_PATCH:
        merged: JsonObject = _merge(obj, patch)
        return merged
    return _strategic_map(obj, patch, "", kind.merge_keys)


def _json_patched(obj: JsonObject, patch: Any) -> JsonObject:
    try:
        result = jsonpatch.JsonPatch.from_string(json.dumps(patch)).apply(obj)
    except jsonpatch.InvalidJsonPatch as cause:
        raise bad_request(f"error decoding patch: {cause}") from cause
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError) as cause:
        message = f"the server rejected our request due to an error in our request: {cause}"
        raise ApiError(422, "Invalid", message) from cause
    if not isinstance(result, dict):
        raise bad_request("error decoding patch: the result is not an object")
    return result


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result


def _strategic_map(target: JsonObject, patch: JsonObject, path: str, keys: Mapping[str, str]) -> JsonObject:
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"unknown patch type found: {directive}")
    result = dict(target)
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None or (isinstance(value, dict) and value.get("$patch") == "delete"):
            result.pop(key, None)
        else:
            below = f"{path}.{key}" if path else key
            result[key] = _strategic_value(result.get(key), value, below, keys)
    _apply_directives(result, patch, path, keys)
    return result


def _strategic_value(target: Any, value: Any, path: str, keys: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return _strategic_map(target if isinstance(target, dict) else {}, value, path, keys)
    if isinstance(value, list) and path in keys:
        present = target if isinstance(target, list) else []
        if keys[path]:
            return _strategic_list(present, value, path, keys)
        return present + [item for item in value if item not in present]
    return copy.deepcopy(value)


def _strategic_list(target: list[Any], patch: list[Any], path: str, keys: Mapping[str, str]) -> list[Any]:
    key = keys[path]
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if item.get("$patch") != "replace"]
    result = list(target)
    for item in patch:
        if not isinstance(item, dict):
            raise bad_request(f"error decoding patch: items of {path} must be objects")
        if key not in item:
            raise bad_request(f"map: {json.dumps(item)} does not contain declared merge key: {key}")
        position = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            result = [old for old in result if old.get(key) != item[key]]
        elif position is None:
            result.append(_strategic_map({}, item, path, keys))
        else:
            result[position] = _strategic_map(result[position], item, path, keys)
    return result


def _apply_directives(result: JsonObject, patch: JsonObject, path: str, keys: Mapping[str, str]) -> None:
    for directive, value in patch.items():
        listed = directive.startswith((_DELETE_PLAIN, _ORDER)) or directive == "$retainKeys"
        if listed and not isinstance(value, list):
            raise bad_request(f"error decoding patch: {directive} must be a list")
    for directive, value in patch.items():
        if directive.startswith(_DELETE_PLAIN):
            name = directive[len(_DELETE_PLAIN) :]
            result[name] = [item for item in result.get(name, []) if item not in value]
    for directive, value in patch.items():
        if directive.startswith(_ORDER):
            name = directive[len(_ORDER) :]
            below = f"{path}.{name}" if path else name
            if isinstance(result.get(name), list):
                result[name] = _ordered(result[name], value, keys.get(below, ""))
    if "$retainKeys" in patch:
        for key in [key for key in result if key not in patch["$retainKeys"]]:
            del result[key]


def _ordered(items: list[Any], order: list[Any], key: str) -> list[Any]:
    """Items named by ``order`` in that order; an item it does not name stays behind its predecessor."""

    def identity(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    ranks = {json.dumps(identity(item)): rank for rank, item in enumerate(order)}
    last = -1
    placed = []
    for index, item in enumerate(items):
        last = ranks.get(json.dumps(identity(item)), last)
        placed.append((last, index, item))
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]
