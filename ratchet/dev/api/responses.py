"""Writing responses: which representation a client accepts, and objects and lists in it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ratchet.dev.api.kinds import JsonObject, ResourceKind
from ratchet.dev.api.status import ApiError, not_acceptable
from ratchet.dev.api.table import partial_metadata, table

_PLAIN = ("application/json", "application/*", "*/*")


@dataclass(frozen=True)
class Representation:
    """The form of a response: ``form`` is "" (plain), "Table" or "PartialObjectMetadata".

    ``include`` says what table rows carry of their object.
    """

    form: str = ""
    include: str = ""


def negotiate(accept: str, include: str = "") -> Representation:
    """The first representation in an Accept header that this server can produce.

    Raises:
        ApiError: 406 when there is none.
    """
    for media, parameters in _accepted(accept):
        if media not in _PLAIN:
            continue
        form = parameters.get("as", "")
        if not form or "g" not in parameters:
            return Representation()
        if parameters.get("g") == "meta.k8s.io" and parameters.get("v") == "v1":
            if form == "Table":
                return Representation("Table", include)
            if form in ("PartialObjectMetadata", "PartialObjectMetadataList"):
                return Representation("PartialObjectMetadata")
    raise not_acceptable(_PLAIN[:1])


def aggregated_version(accept: str) -> str:
    """The aggregated discovery version a client prefers ("v2" or "v2beta1"), "" for the legacy documents."""
    for _, parameters in _accepted(accept):
        if parameters.get("as") == "APIGroupDiscoveryList":
            if parameters.get("v") in ("v2", "v2beta1"):
                return parameters["v"]
        else:
            break
    return ""


def _accepted(accept: str) -> list[tuple[str, dict[str, str]]]:
    found = []
    for part in (accept or "*/*").split(","):
        media, *rest = part.strip().split(";")
        parameters = dict(item.strip().partition("=")[::2] for item in rest)
        found.append((media.strip().lower(), parameters))
    return found


def encode(value: Any) -> bytes:
    """A JSON value as one compact line without its end."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def json_response(value: Any, status: int = 200, warnings: Iterable[str] = ()) -> web.Response:
    """A JSON response with Warning headers."""
    response = web.Response(body=encode(value) + b"\n", status=status, content_type="application/json")
    for warning in warnings:
        response.headers.add("Warning", f"299 - {json.dumps(warning)}")
    return response


def error_response(error: ApiError) -> web.Response:
    """The ``Status`` response for a failed request."""
    return json_response(error.body(), error.code)


def present(kind: ResourceKind, obj: JsonObject, form: Representation, *, headings: bool = True) -> JsonObject:
    """One object in the form the client asked for; ``Status`` objects are never converted."""
    if obj.get("kind") == "Status" or not form.form:
        return obj
    if form.form == "Table":
        meta = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
        return table(kind, [obj], meta, form.include, headings=headings)
    return partial_metadata(obj)


def present_list(kind: ResourceKind, objects: list[JsonObject], meta: JsonObject, form: Representation) -> JsonObject:
    """A list in the requested form. Plain items have no kind and apiVersion, as in the real API."""
    if form.form == "Table":
        return table(kind, objects, meta, form.include)
    if form.form:
        items = [partial_metadata(obj) for obj in objects]
        return {
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": meta,
            "items": items,
        }
    bare = [{key: obj[key] for key in obj if key not in ("kind", "apiVersion")} for obj in objects]
    return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": bare}
