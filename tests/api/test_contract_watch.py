"""Watches: initial events, later events, and the end of the stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Client, JsonObject


def _make(api: Client, namespace: str, name: str, **labels: str) -> JsonObject:
    body = {"metadata": {"name": name, "labels": labels}}
    return api.post(api.path("configmaps", namespace), body).accepted(201)


@pytest.fixture
def bare(api: Client, namespace: str) -> str:
    """The path of the namespace's leases: a collection that only the test writes to."""
    return api.path("leases", namespace)


def _lease(api: Client, path: str, name: str, holder: str = "a") -> JsonObject:
    return api.post(path, {"metadata": {"name": name}, "spec": {"holderIdentity": holder}}).accepted(201)


def test_a_watch_from_a_list_version_delivers_later_events(api: Client, bare: str) -> None:
    _lease(api, bare, "before")
    version = api.get(bare).accepted()["metadata"]["resourceVersion"]
    _lease(api, bare, "a")
    with api.watch(bare, resourceVersion=version) as stream:
        assert stream.code == 200
        assert stream.take(1) == [("ADDED", "a")]
        api.patch(f"{bare}/a", {"spec": {"holderIdentity": "b"}}).accepted()
        api.delete(f"{bare}/a").accepted()
        _lease(api, bare, "b")
        assert stream.take(3) == [("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "b")]


@pytest.mark.parametrize("query", [{}, {"resourceVersion": "0"}])
def test_a_watch_from_version_0_or_none_starts_with_existing_objects(
    api: Client, bare: str, query: dict[str, str]
) -> None:
    first, second = _lease(api, bare, "a"), _lease(api, bare, "b")
    with api.watch(bare, **query) as stream:
        initial = [stream.next() for _ in range(2)]
        assert {event["type"] for event in initial} == {"ADDED"}
        versions = {event["object"]["metadata"]["resourceVersion"] for event in initial}
        assert versions == {obj["metadata"]["resourceVersion"] for obj in (first, second)}
        _lease(api, bare, "c")
        assert stream.take(1) == [("ADDED", "c")]


def test_events_contain_whole_objects(api: Client, bare: str) -> None:
    created = _lease(api, bare, "a", holder="me")
    with api.watch(bare) as stream:
        event = stream.next()
    assert (event["object"]["kind"], event["object"]["apiVersion"]) == ("Lease", "coordination.k8s.io/v1")
    assert event["object"]["spec"] == {"holderIdentity": "me"}
    assert event["object"]["metadata"]["uid"] == created["metadata"]["uid"]


def test_deleted_events_have_the_resource_version_of_the_deletion(api: Client, bare: str) -> None:
    created = _lease(api, bare, "a", holder="me")
    version = created["metadata"]["resourceVersion"]
    api.delete(f"{bare}/a").accepted()
    with api.watch(bare, resourceVersion=version) as stream:
        event = stream.next()
    assert event["type"] == "DELETED"
    assert event["object"]["spec"] == {"holderIdentity": "me"}
    assert int(event["object"]["metadata"]["resourceVersion"]) > int(version)


def test_a_watch_resumes_after_the_last_received_version(api: Client, bare: str) -> None:
    version = api.get(bare).accepted()["metadata"]["resourceVersion"]
    for name in ("a", "b", "c"):
        _lease(api, bare, name)
    with api.watch(bare, resourceVersion=version) as stream:
        seen = [stream.next() for _ in range(2)]
    with api.watch(bare, resourceVersion=seen[-1]["object"]["metadata"]["resourceVersion"]) as stream:
        assert stream.take(1) == [("ADDED", "c")]


def test_unchanged_writes_send_no_event(api: Client, bare: str) -> None:
    created = _lease(api, bare, "a")
    with api.watch(bare, resourceVersion=created["metadata"]["resourceVersion"]) as stream:
        api.put(f"{bare}/a", created).accepted()
        api.patch(f"{bare}/a", {}).accepted()
        _lease(api, bare, "b")
        assert stream.take(1) == [("ADDED", "b")]


def test_label_changes_add_objects_to_and_delete_them_from_a_selective_watch(api: Client, namespace: str) -> None:
    path = api.path("configmaps", namespace)
    version = _make(api, namespace, "a", side="left")["metadata"]["resourceVersion"]
    with api.watch(path, resourceVersion=version, labelSelector="side=right") as stream:
        _make(api, namespace, "b", side="left")
        api.patch(f"{path}/a", {"metadata": {"labels": {"side": "right"}}}).accepted()
        api.patch(f"{path}/a", {"data": {"k": "v"}}).accepted()
        left = api.patch(f"{path}/a", {"metadata": {"labels": {"side": "left"}}}).accepted()
        api.delete(f"{path}/a").accepted()
        _make(api, namespace, "c", side="right")
        events = [stream.next() for _ in range(4)]
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [
        ("ADDED", "a"),
        ("MODIFIED", "a"),
        ("DELETED", "a"),
        ("ADDED", "c"),
    ]
    deleted = events[2]["object"]["metadata"]
    assert deleted["labels"] == {"side": "right"}
    assert deleted["resourceVersion"] == left["metadata"]["resourceVersion"]


def test_one_object_is_watched_by_field_selector(api: Client, bare: str) -> None:
    version = api.get(bare).accepted()["metadata"]["resourceVersion"]
    with api.watch(bare, resourceVersion=version, fieldSelector="metadata.name=b") as stream:
        _lease(api, bare, "a")
        _lease(api, bare, "b")
        api.delete(f"{bare}/a").accepted()
        api.delete(f"{bare}/b").accepted()
        assert stream.take(2) == [("ADDED", "b"), ("DELETED", "b")]


def test_one_watch_covers_all_namespaces(api: Client, namespace: str, new_pod: Callable[[str], JsonObject]) -> None:
    version = api.get("/api/v1/pods").accepted()["metadata"]["resourceVersion"]
    query = {"resourceVersion": version, "labelSelector": f"test={namespace}", "watch": 1}
    body = new_pod("p")
    body["metadata"]["labels"] = {"test": namespace}
    with api.watch("/api/v1/pods", **query) as stream:
        api.post(api.path("pods", namespace), body).accepted(201)
        event = stream.next()
    assert event["type"] == "ADDED"
    assert event["object"]["metadata"]["namespace"] == namespace


def test_a_watch_of_one_namespace_excludes_other_namespaces(api: Client, namespace: str) -> None:
    other = f"{namespace}-other"
    api.post("/api/v1/namespaces", {"metadata": {"name": other}}).accepted(201)
    try:
        path = api.path("leases", namespace)
        version = api.get(path).accepted()["metadata"]["resourceVersion"]
        with api.watch(path, resourceVersion=version) as stream:
            _lease(api, api.path("leases", other), "elsewhere")
            _lease(api, path, "here")
            assert stream.take(1) == [("ADDED", "here")]
    finally:
        api.delete(f"/api/v1/namespaces/{other}")


def test_a_watch_ends_after_its_timeout(api: Client, bare: str) -> None:
    _lease(api, bare, "a")
    with api.watch(bare, timeoutSeconds=1) as stream:
        assert [event["type"] for event in stream.rest()] == ["ADDED"]


def test_initial_events_end_with_a_bookmark_or_are_rejected(api: Client, bare: str) -> None:
    _lease(api, bare, "a")
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    with api.watch(bare, **query) as stream:
        if stream.code == 422:
            return
        assert stream.take(1) == [("ADDED", "a")]
        mark = stream.next()
    assert mark["type"] == "BOOKMARK"
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(mark["object"]["metadata"]["resourceVersion"]) > 0


def test_resource_version_match_requires_initial_events(api: Client, bare: str) -> None:
    answer = api.get(bare, watch="true", resourceVersionMatch="NotOlderThan", timeoutSeconds=1)
    answer.refused(422, "Invalid")


def test_malformed_selectors_are_400_before_the_stream_starts(api: Client, bare: str) -> None:
    api.get(bare, watch="true", timeoutSeconds=1, labelSelector="a in b").refused(400, "BadRequest")
    api.get(bare, watch="true", timeoutSeconds=1, fieldSelector="spec.x=1").refused(400, "BadRequest")
