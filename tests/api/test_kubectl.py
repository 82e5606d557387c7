"""kubectl commands against the server, with validation enabled."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.api.conftest import Client, Kubectl

_CONFIGMAP: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "x", "labels": {"app": "web"}},
    "data": {"a": "1"},
}
_POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p"},
    "spec": {
        "containers": [{"name": "main", "image": "busybox:1"}],
        "automountServiceAccountToken": False,
    },
}
_LEASE: dict[str, Any] = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": "l"},
    "spec": {"holderIdentity": "me"},
}


def _output(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture
def stored(kubectl: Kubectl) -> None:
    """A ConfigMap "x", a pod "p" and a lease "l", created by ``kubectl create -f``."""
    text = yaml.safe_dump_all([_CONFIGMAP, _POD, _LEASE])
    out = _output(kubectl("create", "-f", "-", stdin=text))
    assert out.splitlines() == ["configmap/x created", "pod/p created", "lease.coordination.k8s.io/l created"]


def test_create_from_arguments(kubectl: Kubectl, api: Client, namespace: str) -> None:
    assert _output(kubectl("create", "configmap", "x", "--from-literal=a=1")) == "configmap/x created\n"
    assert api.get(api.path("configmaps", namespace, "x")).accepted()["data"] == {"a": "1"}
    assert _output(kubectl("create", "serviceaccount", "s")) == "serviceaccount/s created\n"
    process = kubectl("create", "configmap", "x", "--from-literal=a=1")
    assert process.returncode == 1
    assert 'configmaps "x" already exists' in process.stderr


def test_create_and_delete_a_namespace(kubectl: Kubectl, api: Client, namespace: str) -> None:
    name = f"{namespace}-made"
    try:
        assert _output(kubectl("create", "namespace", name)) == f"namespace/{name} created\n"
        assert api.get(f"/api/v1/namespaces/{name}").accepted()["status"]["phase"] == "Active"
    finally:
        assert f'namespace "{name}" deleted' in _output(kubectl("delete", "namespace", name, "--wait=false"))


@pytest.mark.usefixtures("stored")
def test_get_in_every_output_format(kubectl: Kubectl, namespace: str) -> None:
    heading, row = _output(kubectl("get", "configmap", "x")).splitlines()
    assert heading.split() == ["NAME", "DATA", "AGE"]
    assert row.split()[:2] == ["x", "1"]
    wide = _output(kubectl("get", "pods", "-o", "wide")).splitlines()
    assert wide[0].split()[:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    assert wide[1].split()[:3] == ["p", "0/1", "Pending"]
    assert _output(kubectl("get", "lease", "-o", "name")) == "lease.coordination.k8s.io/l\n"
    assert yaml.safe_load(_output(kubectl("get", "cm", "x", "-o", "yaml")))["data"] == {"a": "1"}
    assert json.loads(_output(kubectl("get", "po", "p", "-o", "json")))["metadata"]["namespace"] == namespace
    assert _output(kubectl("get", "lease", "l", "-o", "jsonpath={.spec.holderIdentity}")) == "me"
    labelled = _output(kubectl("get", "cm", "-l", "app=web", "-L", "app")).splitlines()
    assert labelled[0].split()[-1] == "APP"
    assert labelled[1].split()[-1] == "web"
    assert len(labelled) == 2
    assert "No resources found" in kubectl("get", "cm", "-l", "app=none").stderr


def test_get_sorts_by_a_field(kubectl: Kubectl) -> None:
    for name, order in (("a", "2"), ("b", "1")):
        _output(kubectl("create", "configmap", name, f"--from-literal=order={order}"))
        _output(kubectl("label", "configmap", name, "test=sort"))
    listed = _output(kubectl("get", "cm", "-l", "test=sort", "--sort-by=.data.order", "--no-headers"))
    assert [line.split()[0] for line in listed.splitlines()] == ["b", "a"]


@pytest.mark.usefixtures("stored")
def test_get_watches_changes(kubectl: Kubectl, api: Client, namespace: str) -> None:
    path = api.path("leases", namespace, "l")
    with kubectl.started("get", "leases", "--watch", "--output-watch-events") as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["EVENT", "NAME", "HOLDER", "AGE"]
        assert process.stdout.readline().split()[:3] == ["ADDED", "l", "me"]
        api.patch(path, {"spec": {"holderIdentity": "you"}}).accepted()
        assert process.stdout.readline().split()[:3] == ["MODIFIED", "l", "you"]
        api.delete(path).accepted()
        assert process.stdout.readline().split()[:3] == ["DELETED", "l", "you"]


@pytest.mark.usefixtures("stored")
def test_apply_reports_created_configured_and_unchanged(kubectl: Kubectl, api: Client, namespace: str) -> None:
    manifest = {**_CONFIGMAP, "metadata": {"name": "applied"}, "data": {"a": "1", "b": "2"}}
    assert _output(kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))) == "configmap/applied created\n"
    manifest["data"] = {"a": "3"}
    text = yaml.safe_dump(manifest)
    assert _output(kubectl("apply", "-f", "-", stdin=text)) == "configmap/applied configured\n"
    assert _output(kubectl("apply", "-f", "-", stdin=text)) == "configmap/applied unchanged\n"
    assert api.get(api.path("configmaps", namespace, "applied")).accepted()["data"] == {"a": "3"}


def test_unknown_fields_are_rejected(kubectl: Kubectl) -> None:
    manifest = {**_CONFIGMAP, "dat": {}}
    process = kubectl("create", "-f", "-", stdin=yaml.safe_dump(manifest))
    assert process.returncode == 1
    assert 'unknown field "dat"' in process.stderr


@pytest.mark.usefixtures("stored")
def test_label_annotate_and_patch_change_an_object(kubectl: Kubectl, api: Client, namespace: str) -> None:
    path = api.path("configmaps", namespace, "x")
    assert _output(kubectl("label", "cm", "x", "tier=db", "app-")).startswith("configmap/x ")
    assert _output(kubectl("annotate", "cm", "x", "example.com/a=b")).startswith("configmap/x annotate")
    assert _output(kubectl("patch", "cm", "x", "-p", '{"data":{"b":"2"}}')) == "configmap/x patched\n"
    operation = '[{"op":"remove","path":"/data/a"}]'
    assert _output(kubectl("patch", "cm", "x", "--type=json", "-p", operation)) == "configmap/x patched\n"
    merge = '{"data":{"c":"3"}}'
    assert _output(kubectl("patch", "cm", "x", "--type=merge", "-p", merge)) == "configmap/x patched\n"
    stored = api.get(path).accepted()
    assert stored["data"] == {"b": "2", "c": "3"}
    assert stored["metadata"]["labels"] == {"tier": "db"}
    assert stored["metadata"]["annotations"] == {"example.com/a": "b"}


@pytest.mark.usefixtures("stored")
def test_replace_detects_concurrent_changes(kubectl: Kubectl, api: Client, namespace: str) -> None:
    manifest = yaml.safe_load(_output(kubectl("get", "cm", "x", "-o", "yaml")))
    manifest["data"] = {"a": "2"}
    text = yaml.safe_dump(manifest)
    assert _output(kubectl("replace", "-f", "-", stdin=text)) == "configmap/x replaced\n"
    manifest["data"] = {"a": "3"}
    process = kubectl("replace", "-f", "-", stdin=yaml.safe_dump(manifest))
    assert process.returncode == 1
    assert "the object has been modified" in process.stderr
    assert api.get(api.path("configmaps", namespace, "x")).accepted()["data"] == {"a": "2"}


@pytest.mark.usefixtures("stored")
def test_edit_changes_an_object(kubectl: Kubectl, api: Client, namespace: str) -> None:
    out = _output(kubectl("edit", "cm", "x", editor="sed -i 's/a: .1./a: edited/'"))
    assert out == "configmap/x edited\n"
    assert api.get(api.path("configmaps", namespace, "x")).accepted()["data"] == {"a": "edited"}


@pytest.mark.usefixtures("stored")
def test_describe_shows_events(kubectl: Kubectl, api: Client, namespace: str) -> None:
    uid = api.get(api.path("pods", namespace, "p")).accepted()["metadata"]["uid"]
    involved = {"kind": "Pod", "name": "p", "namespace": namespace, "uid": uid}
    event = {
        "metadata": {"name": "e"},
        "involvedObject": involved,
        "reason": "Linked",
        "message": "link is up",
        "type": "Normal",
        "count": 1,
    }
    api.post(api.path("events", namespace), event).accepted(201)
    described = _output(kubectl("describe", "pod", "p"))
    assert "busybox:1" in described
    assert "link is up" in described
    assert "link is up" in _output(kubectl("get", "events"))
    assert "app=web" in _output(kubectl("describe", "cm", "x"))


@pytest.mark.usefixtures("stored")
def test_delete_removes_objects_and_reports_missing_ones(kubectl: Kubectl, api: Client, namespace: str) -> None:
    assert _output(kubectl("delete", "cm", "x")).startswith('configmap "x" deleted')
    assert api.get(api.path("configmaps", namespace, "x")).code == 404
    text = yaml.safe_dump_all([_POD, _LEASE])
    assert 'lease.coordination.k8s.io "l" deleted' in _output(kubectl("delete", "-f", "-", stdin=text))
    process = kubectl("delete", "pod", "p")
    assert process.returncode == 1
    assert 'pods "p" not found' in process.stderr
    assert kubectl("delete", "pod", "p", "--ignore-not-found").returncode == 0


@pytest.mark.usefixtures("stored")
def test_delete_by_selector(kubectl: Kubectl, api: Client, namespace: str) -> None:
    assert _output(kubectl("delete", "cm", "-l", "app=web")).startswith('configmap "x" deleted')
    assert api.get(api.path("configmaps", namespace, "x")).code == 404


@pytest.mark.usefixtures("stored")
def test_wait_for_a_condition(kubectl: Kubectl, api: Client, namespace: str) -> None:
    path = api.path("pods", namespace, "p", "status")
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    waiter = _Background(lambda: kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=20s"))
    api.patch(path, ready, "strategic-merge-patch+json").accepted()
    assert _output(waiter.result()) == "pod/p condition met\n"
    process = kubectl("wait", "--for=condition=Other", "pod/p", "--timeout=1s")
    assert process.returncode == 1
    assert "timed out" in process.stderr


@pytest.mark.usefixtures("stored")
def test_wait_for_deletion(kubectl: Kubectl, api: Client, namespace: str) -> None:
    waiter = _Background(lambda: kubectl("wait", "--for=delete", "pod/p", "--timeout=20s"))
    api.delete(api.path("pods", namespace, "p")).accepted()
    process = waiter.result()
    assert process.returncode == 0 or 'pods "p" not found' in process.stderr


@pytest.mark.usefixtures("stored")
def test_status_is_patched_as_a_subresource(kubectl: Kubectl, api: Client, namespace: str) -> None:
    patch = '{"status":{"phase":"Running"}}'
    out = _output(kubectl("patch", "pod", "p", "--subresource=status", "--type=merge", "-p", patch))
    assert out == "pod/p patched\n"
    assert _output(kubectl("get", "pods", "--no-headers")).split()[2] == "Running"


def test_cordon_label_and_describe_a_node(kubectl: Kubectl, api: Client, node: str) -> None:
    assert _output(kubectl("cordon", node)) == f"node/{node} cordoned\n"
    assert "SchedulingDisabled" in _output(kubectl("get", "node", node))
    assert _output(kubectl("label", "node", node, "example.com/zone=a")) == f"node/{node} labeled\n"
    assert "example.com/zone=a" in _output(kubectl("describe", "node", node))
    stored = api.get(f"/api/v1/nodes/{node}").accepted()
    assert stored["spec"]["unschedulable"] is True


def test_api_resources_lists_the_supported_kinds(kubectl: Kubectl) -> None:
    names = {line.split()[0] for line in _output(kubectl("api-resources", "--no-headers")).splitlines()}
    assert {"configmaps", "events", "leases", "namespaces", "nodes", "pods", "serviceaccounts"} <= names


class _Background:
    """A command that runs in a thread while the test continues."""

    def __init__(self, command: Callable[[], subprocess.CompletedProcess[str]]) -> None:
        self._results: list[subprocess.CompletedProcess[str]] = []
        self._thread = threading.Thread(target=lambda: self._results.append(command()), daemon=True)
        self._thread.start()

    def result(self) -> subprocess.CompletedProcess[str]:
        self._thread.join(30)
        assert self._results, "the command does not end"
        return self._results[0]
