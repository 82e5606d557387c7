"""Deletion of objects and collections, with preconditions and finalizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Client, JsonObject

_OTHER_UID = "00000000-0000-0000-0000-000000000000"


def test_deletion_returns_a_status(api: Client, namespace: str, configmap: JsonObject) -> None:
    path = api.path("configmaps", namespace, "x")
    status = api.delete(path).accepted()
    assert (status["kind"], status["status"]) == ("Status", "Success")
    uid = configmap["metadata"]["uid"]
    assert status["details"] == {"name": "x", "kind": "configmaps", "uid": uid}
    assert api.get(path).code == 404
    assert api.delete(path).refused(404, "NotFound") == 'configmaps "x" not found'


def test_deletion_advances_the_resource_version_of_the_list(api: Client, namespace: str, configmap: JsonObject) -> None:
    api.delete(api.path("configmaps", namespace, "x")).accepted()
    listed = api.get(api.path("configmaps", namespace)).accepted()
    assert int(listed["metadata"]["resourceVersion"]) > int(configmap["metadata"]["resourceVersion"])


def test_uid_precondition(api: Client, namespace: str, configmap: JsonObject) -> None:
    path, uid = api.path("configmaps", namespace, "x"), configmap["metadata"]["uid"]
    message = api.delete(path, {"preconditions": {"uid": _OTHER_UID}}).refused(409, "Conflict")
    assert f"the UID in the precondition ({_OTHER_UID}) does not match the UID in record ({uid})" in message
    api.get(path).accepted()
    api.delete(path, {"preconditions": {"uid": uid}}).accepted()
    assert api.get(path).code == 404


def test_resource_version_precondition(api: Client, namespace: str, configmap: JsonObject) -> None:
    path = api.path("configmaps", namespace, "x")
    stale = configmap["metadata"]["resourceVersion"]
    fresh = api.patch(path, {"data": {"a": "2"}}).accepted()["metadata"]["resourceVersion"]
    message = api.delete(path, {"preconditions": {"resourceVersion": stale}}).refused(409, "Conflict")
    assert f"the ResourceVersion in the precondition ({stale}) does not match" in message
    api.get(path).accepted()
    api.delete(path, {"preconditions": {"resourceVersion": fresh}}).accepted()
    assert api.get(path).code == 404


def test_delete_options_of_kubectl_are_accepted(api: Client, namespace: str, configmap: JsonObject) -> None:
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
    api.delete(api.path("configmaps", namespace, "x"), options, gracePeriodSeconds=0).accepted()
    assert api.get(api.path("configmaps", namespace, "x")).code == 404


@pytest.mark.parametrize("by_query", [True, False])
def test_dry_run_deletes_nothing(api: Client, namespace: str, configmap: JsonObject, by_query: bool) -> None:
    path = api.path("configmaps", namespace, "x")
    answer = api.delete(path, dryRun="All") if by_query else api.delete(path, {"dryRun": ["All"]})
    answer.accepted()
    api.get(path).accepted()


def test_collections_are_deleted_by_selector(api: Client, namespace: str) -> None:
    path = api.path("configmaps", namespace)
    for name, side in (("a", "left"), ("b", "left"), ("c", "right")):
        api.post(path, {"metadata": {"name": name, "labels": {"side": side}}}).accepted(201)
    api.delete(path, labelSelector="side=left").accepted()
    assert api.items(path, labelSelector="side") == ["c"]
    api.delete(path, fieldSelector="metadata.name=c").accepted()
    assert api.items(path, labelSelector="side") == []


def test_collection_deletion_affects_one_namespace_only(api: Client, namespace: str) -> None:
    other = f"{namespace}-other"
    api.post("/api/v1/namespaces", {"metadata": {"name": other}}).accepted(201)
    try:
        for place in (namespace, other):
            api.post(api.path("leases", place), {"metadata": {"name": "x"}}).accepted(201)
        api.delete(api.path("leases", namespace)).accepted()
        assert api.items(api.path("leases", namespace)) == []
        assert api.items(api.path("leases", other)) == ["x"]
    finally:
        api.delete(f"/api/v1/namespaces/{other}")


def test_finalizers_delay_deletion(api: Client, namespace: str) -> None:
    path = api.path("configmaps", namespace, "x")
    body = {"metadata": {"name": "x", "finalizers": ["example.com/a", "example.com/b"]}}
    api.post(api.path("configmaps", namespace), body).accepted(201)
    api.delete(path).accepted()
    held = api.get(path).accepted()
    assert held["metadata"]["deletionTimestamp"].endswith("Z")
    assert held["metadata"]["finalizers"] == ["example.com/a", "example.com/b"]
    added = {"metadata": {"finalizers": ["example.com/a", "example.com/c"]}}
    assert "no new finalizers can be added" in api.patch(path, added).refused(422, "Invalid")
    api.patch(path, {"metadata": {"finalizers": ["example.com/b"]}}).accepted()
    api.get(path).accepted()
    api.patch(path, {"metadata": {"finalizers": None}}).accepted()
    assert api.get(path).code == 404


def test_unqualified_finalizers_are_422(api: Client, namespace: str) -> None:
    body = {"metadata": {"name": "x", "finalizers": ["bare"]}}
    message = api.post(api.path("configmaps", namespace), body).refused(422, "Invalid")
    assert "name is neither a standard finalizer name nor is it fully qualified" in message


@pytest.mark.parametrize("name", ["default", "kube-system"])
def test_system_namespaces_cannot_be_deleted(api: Client, name: str) -> None:
    answer = api.delete(f"/api/v1/namespaces/{name}")
    assert answer.refused(403, "Forbidden") == f'namespaces "{name}" is forbidden: this namespace may not be deleted'


def test_namespace_deletion_returns_the_terminating_namespace(api: Client, namespace: str) -> None:
    body = api.delete(f"/api/v1/namespaces/{namespace}").accepted()
    assert body["metadata"]["name"] == namespace
    assert body["status"]["phase"] == "Terminating"
    assert "deletionTimestamp" in body["metadata"]


def test_a_recreated_object_has_a_new_uid(api: Client, namespace: str, configmap: JsonObject) -> None:
    api.delete(api.path("configmaps", namespace, "x")).accepted()
    again = api.post(api.path("configmaps", namespace), {"metadata": {"name": "x"}}).accepted(201)
    assert again["metadata"]["uid"] != configmap["metadata"]["uid"]
    assert int(again["metadata"]["resourceVersion"]) > int(configmap["metadata"]["resourceVersion"])
