"""Responses in the Table and PartialObjectMetadata forms."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Client, JsonObject

_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
_METADATA = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"


def _columns(table: JsonObject, *, wide: bool = False) -> list[str]:
    return [item["name"] for item in table["columnDefinitions"] if wide or item["priority"] == 0]


@pytest.mark.parametrize(
    ("resource", "columns"),
    [
        ("pods", "Name,Ready,Status,Restarts,Age"),
        ("configmaps", "Name,Data,Age"),
        ("leases", "Name,Holder,Age"),
        ("events", "Last Seen,Type,Reason,Object,Message"),
        ("serviceaccounts", "Name,Secrets,Age"),
    ],
)
def test_table_columns(api: Client, namespace: str, resource: str, columns: str) -> None:
    table = api.request("GET", api.path(resource, namespace), accept=_TABLE).accepted()
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert ",".join(_columns(table)) == columns


@pytest.mark.parametrize(
    ("resource", "columns"), [("nodes", "Name,Status,Roles,Age,Version"), ("namespaces", "Name,Status,Age")]
)
def test_table_columns_of_cluster_scoped_kinds(api: Client, resource: str, columns: str) -> None:
    table = api.request("GET", f"/api/v1/{resource}", accept=_TABLE).accepted()
    assert ",".join(_columns(table)) == columns


def test_table_row_of_a_pod(api: Client, namespace: str, pod: JsonObject) -> None:
    table = api.request("GET", api.path("pods", namespace), accept=_TABLE).accepted()
    row = table["rows"][0]
    assert row["cells"][:3] == ["p", "0/1", "Pending"]
    assert str(row["cells"][3]) == "0"
    assert row["object"]["kind"] == "PartialObjectMetadata"
    assert row["object"]["metadata"]["uid"] == pod["metadata"]["uid"]
    assert _columns(table, wide=True)[5:8] == ["IP", "Node", "Nominated Node"]
    assert row["cells"][5:8] == ["<none>", "<none>", "<none>"]


def test_rows_include_the_requested_form_of_the_object(api: Client, namespace: str, configmap: JsonObject) -> None:
    path = api.path("configmaps", namespace, "x")
    whole = api.request("GET", path, accept=_TABLE, includeObject="Object").accepted()
    assert whole["rows"][0]["object"]["data"] == {"a": "1"}
    assert whole["rows"][0]["cells"][:2] == ["x", 1]
    bare = api.request("GET", path, accept=_TABLE, includeObject="None").accepted()
    assert not bare["rows"][0].get("object")


def test_a_missing_object_is_a_status_and_not_a_table(api: Client, namespace: str) -> None:
    answer = api.request("GET", api.path("configmaps", namespace, "no"), accept=_TABLE)
    answer.refused(404, "NotFound")


def test_only_the_first_watch_event_defines_table_columns(api: Client, namespace: str) -> None:
    path = api.path("leases", namespace)
    for name in ("a", "b"):
        api.post(path, {"metadata": {"name": name}, "spec": {"holderIdentity": "me"}}).accepted(201)
    with api.watch(path, accept=_TABLE) as stream:
        first, second = stream.next(), stream.next()
    assert first["type"] == "ADDED"
    assert _columns(first["object"]) == ["Name", "Holder", "Age"]
    assert first["object"]["rows"][0]["cells"][1] == "me"
    assert not second["object"].get("columnDefinitions")
    assert len(second["object"]["rows"]) == 1


def test_metadata_only_responses_omit_data(api: Client, namespace: str, configmap: JsonObject) -> None:
    path = api.path("configmaps", namespace)
    one = api.request("GET", f"{path}/x", accept=_METADATA).accepted()
    assert one["kind"] == "PartialObjectMetadata"
    assert one["metadata"]["labels"] == {"app": "web"}
    assert "data" not in one
    several = api.request("GET", path, accept=_METADATA_LIST).accepted()
    assert several["kind"] == "PartialObjectMetadataList"
    assert "x" in [item["metadata"]["name"] for item in several["items"]]


def test_unknown_representations_fall_back_to_json(api: Client, namespace: str, configmap: JsonObject) -> None:
    accept = "application/vnd.kubernetes.nonsense,application/json"
    answer = api.request("GET", api.path("configmaps", namespace, "x"), accept=accept)
    assert json.loads(answer.text)["data"] == {"a": "1"}
