"""Reading requests: which resource a path names, and the query options of lists, watches and writes."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ratchet.dev.api.kinds import JsonObject, ResourceKind, find_kind
from ratchet.dev.api.operations import DeleteOptions, WriteOptions
from ratchet.dev.api.selectors import Predicate, field_selector, label_selector
from ratchet.dev.api.status import ApiError, FieldError, bad_request, forbidden_field, invalid_value
from ratchet.dev.api.storage import Key


@dataclass(frozen=True)
class ResourcePath:
    """What a path names: a collection when ``name`` is empty; ``namespace`` is empty for all namespaces."""

    kind: ResourceKind
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def parse_path(path: str) -> ResourcePath | None:
    """The resource at a URL path such as ``/api/v1/namespaces/a/pods/b/status``, or None."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    if not rest or not all(rest) or len(rest) > 5:
        return None
    if rest[0] == "namespaces" and len(rest) > 2 and (kind := find_kind(group, version, rest[2])):
        if not kind.namespaced:
            return None
        return _resource_path(kind, rest[1], rest[3:])
    found = find_kind(group, version, rest[0])
    if found is None or (found.namespaced and len(rest) > 1):
        return None
    return _resource_path(found, "", rest[1:])


def _resource_path(kind: ResourceKind, namespace: str, rest: list[str]) -> ResourcePath | None:
    if len(rest) > 2:
        return None
    name, subresource = [*rest, "", ""][:2]
    known = {"", "status"} if kind.has_status else {""}
    if kind.plural == "pods":
        known.add("binding")
    return ResourcePath(kind, namespace, name, subresource) if subresource in known else None


def flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean query parameter; present means true unless it says "false" or "0"."""
    return name in query and query[name].lower() not in ("false", "0")


def number(query: Mapping[str, str], name: str) -> int | None:
    """A query parameter that is a non-negative integer, None when absent; ApiError 400 otherwise."""
    text = query.get(name, "")
    if not text:
        return None
    if not re.fullmatch(r"\d{1,18}", text):
        raise bad_request(f'{name}: Invalid value: "{text}": invalid syntax')
    return int(text)


def selection(kind: ResourceKind, query: Mapping[str, str]) -> Predicate:
    """The predicate of labelSelector and fieldSelector together; ApiError 400 when either is malformed."""
    by_labels = label_selector(query.get("labelSelector", ""))
    by_fields = field_selector(kind, query.get("fieldSelector", ""))
    return lambda obj: by_labels(obj) and by_fields(obj)


@dataclass(frozen=True)
class WatchOptions:
    """How a watch starts and ends; ``since`` None means it starts with the present state ("Any")."""

    since: int | None
    initial_events: bool
    end_mark: bool
    bookmarks: bool
    timeout_seconds: int | None


def watch_options(query: Mapping[str, str]) -> WatchOptions:
    """The options of a watch.

    Raises:
        ApiError: 400 for malformed values, 422 for a combination the API forbids.
    """
    since = number(query, "resourceVersion")
    bookmarks = flag(query, "allowWatchBookmarks")
    match = query.get("resourceVersionMatch", "")
    streaming = "sendInitialEvents" in query
    initial = flag(query, "sendInitialEvents")
    errors: list[FieldError] = []
    if streaming and match != "NotOlderThan":
        problem = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        errors.append(forbidden_field("resourceVersionMatch", problem))
    if match and not streaming:
        problem = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        errors.append(forbidden_field("resourceVersionMatch", problem))
    if errors:
        raise ApiError(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {errors[0]}')
    return WatchOptions(
        since=since or None,
        initial_events=initial if streaming else not since,
        end_mark=streaming and initial and bookmarks,
        bookmarks=bookmarks,
        timeout_seconds=number(query, "timeoutSeconds"),
    )


@dataclass(frozen=True)
class Page:
    """A page of a list: after ``start`` (None: from the beginning), ``limit`` items (0: all).

    ``version`` is the version the first page was read at, 0 on the first page.
    """

    limit: int = 0
    start: Key | None = None
    version: int = 0

    def token(self, last: Key, version: int) -> str:
        """The continue token for the page that follows ``last``."""
        text = json.dumps({"rv": version, "start": list(last)})
        return base64.urlsafe_b64encode(text.encode()).decode()


def page(query: Mapping[str, str]) -> Page:
    """The part of a list a request asks for; ApiError 400 when limit or continue are malformed."""
    limit = number(query, "limit") or 0
    token = query.get("continue", "")
    if not token:
        return Page(limit)
    try:
        content = json.loads(base64.urlsafe_b64decode(token))
        namespace, name = content["start"]
        return Page(limit, (str(namespace), str(name)), int(content["rv"]))
    except (ValueError, KeyError, TypeError, binascii.Error) as cause:
        raise bad_request(f"continue key is not valid: {cause}") from cause


def write_options(query: Mapping[str, str]) -> WriteOptions:
    """dryRun and fieldValidation of a write; ApiError 422 for unknown values."""
    validation = query.get("fieldValidation", "")
    if validation not in ("", "Ignore", "Warn", "Strict"):
        problem = 'supported values: "Ignore", "Strict", "Warn"'
        error = invalid_value("fieldValidation", validation, problem)
        raise ApiError(422, "Invalid", f'CreateOptions.meta.k8s.io "" is invalid: {error}')
    return WriteOptions(_dry_run(query.get("dryRun")), validation)


def delete_options(query: Mapping[str, str], body: JsonObject) -> DeleteOptions:
    """The options of a deletion from the query and a DeleteOptions body, which wins; ApiError 400 or 422."""
    preconditions = body.get("preconditions") or {}
    grace = body.get("gracePeriodSeconds", number(query, "gracePeriodSeconds"))
    if not isinstance(preconditions, dict) or not isinstance(grace, int | None):
        raise bad_request("DeleteOptions: json: cannot unmarshal value into Go struct field DeleteOptions")
    requested = body.get("dryRun") or [query["dryRun"]] if query.get("dryRun") else body.get("dryRun") or []
    return DeleteOptions(
        uid=str(preconditions.get("uid") or ""),
        resource_version=str(preconditions.get("resourceVersion") or ""),
        grace_seconds=grace,
        dry_run=_dry_run(requested[0] if requested else None),
    )


def _dry_run(value: str | None) -> bool:
    if value in (None, "", "All"):
        return value == "All"
    error = FieldError("FieldValueNotSupported", "dryRun", f'Unsupported value: "{value}": supported values: "All"')
    raise ApiError(422, "Invalid", f'CreateOptions.meta.k8s.io "" is invalid: {error}')
