"""The Python client library against the server: typed objects, watches, leases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

if TYPE_CHECKING:
    from tests.api.conftest import JsonObject


@pytest.fixture
def connection(kubeconfig: Path) -> Iterator[Any]:
    """An API client of the library, configured by the kubeconfig."""
    made = config.new_client_from_config(str(kubeconfig))
    yield made
    made.rest_client.pool_manager.clear()


@pytest.fixture
def core(connection: Any) -> Any:
    return client.CoreV1Api(connection)


def test_a_read_object_can_be_written_back(core: Any, namespace: str, configmap: JsonObject) -> None:
    read = core.read_namespaced_config_map("x", namespace)
    same = core.replace_namespaced_config_map("x", namespace, read)
    assert same.metadata.resource_version == read.metadata.resource_version
    read.data["a"] = "2"
    written = core.replace_namespaced_config_map("x", namespace, read)
    assert written.data == {"a": "2"}
    with pytest.raises(ApiException) as caught:
        core.replace_namespaced_config_map("x", namespace, read)
    assert (caught.value.status, caught.value.reason) == (409, "Conflict")


def test_pod_status_round_trip(core: Any, namespace: str, pod: JsonObject) -> None:
    now = datetime.now(UTC)
    condition = client.V1PodCondition(type="Ready", status="True", last_transition_time=now)
    body = {"status": {"conditions": [condition], "phase": "Running"}}
    core.patch_namespaced_pod_status("p", namespace, body)
    read = core.read_namespaced_pod("p", namespace)
    ready = [item for item in read.status.conditions if item.type == "Ready"]
    assert ready[0].last_transition_time == now.replace(microsecond=0)
    same = core.replace_namespaced_pod_status("p", namespace, read)
    assert same.metadata.resource_version == read.metadata.resource_version


def test_a_watch_delivers_a_deletion(core: Any, namespace: str, configmap: JsonObject) -> None:
    stream = watch.Watch()
    listed = core.list_namespaced_config_map(namespace)
    core.delete_namespaced_config_map(
        "x",
        namespace,
        body=client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=configmap["metadata"]["uid"])),
    )
    for event in stream.stream(
        core.list_namespaced_config_map,
        namespace,
        resource_version=listed.metadata.resource_version,
        timeout_seconds=10,
    ):
        assert (event["type"], event["object"].metadata.name) == ("DELETED", "x")
        stream.stop()


def test_lease_round_trip(connection: Any, namespace: str) -> None:
    coordination = client.CoordinationV1Api(connection)
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    spec = client.V1LeaseSpec(holder_identity="me", renew_time=moment, lease_duration_seconds=15)
    lease = client.V1Lease(metadata=client.V1ObjectMeta(name="l"), spec=spec)
    made: Any = coordination.create_namespaced_lease(namespace, lease)
    assert made.spec.renew_time == moment
    made.spec.holder_identity = "you"
    replaced: Any = coordination.replace_namespaced_lease("l", namespace, made)
    assert replaced.spec.holder_identity == "you"
