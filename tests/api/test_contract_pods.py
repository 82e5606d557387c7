"""Pods and nodes: defaults, the status subresource and binding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Client, JsonObject


@pytest.fixture
def path(api: Client, namespace: str, pod: JsonObject) -> str:
    """The path of the stored pod "p"."""
    return api.path("pods", namespace, "p")


def test_pod_defaults(api: Client, namespace: str, new_pod: Callable[[str], JsonObject]) -> None:
    body = new_pod("q")
    del body["spec"]["schedulerName"]
    pod = api.post(api.path("pods", namespace), body).accepted(201)
    assert pod["status"]["phase"] == "Pending"
    assert pod["status"]["qosClass"] == "BestEffort"
    spec = pod["spec"]
    assert (spec["restartPolicy"], spec["dnsPolicy"]) == ("Always", "ClusterFirst")
    assert spec["terminationGracePeriodSeconds"] == 30
    assert spec["schedulerName"] == "default-scheduler"
    assert spec["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert "nodeName" not in spec
    api.delete(api.path("pods", namespace, "q"), gracePeriodSeconds=0).accepted()


def test_containers_are_required(api: Client, namespace: str) -> None:
    specs: list[JsonObject] = [{}, {"containers": []}]
    for spec in specs:
        body = {"metadata": {"name": "p"}, "spec": {**spec, "automountServiceAccountToken": False}}
        message = api.post(api.path("pods", namespace), body).refused(422, "Invalid")
        assert "spec.containers: Required value" in message


def test_status_given_at_creation_is_ignored(api: Client, namespace: str, new_pod: Callable[[str], JsonObject]) -> None:
    body = {**new_pod("q"), "status": {"phase": "Running"}}
    created = api.post(api.path("pods", namespace), body).accepted(201)
    assert created["status"]["phase"] == "Pending"


@pytest.mark.parametrize("by_patch", [True, False])
def test_status_subresource_changes_only_status(api: Client, path: str, pod: JsonObject, by_patch: bool) -> None:
    change = {"status": {"phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}]}}
    if by_patch:
        change["spec"] = {"schedulerName": "other"}
        stored = api.patch(f"{path}/status", change).accepted()
    else:
        body = copy.deepcopy(pod)
        body["spec"]["schedulerName"] = "other"
        body["status"].update(change["status"])
        stored = api.put(f"{path}/status", body).accepted()
    assert stored["status"]["phase"] == "Running"
    assert stored["status"]["podIP"] == "10.1.2.3"
    assert stored["spec"] == pod["spec"]
    assert api.get(path).accepted()["status"]["phase"] == "Running"
    assert api.get(f"{path}/status").accepted()["status"]["phase"] == "Running"


def test_main_resource_ignores_status(api: Client, path: str, pod: JsonObject) -> None:
    body = copy.deepcopy(pod)
    body["metadata"]["annotations"] = {"example.com/a": "1"}
    body["status"]["phase"] = "Running"
    stored = api.put(path, body).accepted()
    assert stored["status"]["phase"] == "Pending"
    assert stored["metadata"]["annotations"]["example.com/a"] == "1"
    assert api.patch(path, {"status": {"phase": "Running"}}).accepted()["status"]["phase"] == "Pending"


def test_stale_status_is_409(api: Client, path: str, pod: JsonObject) -> None:
    api.patch(f"{path}/status", {"status": {"phase": "Running"}}).accepted()
    stale = {**pod, "status": {"phase": "Failed"}}
    assert 'on pods "p": the object has been modified' in api.put(f"{path}/status", stale).refused(409, "Conflict")


def test_a_pod_can_be_bound_to_a_node_once(api: Client, path: str, node: str) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "p"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    status = api.post(f"{path}/binding", body).accepted(201)
    assert (status["kind"], status["status"]) == ("Status", "Success")
    stored = api.get(path).accepted()
    assert stored["spec"]["nodeName"] == node
    conditions = {item["type"]: item["status"] for item in stored["status"]["conditions"]}
    assert conditions["PodScheduled"] == "True"
    message = api.post(f"{path}/binding", body).refused(409, "Conflict")
    assert f'pod p is already assigned to node "{node}"' in message


def test_binding_requires_a_node_and_a_pod(api: Client, namespace: str, path: str) -> None:
    def body(name: str, node: str) -> JsonObject:
        return {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"kind": "Node", "name": node},
        }

    answer = api.post(f"{path}/binding", body("p", ""))
    assert answer.code in (422, 500)
    assert "target.name: Required value" in answer.text
    missing = api.path("pods", namespace, "none", "binding")
    api.post(missing, body("none", "n")).refused(404, "NotFound")


def test_pods_are_selected_by_node_and_phase(
    api: Client, namespace: str, pod: JsonObject, new_pod: Callable[[str], JsonObject]
) -> None:
    path = api.path("pods", namespace)
    scheduled = new_pod("q")
    scheduled["spec"]["nodeName"] = "somewhere"
    api.post(path, scheduled).accepted(201)
    try:
        assert api.items(path, fieldSelector="spec.nodeName=somewhere") == ["q"]
        assert api.items(path, fieldSelector="spec.nodeName=") == ["p"]
        api.patch(f"{path}/p/status", {"status": {"phase": "Running"}}).accepted()
        assert api.items(path, fieldSelector="status.phase=Running") == ["p"]
        assert api.items(path, fieldSelector="status.phase!=Running,spec.nodeName=somewhere") == ["q"]
    finally:
        api.delete(f"{path}/q", gracePeriodSeconds=0)


def test_unscheduled_pods_are_deleted_immediately(api: Client, path: str, pod: JsonObject) -> None:
    body = api.delete(path).accepted()
    assert (body["kind"], body["metadata"]["uid"]) == ("Pod", pod["metadata"]["uid"])
    assert int(body["metadata"]["resourceVersion"]) > int(pod["metadata"]["resourceVersion"])
    assert api.get(path).code == 404


def test_forced_deletion_removes_a_scheduled_pod(
    api: Client, namespace: str, new_pod: Callable[[str], JsonObject]
) -> None:
    body = new_pod("q")
    body["spec"]["nodeName"] = "somewhere"
    api.post(api.path("pods", namespace), body).accepted(201)
    api.delete(api.path("pods", namespace, "q"), gracePeriodSeconds=0).accepted()
    assert api.get(api.path("pods", namespace, "q")).code == 404


def test_node_status_subresource_changes_only_status(api: Client, node: str) -> None:
    path = f"/api/v1/nodes/{node}"
    ready = {"type": "Ready", "status": "True"}
    api.patch(f"{path}/status", {"status": {"conditions": [ready]}, "spec": {"unschedulable": True}}).accepted()
    stored = api.get(path).accepted()
    assert [(item["type"], item["status"]) for item in stored["status"]["conditions"]] == [("Ready", "True")]
    assert "unschedulable" not in stored["spec"]
    stored = api.patch(path, {"status": {"conditions": None}, "spec": {"unschedulable": True}}).accepted()
    assert stored["spec"]["unschedulable"] is True
    assert stored["status"]["conditions"][0]["status"] == "True"
