"""Health, version, discovery and OpenAPI of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Client

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_health_endpoints_return_ok(api: Client, path: str) -> None:
    answer = api.get(path)
    assert (answer.code, answer.text) == (200, "ok")


def test_version_includes_the_git_version(api: Client) -> None:
    version = api.get("/version").accepted()
    assert version["gitVersion"].startswith("v1.")
    assert version["major"] == "1"


def test_core_api_has_version_v1(api: Client) -> None:
    body = api.get("/api").accepted()
    assert body["kind"] == "APIVersions"
    assert "v1" in body["versions"]


def test_groups_include_coordination(api: Client) -> None:
    body = api.get("/apis").accepted()
    assert body["kind"] == "APIGroupList"
    preferred = {group["name"]: group["preferredVersion"]["groupVersion"] for group in body["groups"]}
    assert preferred["coordination.k8s.io"] == "coordination.k8s.io/v1"


def test_core_api_lists_its_resources(api: Client) -> None:
    body = api.get("/api/v1").accepted()
    resources = {item["name"]: item for item in body["resources"]}
    assert body["groupVersion"] == "v1"
    assert resources["pods"]["namespaced"] is True
    assert resources["pods"]["shortNames"] == ["po"]
    assert resources["nodes"]["namespaced"] is False
    assert {"pods/status", "pods/binding", "nodes/status"} <= resources.keys()
    assert {"get", "list", "watch", "patch", "deletecollection"} <= set(resources["configmaps"]["verbs"])
    assert "deletecollection" not in resources["namespaces"]["verbs"]


def test_coordination_group_lists_leases(api: Client) -> None:
    body = api.get("/apis/coordination.k8s.io/v1").accepted()
    assert ("leases", "Lease") in [(item["name"], item["kind"]) for item in body["resources"]]


def test_aggregated_discovery_lists_resources_of_every_group(api: Client) -> None:
    answer = api.request("GET", "/apis", accept=_AGGREGATED)
    body = answer.accepted()
    assert body["kind"] == "APIGroupDiscoveryList"
    assert "as=APIGroupDiscoveryList" in answer.headers["Content-Type"]
    groups = {item["metadata"]["name"]: item for item in body["items"]}
    resources = groups["coordination.k8s.io"]["versions"][0]["resources"]
    assert "leases" in [item["resource"] for item in resources]


def test_openapi_declares_field_validation_for_patches(api: Client) -> None:
    index = api.get("/openapi/v3").accepted()
    location = index["paths"]["api/v1"]["serverRelativeURL"]
    paths = api.get(location).accepted()["paths"]
    operation = paths["/api/v1/namespaces/{namespace}/configmaps/{name}"]["patch"]
    assert operation["x-kubernetes-group-version-kind"]["kind"] == "ConfigMap"
    assert "fieldValidation" in [item["name"] for item in operation["parameters"]]


@pytest.mark.parametrize("path", ["/api/v1/nonsense", "/apis/no.such.group/v1/things", "/api/v1/pods/a/b/c/d/e"])
def test_unknown_paths_are_404(api: Client, path: str) -> None:
    assert api.get(path).code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/api/v1/namespaces/default/configmaps"), ("POST", "/api/v1/nodes/x"), ("DELETE", "/api/v1/namespaces")],
)
def test_wrong_methods_are_405(api: Client, method: str, path: str) -> None:
    body: Any = {} if method != "DELETE" else None
    assert api.request(method, path, body).code == 405


def test_system_namespaces_exist(api: Client) -> None:
    assert {"default", "kube-system", "kube-public", "kube-node-lease"} <= set(api.items("/api/v1/namespaces"))


def test_unacceptable_representations_are_406(api: Client) -> None:
    answer = api.request("GET", "/api/v1/namespaces", accept="text/html")
    answer.refused(406, "NotAcceptable")
