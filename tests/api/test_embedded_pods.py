"""Graceful pod deletion, the demo scheduler, and namespace deletion in the embedded server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ratchet.dev.api import EmbeddedApi
from ratchet.dev.api.storage import Storage

if TYPE_CHECKING:
    from tests.api.conftest import Client, JsonObject

_PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def client(connect: Callable[[Path], Client], tmp_path: Path) -> Iterator[Client]:
    with EmbeddedApi(graceful_pods=True, scheduler=True) as server:
        yield connect(server.write_kubeconfig(tmp_path / "config"))


@pytest.fixture
def make_pod(client: Client, new_pod: Callable[..., JsonObject]) -> Callable[..., str]:
    """Factory that creates a pod and returns the name of its node ("" if it has none)."""

    def make(name: str, **spec: Any) -> str:
        body = new_pod(name, scheduler="default-scheduler")
        body["spec"].update(spec)
        client.post(_PODS, body).accepted(201)
        return str(client.get(f"{_PODS}/{name}").accepted()["spec"].get("nodeName", ""))

    return make


def _node(client: Client, name: str, unschedulable: bool = False, **labels: str) -> None:
    body = {"metadata": {"name": name, "labels": labels}, "spec": {"unschedulable": unschedulable}}
    client.post("/api/v1/nodes", body).accepted(201)


def test_scheduled_pods_terminate_until_the_kubelet_deletes_them(client: Client, make_pod: Callable[..., str]) -> None:
    make_pod("p", nodeName="n", terminationGracePeriodSeconds=7)
    version = client.get(_PODS).accepted()["metadata"]["resourceVersion"]
    with client.watch(_PODS, resourceVersion=version) as stream:
        terminating = client.delete(f"{_PODS}/p").accepted()
        assert terminating["metadata"]["deletionGracePeriodSeconds"] == 7
        assert terminating["metadata"]["deletionTimestamp"].endswith("Z")
        assert client.get(f"{_PODS}/p").code == 200
        client.delete(f"{_PODS}/p", gracePeriodSeconds=0).accepted()
        assert stream.take(2) == [("MODIFIED", "p"), ("DELETED", "p")]
    assert client.get(f"{_PODS}/p").code == 404


def test_a_second_deletion_can_only_shorten_the_grace_period(client: Client, make_pod: Callable[..., str]) -> None:
    make_pod("p", nodeName="n")
    client.delete(f"{_PODS}/p", gracePeriodSeconds=20).accepted()
    later = client.delete(f"{_PODS}/p", gracePeriodSeconds=60).accepted()
    assert later["metadata"]["deletionGracePeriodSeconds"] == 20
    sooner = client.delete(f"{_PODS}/p", gracePeriodSeconds=5).accepted()
    assert sooner["metadata"]["deletionGracePeriodSeconds"] == 5


def test_a_terminating_pod_can_be_updated(client: Client, make_pod: Callable[..., str]) -> None:
    make_pod("p", nodeName="n")
    client.delete(f"{_PODS}/p").accepted()
    client.patch(f"{_PODS}/p/status", {"status": {"phase": "Succeeded"}}).accepted()
    assert client.get(f"{_PODS}/p").accepted()["metadata"]["deletionGracePeriodSeconds"] == 30


def test_finished_pods_are_deleted_immediately(client: Client, make_pod: Callable[..., str]) -> None:
    make_pod("p", nodeName="n")
    client.patch(f"{_PODS}/p/status", {"status": {"phase": "Failed"}}).accepted()
    client.delete(f"{_PODS}/p").accepted()
    assert client.get(f"{_PODS}/p").code == 404


def test_the_scheduler_spreads_pods_over_nodes(client: Client, make_pod: Callable[..., str]) -> None:
    _node(client, "a")
    _node(client, "b")
    assert [make_pod(name) for name in ("p", "q", "r", "s")] == ["a", "b", "a", "b"]


def test_node_selectors_and_cordons_are_honoured(client: Client, make_pod: Callable[..., str]) -> None:
    _node(client, "a", zone="east")
    _node(client, "b", zone="west")
    _node(client, "c", unschedulable=True, zone="north")
    assert make_pod("p", nodeSelector={"zone": "west"}) == "b"
    assert make_pod("q", nodeSelector={"zone": "north"}) == ""
    client.patch("/api/v1/nodes/c", {"spec": {"unschedulable": None}}).accepted()
    assert client.get(f"{_PODS}/q").accepted()["spec"]["nodeName"] == "c"


def test_pending_pods_are_scheduled_when_a_node_appears(client: Client, make_pod: Callable[..., str]) -> None:
    assert make_pod("p") == ""
    version = client.get(_PODS).accepted()["metadata"]["resourceVersion"]
    with client.watch(_PODS, resourceVersion=version) as stream:
        _node(client, "a")
        event = stream.next()
    assert (event["type"], event["object"]["spec"]["nodeName"]) == ("MODIFIED", "a")


def test_a_restarted_scheduler_schedules_new_pods(
    connect: Callable[[Path], Client], tmp_path: Path, new_pod: Callable[..., JsonObject]
) -> None:
    storage = Storage()
    for round_ in ("p", "q"):
        with EmbeddedApi(storage, scheduler=True) as server:
            client = connect(server.write_kubeconfig(tmp_path / round_))
            if round_ == "p":
                _node(client, "a")
            client.post(_PODS, new_pod(round_, scheduler="default-scheduler")).accepted(201)
            assert client.items(_PODS, fieldSelector=f"spec.nodeName=a,metadata.name={round_}") == [round_]


def test_pods_of_other_schedulers_are_ignored(client: Client, make_pod: Callable[..., str]) -> None:
    _node(client, "a")
    assert make_pod("p", schedulerName="other") == ""


def test_namespace_deletion_deletes_the_objects_in_it(client: Client, new_pod: Callable[[str], JsonObject]) -> None:
    client.post("/api/v1/namespaces", {"metadata": {"name": "ns"}}).accepted(201)
    scheduled = new_pod("p")
    scheduled["spec"]["nodeName"] = "n"
    client.post(client.path("pods", "ns"), scheduled).accepted(201)
    client.post(client.path("configmaps", "ns"), {"metadata": {"name": "x"}}).accepted(201)
    client.delete("/api/v1/namespaces/ns").accepted()
    assert client.get("/api/v1/namespaces/ns").code == 404
    assert client.items(client.path("pods", "ns")) == []
    assert client.items(client.path("configmaps", "ns")) == []
    client.post("/api/v1/namespaces", {"metadata": {"name": "ns"}}).accepted(201)
