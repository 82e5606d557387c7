"""Merge, strategic merge and JSON patches: effects, preconditions and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Client, JsonObject

_JSON = "json-patch+json"
_STRATEGIC = "strategic-merge-patch+json"


@pytest.fixture
def path(api: Client, namespace: str, configmap: JsonObject) -> str:
    """The path of the stored ConfigMap "x" with label app=web and data a=1."""
    return api.path("configmaps", namespace, "x")


@pytest.mark.parametrize("kind", ["merge-patch+json", _STRATEGIC])
def test_merge_patches_change_add_and_remove_keys(api: Client, path: str, kind: str) -> None:
    patch = {"metadata": {"labels": {"app": None, "tier": "db"}}, "data": {"b": "2"}}
    stored = api.patch(path, patch, kind).accepted()
    assert stored["data"] == {"a": "1", "b": "2"}
    assert stored["metadata"]["labels"] == {"tier": "db"}
    assert api.patch(path, {"data": None}, kind).accepted().get("data") is None
    assert api.get(path).accepted()["metadata"]["labels"] == {"tier": "db"}


def test_json_patches_apply_their_operations(api: Client, path: str) -> None:
    patch = [
        {"op": "test", "path": "/data/a", "value": "1"},
        {"op": "add", "path": "/data/b~1c", "value": "2"},
        {"op": "replace", "path": "/metadata/labels/app", "value": "db"},
    ]
    api.patch(path, patch, _JSON).refused(422, "Invalid")  # "b/c" is not a valid data key
    patch[1]["path"] = "/data/b"
    stored = api.patch(path, patch, _JSON).accepted()
    assert stored["data"] == {"a": "1", "b": "2"}
    assert stored["metadata"]["labels"] == {"app": "db"}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/data/a", "value": "other"},
        {"op": "remove", "path": "/data/none"},
        {"op": "replace", "path": "/none/deeper", "value": "1"},
    ],
)
def test_json_patches_that_do_not_apply_are_422(api: Client, path: str, operation: dict[str, str]) -> None:
    api.patch(path, [operation], _JSON).refused(422, "Invalid")
    assert api.get(path).accepted()["data"] == {"a": "1"}


@pytest.mark.parametrize("kind", ["merge-patch+json", _STRATEGIC, _JSON])
@pytest.mark.parametrize("body", [b"{", b'"text"'])
def test_malformed_patches_are_400(api: Client, path: str, kind: str, body: bytes) -> None:
    api.patch(path, body, kind).refused(400, "BadRequest")


def test_unknown_patch_types_are_415(api: Client, path: str) -> None:
    api.patch(path, {}, "json").refused(415, "UnsupportedMediaType")


@pytest.mark.parametrize("kind", ["merge-patch+json", _STRATEGIC])
def test_a_resource_version_in_a_patch_is_a_precondition(
    api: Client, path: str, configmap: JsonObject, kind: str
) -> None:
    version = configmap["metadata"]["resourceVersion"]
    patch = {"metadata": {"resourceVersion": version}, "data": {"a": "2"}}
    stored = api.patch(path, patch, kind).accepted()
    message = api.patch(path, {**patch, "data": {"a": "3"}}, kind).refused(409, "Conflict")
    assert "the object has been modified; please apply your changes to the latest version and try again" in message
    assert api.get(path).accepted()["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]


@pytest.mark.parametrize("patch", [{}, {"data": {"a": "1"}}, {"data": {"none": None}}])
def test_patches_without_changes_keep_the_resource_version(
    api: Client, path: str, configmap: JsonObject, patch: dict[str, Any]
) -> None:
    stored = api.patch(path, patch).accepted()
    assert stored["metadata"]["resourceVersion"] == configmap["metadata"]["resourceVersion"]


def test_patching_a_missing_object_is_404(api: Client, namespace: str) -> None:
    answer = api.patch(api.path("configmaps", namespace, "no"), {"data": {"a": "1"}})
    assert answer.refused(404, "NotFound") == 'configmaps "no" not found'


def test_patched_objects_are_validated(api: Client, path: str) -> None:
    api.patch(path, {"data": {"a b": "1"}}).refused(422, "Invalid")
    api.patch(path, {"metadata": {"labels": {"a b": "1"}}}).refused(422, "Invalid")
    assert api.get(path).accepted()["data"] == {"a": "1"}


def test_names_cannot_be_patched(api: Client, path: str) -> None:
    assert api.patch(path, {"metadata": {"name": "y"}}).code in (400, 422)
    assert api.get(path).accepted()["metadata"]["name"] == "x"


def test_finalizers_merge_strategically(api: Client, path: str) -> None:
    api.patch(path, {"metadata": {"finalizers": ["example.com/a"]}}, _STRATEGIC).accepted()
    stored = api.patch(path, {"metadata": {"finalizers": ["example.com/b"]}}, _STRATEGIC).accepted()
    assert sorted(stored["metadata"]["finalizers"]) == ["example.com/a", "example.com/b"]
    removal = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a", "example.com/b"]}}
    assert "finalizers" not in api.patch(path, removal, _STRATEGIC).accepted()["metadata"]


def test_conditions_merge_by_type(api: Client, node: str) -> None:
    path = f"/api/v1/nodes/{node}/status"

    def apply(*conditions: dict[str, Any], **extra: Any) -> dict[str, str]:
        body = {"status": {"conditions": list(conditions), **extra}}
        stored = api.patch(path, body, _STRATEGIC).accepted()
        return {item["type"]: item["status"] for item in stored["status"].get("conditions", [])}

    apply({"type": "Link", "status": "False"}, {"type": "Disk", "status": "True"})
    merged = apply({"type": "Link", "status": "True"})
    assert (merged["Link"], merged["Disk"]) == ("True", "True")
    assert "Disk" not in apply({"type": "Disk", "$patch": "delete"})
    replaced = apply({"$patch": "replace"}, {"type": "Only", "status": "True"})
    assert replaced == {"Only": "True"}


def test_taints_are_replaced_as_a_whole(api: Client, node: str) -> None:
    path = f"/api/v1/nodes/{node}"
    for key in ("a", "b"):
        patch = {"spec": {"taints": [{"key": key, "effect": "PreferNoSchedule"}]}}
        stored = api.patch(path, patch, _STRATEGIC).accepted()
        assert [taint["key"] for taint in stored["spec"]["taints"]] == [key]
