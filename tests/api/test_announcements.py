"""Events and conditions of pods as the API shows them, and the observer of API requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp import web

from ratchet.agent.announce import Announcer
from ratchet.agent.events import Reason
from ratchet.agent.metrics import Metrics
from ratchet.core.pod import Pod, PodRef
from ratchet.dev.api import EmbeddedApi
from ratchet.errors import ApiUnavailableError, ConflictError
from ratchet.store.announcements import EventType, record_event, set_condition
from ratchet.store.api_errors import ForbiddenError, NotFoundError
from ratchet.store.apiserver import ApiServer
from ratchet.store.apiserver import connect as connect_to
from ratchet.store.codec.pods import decode_pod
from ratchet.store.session import Watched
from tests.support.faults import Faults, Rule, answering, dropping

if TYPE_CHECKING:
    from tests.api.conftest import Client, JsonObject, Kubectl

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def store(kubeconfig: Path) -> Iterator[ApiServer]:
    """The store's connection to the server under test."""
    with closing(connect_to(str(kubeconfig), patience=5.0)) as opened:
        yield opened


@pytest.fixture
def gated(api: Client, namespace: str, new_pod: Callable[[str], JsonObject]) -> Iterator[Pod]:
    """A stored pod "g" with the readiness gate."""
    body = new_pod("g")
    body["spec"]["readinessGates"] = [{"conditionType": "ratchet/linked"}]
    yield decode_pod(api.post(api.path("pods", namespace), body).accepted(201))
    api.delete(api.path("pods", namespace, "g"), gracePeriodSeconds=0)


def conditions(api: Client, pod: PodRef) -> dict[str, JsonObject]:
    """Return the conditions of a pod, by type."""
    status = api.get(api.path("pods", pod.namespace, pod.name)).accepted()["status"]
    return {one["type"]: one for one in status.get("conditions", [])}


def events(api: Client, pod: PodRef) -> list[JsonObject]:
    """Return the Events of a pod, with the field selector of `kubectl describe`."""
    selector = f"involvedObject.name={pod.name},involvedObject.uid={pod.uid}"
    found: list[JsonObject] = api.get(api.path("events", pod.namespace), fieldSelector=selector).accepted()["items"]
    return found


