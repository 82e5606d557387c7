"""Discovery documents, and the OpenAPI documents that kubectl reads before a write."""

from __future__ import annotations

from typing import Any

from ratchet.dev.api.kinds import KINDS, PODS, JsonObject, ResourceKind, groups

VERSION: JsonObject = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+ratchet",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"
_HEALTH = ("/healthz", "/livez", "/readyz")


def document(path: str, aggregated: str = "", server: str = "") -> JsonObject | str | None:
    """The discovery document at ``path``, plain text for health checks, or None when there is none.

    Args:
        aggregated: version of the aggregated format (v2, v2beta1) to use for /api and /apis, "" for the legacy one.
        server: host and port clients reach the server at.
    """
    if path in _HEALTH:
        return "ok"
    if path == "/version":
        return VERSION
    if path in ("/api", "/apis") and aggregated:
        return _aggregated(path, aggregated)
    if path == "/api":
        return _core_versions(server)
    if path == "/apis":
        found = [_group(group, version) for group, version in groups() if group]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}
    if path == "/openapi/v3":
        return {"paths": {_root(*pair): {"serverRelativeURL": f"/openapi/v3/{_root(*pair)}"} for pair in groups()}}
    for group, version in groups():
        root = _root(group, version)
        if path == f"/{root}":
            return _resources(group, version)
        if group and path == f"/apis/{group}":
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, version)}
        if path == f"/openapi/v3/{root}":
            return _openapi(group, version)
    return None


def _root(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _core_versions(server: str) -> JsonObject:
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def _group(group: str, version: str) -> JsonObject:
    choice = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [choice], "preferredVersion": choice}


def _kinds_of(group: str, version: str) -> list[ResourceKind]:
    return [kind for kind in KINDS if (kind.group, kind.version) == (group, version)]


def _resources(group: str, version: str) -> JsonObject:
    entries: list[JsonObject] = []
    for kind in _kinds_of(group, version):
        entry: JsonObject = {
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": list(kind.verbs),
        }
        if kind.short_names:
            entry["shortNames"] = list(kind.short_names)
        if kind.categories:
            entry["categories"] = list(kind.categories)
        entries.append(entry)
        for name, subkind, verbs in _subresources(kind):
            entries.append({
                "name": f"{kind.plural}/{name}",
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": subkind,
                "verbs": verbs,
            })  # fmt: skip
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": entries,
    }


def _subresources(kind: ResourceKind) -> list[tuple[str, str, list[str]]]:
    found = [("status", kind.kind, ["get", "patch", "update"])] if kind.has_status else []
    if kind is PODS:
        found.append(("binding", "Binding", ["create"]))
    return found


def _aggregated(path: str, version: str) -> JsonObject:
    items = [_aggregated_group(*pair) for pair in groups() if bool(pair[0]) == (path == "/apis")]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _aggregated_group(group: str, version: str) -> JsonObject:
    resources = [_aggregated_resource(kind) for kind in _kinds_of(group, version)]
    metadata: JsonObject = {"name": group} if group else {}
    return {
        "metadata": metadata,
        "versions": [{"version": version, "resources": resources, "freshness": "Current"}],
    }


def _aggregated_resource(kind: ResourceKind) -> JsonObject:
    def response_kind(name: str) -> JsonObject:
        return {"group": kind.group, "version": kind.version, "kind": name}

    entry: JsonObject = {
        "resource": kind.plural,
        "responseKind": response_kind(kind.kind),
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    subresources = [
        {"subresource": name, "responseKind": response_kind(subkind), "verbs": verbs}
        for name, subkind, verbs in _subresources(kind)
    ]
    if subresources:
        entry["subresources"] = subresources
    return entry


def _openapi(group: str, version: str) -> JsonObject:
    """Paths without schemas: enough for kubectl to learn that ``fieldValidation`` is supported."""
    paths: JsonObject = {}
    for kind in _kinds_of(group, version):
        scope = "/namespaces/{namespace}" if kind.namespaced else ""
        collection = f"/{_root(group, version)}{scope}/{kind.plural}"
        paths[collection] = {"post": _operation(kind, "post")}
        paths[f"{collection}/{{name}}"] = {
            "put": _operation(kind, "put"),
            "patch": _operation(kind, "patch"),
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": paths,
    }


def _operation(kind: ResourceKind, action: str) -> JsonObject:
    names = ("dryRun", "fieldManager", "fieldValidation")
    parameters: list[Any] = [
        {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}} for name in names
    ]
    return {
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
    }
