"""Creation, reading and replacement of objects."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Client, JsonObject


def _named(name: str, **fields: Any) -> JsonObject:
    return {"metadata": {"name": name}, **fields}


def test_creation_sets_metadata(api: Client, namespace: str) -> None:
    created = api.post(api.path("configmaps", namespace), _named("x", data={"a": "1"})).accepted(201)
    meta = created["metadata"]
    assert (created["kind"], created["apiVersion"]) == ("ConfigMap", "v1")
    assert (meta["name"], meta["namespace"]) == ("x", namespace)
    assert len(meta["uid"]) == 36
    assert int(meta["resourceVersion"]) > 0
    assert meta["creationTimestamp"].endswith("Z")
    assert "generation" not in meta
    assert "selfLink" not in meta
    read = api.get(api.path("configmaps", namespace, "x")).accepted()
    assert read["data"] == {"a": "1"}
    assert read["metadata"]["uid"] == meta["uid"]


def test_resource_versions_increase_across_kinds(api: Client, namespace: str) -> None:
    first = api.post(api.path("configmaps", namespace), _named("a")).accepted(201)
    second = api.post(api.path("leases", namespace), _named("b")).accepted(201)
    third = api.post(api.path("configmaps", namespace), _named("c")).accepted(201)
    versions = [int(obj["metadata"]["resourceVersion"]) for obj in (first, second, third)]
    assert versions == sorted(set(versions))
    listed = api.get(api.path("configmaps", namespace)).accepted()
    assert int(listed["metadata"]["resourceVersion"]) >= versions[-1]


def test_list_items_have_no_kind(api: Client, namespace: str, configmap: JsonObject) -> None:
    body = api.get(api.path("configmaps", namespace)).accepted()
    assert body["kind"] == "ConfigMapList"
    found = [item for item in body["items"] if item["metadata"]["name"] == "x"]
    assert found[0]["data"] == {"a": "1"}
    assert "kind" not in found[0]


def test_generated_names_are_distinct(api: Client, namespace: str) -> None:
    body = {"metadata": {"generateName": "made-"}}
    names = {api.post(api.path("configmaps", namespace), body).accepted(201)["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("made-") and len(name) == 10 for name in names)


def test_missing_objects_are_404(api: Client, namespace: str) -> None:
    answer = api.get(api.path("configmaps", namespace, "no"))
    assert answer.refused(404, "NotFound") == 'configmaps "no" not found'
    assert answer.json["details"] == {"name": "no", "kind": "configmaps"}
    answer = api.get(api.path("leases", namespace, "no"))
    assert answer.refused(404, "NotFound") == 'leases.coordination.k8s.io "no" not found'
    assert answer.json["details"] == {"name": "no", "group": "coordination.k8s.io", "kind": "leases"}


def test_creation_in_a_missing_namespace_is_404(api: Client) -> None:
    answer = api.post(api.path("configmaps", "no-such-namespace"), _named("x"))
    assert answer.refused(404, "NotFound") == 'namespaces "no-such-namespace" not found'


def test_existing_names_are_409(api: Client, namespace: str, configmap: JsonObject) -> None:
    answer = api.post(api.path("configmaps", namespace), _named("x"))
    assert answer.refused(409, "AlreadyExists") == 'configmaps "x" already exists'


def test_creation_rejects_a_resource_version(api: Client, namespace: str) -> None:
    body = {"metadata": {"name": "x", "resourceVersion": "12"}}
    answer = api.post(api.path("configmaps", namespace), body)
    assert answer.code >= 400
    assert "resourceVersion should not be set on objects to be created" in answer.text
    assert api.get(api.path("configmaps", namespace, "x")).code == 404


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"text"', b"\xff\xfe"])
def test_malformed_bodies_are_400(api: Client, namespace: str, body: bytes) -> None:
    api.post(api.path("configmaps", namespace), body).refused(400, "BadRequest")


def test_mismatched_kinds_are_400(api: Client, namespace: str) -> None:
    body = {"apiVersion": "v1", "kind": "Pod", **_named("x")}
    message = api.post(api.path("configmaps", namespace), body).refused(400, "BadRequest")
    assert 'Pod in version "v1" cannot be handled as a ConfigMap' in message


def test_mismatched_api_versions_are_400(api: Client, namespace: str) -> None:
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "ConfigMap", **_named("x")}
    answer = api.post(api.path("configmaps", namespace), body)
    answer.refused(400, "BadRequest")


def test_mismatched_namespaces_are_400(api: Client, namespace: str) -> None:
    body = {"metadata": {"name": "x", "namespace": "default"}}
    message = api.post(api.path("configmaps", namespace), body).refused(400, "BadRequest")
    assert "the namespace of the provided object does not match the namespace sent on the request" in message


def test_unknown_content_types_are_415(api: Client, namespace: str) -> None:
    answer = api.post(api.path("configmaps", namespace), b"x", content_type="text/plain")
    answer.refused(415, "UnsupportedMediaType")


def test_yaml_bodies_are_accepted(api: Client, namespace: str) -> None:
    body = b"metadata: {name: x}\ndata: {when: '2024-01-01'}\n"
    created = api.post(api.path("configmaps", namespace), body, content_type="application/yaml").accepted(201)
    assert created["data"] == {"when": "2024-01-01"}


def test_oversized_bodies_are_413(api: Client, namespace: str) -> None:
    body = json.dumps(_named("x", data={"a": "b" * (3 * 1024 * 1024 + 1)})).encode()
    message = api.post(api.path("configmaps", namespace), body).refused(413, "RequestEntityTooLarge")
    assert "limit is 3145728" in message


@pytest.mark.parametrize("name", ["Upper", "under_score", "-start", "end-", "a..b", "a" * 254])
def test_invalid_names_are_422(api: Client, namespace: str, name: str) -> None:
    answer = api.post(api.path("configmaps", namespace), _named(name))
    assert answer.refused(422, "Invalid").startswith(f'ConfigMap "{name}" is invalid: metadata.name: Invalid value')
    assert answer.json["details"]["kind"] == "ConfigMap"
    assert answer.json["details"]["causes"][0]["field"] == "metadata.name"
    assert answer.json["details"]["causes"][0]["reason"] == "FieldValueInvalid"


@pytest.mark.parametrize("name", ["a", "a.b-c.d", "0", "a" * 253])
def test_valid_names_are_accepted(api: Client, namespace: str, name: str) -> None:
    api.post(api.path("configmaps", namespace), _named(name)).accepted(201)


def test_namespace_names_must_be_dns_labels(api: Client) -> None:
    message = api.post("/api/v1/namespaces", _named("A_b")).refused(422, "Invalid")
    assert "a lowercase RFC 1123 label must consist of" in message
    message = api.post("/api/v1/namespaces", _named("a.b")).refused(422, "Invalid")
    assert 'metadata.name: Invalid value: "a.b": must not contain dots' in message


def test_a_name_is_required(api: Client, namespace: str) -> None:
    answer = api.post(api.path("configmaps", namespace), {"metadata": {}})
    message = answer.refused(422, "Invalid")
    assert message == 'ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required'
    assert answer.json["details"]["causes"][0]["reason"] == "FieldValueRequired"


@pytest.mark.parametrize(
    "labels", [{"a b": "c"}, {"a": "b c"}, {"a/b/c": "d"}, {"/a": "b"}, {"a": "b" * 64}, {"a" * 64: "b"}, {"a": "-b"}]
)
def test_invalid_labels_are_422(api: Client, namespace: str, labels: dict[str, str]) -> None:
    body = {"metadata": {"name": "x", "labels": labels}}
    message = api.post(api.path("configmaps", namespace), body).refused(422, "Invalid")
    assert "metadata.labels: Invalid value" in message


def test_valid_labels_are_kept(api: Client, namespace: str) -> None:
    labels = {"example.com/a.b": "", "a_b": "C_d.e-f"}
    body = {"metadata": {"name": "x", "labels": labels}}
    created = api.post(api.path("configmaps", namespace), body).accepted(201)
    assert created["metadata"]["labels"] == labels


def test_oversized_annotations_are_422(api: Client, namespace: str) -> None:
    body = {"metadata": {"name": "x", "annotations": {"a": "b" * (256 * 1024)}}}
    assert "metadata.annotations: Too long" in api.post(api.path("configmaps", namespace), body).refused(422, "Invalid")


@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_metadata_maps_hold_strings_only(api: Client, namespace: str, field: str) -> None:
    body = {"metadata": {"name": "x", field: {"a": 1}}}
    message = api.post(api.path("configmaps", namespace), body).refused(400, "BadRequest")
    assert "cannot unmarshal number" in message


@pytest.mark.parametrize("key", ["a b", "a/b", "..", "é", "a" * 254])
def test_invalid_data_keys_are_422(api: Client, namespace: str, key: str) -> None:
    message = api.post(api.path("configmaps", namespace), _named("x", data={key: "1"})).refused(422, "Invalid")
    assert f"data[{key}]: Invalid value" in message


def test_data_holds_strings_only(api: Client, namespace: str) -> None:
    message = api.post(api.path("configmaps", namespace), _named("x", data={"a": 1})).refused(400, "BadRequest")
    assert "cannot unmarshal number" in message
    api.post(api.path("configmaps", namespace), _named("x", data="a")).refused(400, "BadRequest")


def test_data_is_limited_to_a_mebibyte(api: Client, namespace: str) -> None:
    full = {"a": "b" * 1024 * 1024}
    api.post(api.path("configmaps", namespace), _named("full", data=full)).accepted(201)
    over = {**full, "c": "d"}
    message = api.post(api.path("configmaps", namespace), _named("over", data=over)).refused(422, "Invalid")
    assert "Too long" in message


def test_empty_maps_and_nulls_are_dropped(api: Client, namespace: str) -> None:
    body: JsonObject = {"metadata": {"name": "x", "labels": {}, "annotations": None}, "data": {}, "immutable": None}
    created = api.post(api.path("configmaps", namespace), body).accepted(201)
    assert not {"data", "immutable"} & created.keys()
    assert not {"labels", "annotations"} & created["metadata"].keys()


def test_unknown_fields_are_rejected_if_strict_else_dropped_with_a_warning(api: Client, namespace: str) -> None:
    body = _named("x", dat={"a": "1"})
    message = api.post(api.path("configmaps", namespace), body, fieldValidation="Strict").refused(400, "BadRequest")
    assert 'strict decoding error: unknown field "dat"' in message
    answer = api.post(api.path("configmaps", namespace), body)
    assert "dat" not in answer.accepted(201)
    assert 'unknown field \\"dat\\"' in answer.headers["Warning"]


def test_dry_run_stores_nothing(api: Client, namespace: str) -> None:
    created = api.post(api.path("configmaps", namespace), _named("x"), dryRun="All").accepted(201)
    assert created["metadata"]["uid"]
    assert api.get(api.path("configmaps", namespace, "x")).code == 404


def test_replacement_keeps_uid_and_creation_time(api: Client, namespace: str, configmap: JsonObject) -> None:
    body = copy.deepcopy(configmap)
    body["data"] = {"b": "2"}
    stored = api.put(api.path("configmaps", namespace, "x"), body).accepted()
    assert stored["data"] == {"b": "2"}
    assert int(stored["metadata"]["resourceVersion"]) > int(configmap["metadata"]["resourceVersion"])
    assert stored["metadata"]["uid"] == configmap["metadata"]["uid"]
    assert stored["metadata"]["creationTimestamp"] == configmap["metadata"]["creationTimestamp"]


def test_stale_replacement_is_409(api: Client, namespace: str, configmap: JsonObject) -> None:
    path = api.path("configmaps", namespace, "x")
    body = {**configmap, "data": {"b": "2"}}
    api.put(path, body).accepted()
    answer = api.put(path, {**body, "data": {"c": "3"}})
    assert answer.refused(409, "Conflict") == (
        'Operation cannot be fulfilled on configmaps "x": the object has been modified; please apply your changes '
        "to the latest version and try again"
    )
    assert answer.json["details"] == {"name": "x", "kind": "configmaps"}
    assert api.get(path).accepted()["data"] == {"b": "2"}


def test_unconditional_replacement_keeps_the_uid(api: Client, namespace: str, configmap: JsonObject) -> None:
    stored = api.put(api.path("configmaps", namespace, "x"), _named("x", data={"z": "9"})).accepted()
    assert stored["data"] == {"z": "9"}
    assert stored["metadata"]["uid"] == configmap["metadata"]["uid"]
    assert "labels" not in stored["metadata"]


def test_leases_cannot_be_replaced_unconditionally(api: Client, namespace: str) -> None:
    created = api.post(api.path("leases", namespace), _named("x", spec={"holderIdentity": "a"})).accepted(201)
    path = api.path("leases", namespace, "x")
    message = api.put(path, _named("x", spec={"holderIdentity": "b"})).refused(422, "Invalid")
    assert 'leases.coordination.k8s.io "x" is invalid: metadata.resourceVersion: Invalid value' in message
    assert "must be specified for an update" in message
    created["spec"]["holderIdentity"] = "b"
    assert api.put(path, created).accepted()["spec"]["holderIdentity"] == "b"
    message = api.put(path, created | {"spec": {"holderIdentity": "c"}}).refused(409, "Conflict")
    assert 'on leases.coordination.k8s.io "x": the object has been modified' in message


def test_unchanged_replacement_keeps_the_resource_version(api: Client, namespace: str, configmap: JsonObject) -> None:
    stored = api.put(api.path("configmaps", namespace, "x"), configmap).accepted()
    assert stored["metadata"]["resourceVersion"] == configmap["metadata"]["resourceVersion"]


@pytest.mark.parametrize("given", ["2001-02-03T04:05:06Z", "2001-02-03T04:05:06+01:00"])
def test_replacement_cannot_change_the_creation_time(
    api: Client, namespace: str, configmap: JsonObject, given: str
) -> None:
    body = copy.deepcopy(configmap)
    body["metadata"]["creationTimestamp"] = given
    stored = api.put(api.path("configmaps", namespace, "x"), body).accepted()
    assert stored["metadata"] == configmap["metadata"]


def test_replacing_a_missing_object_is_404(api: Client, namespace: str) -> None:
    answer = api.put(api.path("configmaps", namespace, "x"), _named("x"))
    assert answer.refused(404, "NotFound") == 'configmaps "x" not found'


def test_replacement_under_another_name_is_400(api: Client, namespace: str, configmap: JsonObject) -> None:
    message = api.put(api.path("configmaps", namespace, "x"), _named("y")).refused(400, "BadRequest")
    assert message == "the name of the object (y) does not match the name on the URL (x)"
    api.put(api.path("configmaps", namespace, "x"), {"data": {}}).refused(400, "BadRequest")


def test_replacement_with_another_uid_is_409(api: Client, namespace: str, configmap: JsonObject) -> None:
    body = copy.deepcopy(configmap)
    body["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    del body["metadata"]["resourceVersion"]
    message = api.put(api.path("configmaps", namespace, "x"), body).refused(409, "Conflict")
    assert "Precondition failed: UID in precondition" in message


def test_immutable_configmaps_cannot_be_changed(api: Client, namespace: str) -> None:
    created = api.post(api.path("configmaps", namespace), _named("x", data={"a": "1"}, immutable=True)).accepted(201)
    message = api.put(api.path("configmaps", namespace, "x"), {**created, "data": {}}).refused(422, "Invalid")
    assert "data: Forbidden: field is immutable when `immutable` is set" in message
    api.delete(api.path("configmaps", namespace, "x")).accepted()


def test_lease_times_are_micro_times_in_utc(api: Client, namespace: str) -> None:
    spec = {"holderIdentity": "a", "renewTime": "2024-05-06T09:08:09.000001+02:00", "leaseDurationSeconds": 15}
    created = api.post(api.path("leases", namespace), _named("x", spec=spec)).accepted(201)
    assert created["spec"]["renewTime"] == "2024-05-06T07:08:09.000001Z"
    spec["renewTime"] = "2024-05-06T07:08:09Z"
    api.post(api.path("leases", namespace), _named("y", spec=spec)).refused(400, "BadRequest")


@pytest.mark.parametrize(("field", "value"), [("leaseDurationSeconds", 0), ("leaseTransitions", -1)])
def test_invalid_lease_numbers_are_422(api: Client, namespace: str, field: str, value: int) -> None:
    answer = api.post(api.path("leases", namespace), _named("x", spec={field: value}))
    assert f"spec.{field}: Invalid value: {value}" in answer.refused(422, "Invalid")


def test_events_must_be_in_the_namespace_of_their_object(api: Client, namespace: str) -> None:
    involved = {"kind": "Pod", "name": "p", "namespace": namespace}
    event = _named("e", involvedObject=involved, reason="Linked", type="Normal", message="m")
    api.post(api.path("events", namespace), event).accepted(201)
    event = _named("f", involvedObject={**involved, "namespace": "default"}, reason="Linked", type="Normal")
    message = api.post(api.path("events", namespace), event).refused(422, "Invalid")
    assert "involvedObject.namespace: Invalid value" in message


def test_namespaces_get_phase_and_name_label(api: Client, namespace: str) -> None:
    stored = api.get(f"/api/v1/namespaces/{namespace}").accepted()
    assert stored["status"]["phase"] == "Active"
    assert stored["metadata"]["labels"]["kubernetes.io/metadata.name"] == namespace