def wait_until(predicate: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


class TestEvents:
    def test_an_event_refers_to_its_pod(self, store: ApiServer, api: Client, gated: Pod) -> None:
        record_event(store, gated.ref, "Linked", "the link l", EventType.NORMAL, now=NOON, host="node-a")
        record_event(store, gated.ref, "LinkLost", "no more", EventType.WARNING, now=NOON)
        reported = {one["reason"]: one for one in events(api, gated.ref)}
        assert set(reported) == {"Linked", "LinkLost"}
        linked = reported["Linked"]
        assert linked["involvedObject"] == {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": gated.ref.namespace,
            "name": "g",
            "uid": gated.ref.uid,
        }
        assert (linked["type"], reported["LinkLost"]["type"]) == ("Normal", "Warning")
        assert (linked["message"], linked["count"]) == ("the link l", 1)
        assert linked["firstTimestamp"] == linked["lastTimestamp"] == "2026-01-02T12:00:00Z"
        assert linked["source"] == {"component": "ratchet", "host": "node-a"}
        assert linked["reportingComponent"] == "ratchet"
        assert linked["metadata"]["name"].startswith("g.")

    def test_kubectl_shows_the_event(self, store: ApiServer, gated: Pod, kubectl: Kubectl) -> None:
        record_event(store, gated.ref, "Linked", "the link l", EventType.NORMAL, now=NOON)
        shown = kubectl("events", "--for", "pod/g").stdout
        assert "Linked" in shown
        assert "the link l" in shown

    def test_an_event_in_a_missing_namespace_is_not_found(self, store: ApiServer) -> None:
        with pytest.raises(NotFoundError):
            record_event(store, PodRef("ratchet-nowhere", "g", "u"), "Linked", "m", EventType.NORMAL, now=NOON)


class TestCondition:
    def test_set_condition_keeps_other_conditions(self, store: ApiServer, api: Client, gated: Pod) -> None:
        ready = {"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady"}
        path = api.path("pods", gated.ref.namespace, "g", "status")
        api.patch(path, {"status": {"conditions": [ready]}}, "strategic-merge-patch+json").accepted()
        set_condition(store, gated.ref, False, "WaitingForPeer", "waits for b", NOON)
        reported = conditions(api, gated.ref)
        assert reported["Ready"].items() >= ready.items()
        assert reported["ratchet/linked"] == {
            "type": "ratchet/linked",
            "status": "False",
            "reason": "WaitingForPeer",
            "message": "waits for b",
            "lastTransitionTime": "2026-01-02T12:00:00Z",
        } | {key: None for key in ("lastProbeTime",) if key in reported["ratchet/linked"]}
        set_condition(store, gated.ref, True, "Linked", "", NOON.replace(hour=13))
        reported = conditions(api, gated.ref)
        assert reported["Ready"].items() >= ready.items()
        assert reported["ratchet/linked"]["status"] == "True"
        assert reported["ratchet/linked"]["lastTransitionTime"] == "2026-01-02T13:00:00Z"

    def test_set_condition_rejects_a_pod_with_another_uid(self, store: ApiServer, api: Client, gated: Pod) -> None:
        before = api.get(api.path("pods", gated.ref.namespace, "g")).accepted()
        with pytest.raises(ConflictError):
            set_condition(store, PodRef(gated.ref.namespace, "g", "another"), True, "Linked", "", NOON)
        assert api.get(api.path("pods", gated.ref.namespace, "g")).accepted() == before

    def test_set_condition_rejects_a_missing_pod(self, store: ApiServer, namespace: str) -> None:
        with pytest.raises(NotFoundError):
            set_condition(store, PodRef(namespace, "nobody", "u"), True, "Linked", "", NOON)


class TestAnnouncer:
    def test_a_missing_pod_does_not_block_other_updates(self, store: ApiServer, api: Client, gated: Pod) -> None:
        announcer = Announcer(store, "node-a", Metrics(), events=True, readiness=True)
        gone = Pod(PodRef(gated.ref.namespace, "gone", "u"), gates=gated.gates)
        announcer.condition(gone, True, "Linked", "m")
        announcer.condition(gated, True, "Linked", "all links stand")
        announcer.event(gated.ref, Reason.LINKED, "the link l")
        announcer.close(10)
        assert conditions(api, gated.ref)["ratchet/linked"]["message"] == "all links stand"
        assert [one["message"] for one in events(api, gated.ref)] == ["the link l"]

    def test_updates_are_sent_once_the_api_is_back(
        self, connect: Callable[[Path], Client], new_pod: Callable[[str], JsonObject], tmp_path: Path
    ) -> None:
        faults = Faults()
        with EmbeddedApi(middlewares=[faults.middleware]) as server:
            path = server.write_kubeconfig(tmp_path / "kubeconfig")
            client = connect(path)
            body = new_pod("g")
            body["spec"]["readinessGates"] = [{"conditionType": "ratchet/linked"}]
            pod = decode_pod(client.post(client.path("pods", "default"), body).accepted(201))
            outage = faults.add(Rule(lambda sent: True, before=dropping, times=10**6))
            with closing(connect_to(str(path), patience=0.01)) as store:
                announcer = Announcer(store, "a", Metrics(), events=True, readiness=True, pauses=(0.01, 0.1))
                announcer.condition(pod, True, "Linked", "m")
                announcer.event(pod.ref, Reason.LINKED, "m")
                wait_until(lambda: outage.seen > 2)
                faults.clear()
                wait_until(lambda: "ratchet/linked" in conditions(client, pod.ref))
                announcer.close(10)


class TestObserver:
    """Calls of the observer, for requests to a server with injected faults."""

    @pytest.fixture
    def faults(self) -> Faults:
        return Faults()

    @pytest.fixture
    def heard(self) -> list[tuple[str, str, int, float]]:
        return []

    @pytest.fixture
    def observed(self, faults: Faults, heard: list[Any], tmp_path: Path) -> Iterator[ApiServer]:
        def observer(*request: Any) -> None:
            heard.append(request)

        with EmbeddedApi(middlewares=[faults.middleware]) as server:
            path = server.write_kubeconfig(tmp_path / "kubeconfig")
            with closing(connect_to(str(path), patience=5.0, observer=observer)) as opened:
                yield opened

    def test_each_finished_request_is_observed(self, observed: ApiServer, heard: list[Any]) -> None:
        path = "/api/v1/namespaces/default"
        observed.get(path)
        observed.create(f"{path}/configmaps", {"metadata": {"name": "x"}})
        with pytest.raises(NotFoundError):
            observed.get(f"{path}/configmaps/y")
        assert [request[:3] for request in heard] == [
            ("GET", path, 200),
            ("POST", f"{path}/configmaps", 201),
            ("GET", f"{path}/configmaps/y", 404),
        ]
        assert all(0 < request[3] < 5 for request in heard)

    def test_each_attempt_is_observed(self, observed: ApiServer, heard: list[Any], faults: Faults) -> None:
        faults.add(Rule(lambda sent: True, before=answering(503, "ServiceUnavailable")))
        observed.get("/api/v1/namespaces/default")
        assert [request[2] for request in heard] == [503, 200]

    def test_a_dropped_request_is_observed_with_status_0(
        self, observed: ApiServer, heard: list[Any], faults: Faults
    ) -> None:
        faults.add(Rule(lambda sent: True, before=dropping))
        observed.get("/api/v1/namespaces/default")
        assert [request[2] for request in heard] == [0, 200]

    def test_a_truncated_response_is_observed_with_status_0(
        self, observed: ApiServer, heard: list[Any], faults: Faults
    ) -> None:
        async def truncated(_: web.Request) -> web.Response:
            return web.Response(text="{", content_type="application/json")

        faults.add(Rule(lambda sent: True, before=truncated))
        observed.get("/api/v1/namespaces/default")
        assert [request[2] for request in heard] == [0, 200]

    def test_a_request_to_a_stopped_server_is_observed_with_status_0(
        self, observed: ApiServer, heard: list[Any], tmp_path: Path
    ) -> None:
        def observer(*request: Any) -> None:
            heard.append(request)

        with EmbeddedApi() as server:
            path = server.write_kubeconfig(tmp_path / "gone")
        with (
            closing(connect_to(str(path), patience=0.05, observer=observer)) as gone,
            pytest.raises(ApiUnavailableError),
        ):
            gone.get("/api/v1/pods")
        assert {request[:3] for request in heard} == {("GET", "/api/v1/pods", 0)}

    def test_a_watch_is_observed_when_its_headers_arrive(self, observed: ApiServer, heard: list[Any]) -> None:
        path = "/api/v1/namespaces/default/configmaps"
        items, version = observed.list(path)
        heard.clear()
        with closing(cast(Generator[Watched, None, None], observed.watch(path, version, 20.0))) as stream:
            observed.create(path, {"metadata": {"name": "x"}})
            assert next(stream).type == "ADDED"
            assert [request[:3] for request in heard] == [("POST", path, 201), ("GET", path, 200)]
        assert len(heard) == 2
        assert items == []

    def test_a_forbidden_watch_is_observed(self, observed: ApiServer, heard: list[Any], faults: Faults) -> None:
        faults.add(Rule(lambda sent: True, before=answering(403, "Forbidden")))
        with pytest.raises(ForbiddenError):
            next(observed.watch("/api/v1/pods", "1", 5.0))
        assert [request[2] for request in heard] == [403]
