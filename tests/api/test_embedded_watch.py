"""Watches that need the embedded server: bounded history, bookmarks, direct writes to storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ratchet.dev.api import EmbeddedApi
from ratchet.dev.api.kinds import LEASES
from ratchet.dev.api.operations import Target
from ratchet.dev.api.registry import Registry
from ratchet.dev.api.storage import Storage

if TYPE_CHECKING:
    from tests.api.conftest import Client, JsonObject

_PATH = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


@pytest.fixture
def server() -> Iterator[EmbeddedApi]:
    with EmbeddedApi(Storage(history_size=3), bookmark_seconds=0.05) as running:
        yield running


@pytest.fixture
def client(server: EmbeddedApi, connect: Callable[[Path], Client], tmp_path: Path) -> Client:
    return connect(server.write_kubeconfig(tmp_path / "config"))


def _lease(client: Client, name: str) -> str:
    created = client.post(_PATH, {"metadata": {"name": name}}).accepted(201)
    return str(created["metadata"]["resourceVersion"])


def _expired(event: JsonObject, message: str) -> None:
    assert event["type"] == "ERROR"
    status = event["object"]
    assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
    assert status["message"] == message


def test_a_version_older_than_the_history_is_expired(client: Client) -> None:
    versions = [_lease(client, name) for name in "abcde"]
    with client.watch(_PATH, resourceVersion=versions[0]) as stream:
        assert stream.code == 200
        _expired(stream.next(), f"too old resource version: {versions[0]} ({versions[1]})")
        assert stream.rest() == []
    with client.watch(_PATH, resourceVersion=versions[1]) as stream:
        assert stream.take(3) == [("ADDED", "c"), ("ADDED", "d"), ("ADDED", "e")]


def test_compaction_expires_every_earlier_version(client: Client, server: EmbeddedApi) -> None:
    first, second = _lease(client, "a"), _lease(client, "b")
    server.storage.compact()
    with client.watch(_PATH, resourceVersion=first) as stream:
        _expired(stream.next(), f"too old resource version: {first} ({second})")
    with client.watch(_PATH, resourceVersion=second) as stream:
        _lease(client, "c")
        assert stream.take(1) == [("ADDED", "c")]


def test_a_restart_without_state_expires_old_versions(connect: Callable[[Path], Client], tmp_path: Path) -> None:
    with EmbeddedApi(Storage(first_version=100)) as server:
        client = connect(server.write_kubeconfig(tmp_path / "other"))
        with client.watch(_PATH, resourceVersion=50) as stream:
            assert stream.next()["object"]["code"] == 410


def test_open_watches_are_not_limited_by_the_history(client: Client) -> None:
    with client.watch(_PATH) as stream:
        for name in "abcdef":
            _lease(client, name)
        assert [name for _, name in stream.take(6)] == list("abcdef")


def test_bookmarks_have_the_latest_version_of_all_kinds(client: Client) -> None:
    with client.watch(_PATH, allowWatchBookmarks="true") as stream:
        node = client.post("/api/v1/nodes", {"metadata": {"name": "n"}}).accepted(201)
        node_version = int(node["metadata"]["resourceVersion"])
        while True:
            event = stream.next()
            assert event["type"] == "BOOKMARK"
            assert event["object"]["kind"] == "Lease"
            if int(event["object"]["metadata"]["resourceVersion"]) >= node_version:
                break


def test_bookmarks_are_only_sent_if_allowed(client: Client) -> None:
    with client.watch(_PATH, timeoutSeconds=1) as stream:
        assert stream.rest() == []


def test_a_bookmark_precedes_the_timeout(connect: Callable[[Path], Client], tmp_path: Path) -> None:
    with EmbeddedApi() as server:
        client = connect(server.write_kubeconfig(tmp_path / "other"))
        with client.watch(_PATH, timeoutSeconds=1, allowWatchBookmarks="true") as stream:
            assert [event["type"] for event in stream.rest()] == ["BOOKMARK"]


def test_a_list_at_a_future_version_is_504(client: Client) -> None:
    message = client.get(_PATH, resourceVersion=10**9).refused(504, "Timeout")
    assert message.startswith("Too large resource version: 1000000000, current: ")


def test_writes_of_other_threads_reach_watches(client: Client, server: EmbeddedApi) -> None:
    with client.watch(_PATH) as stream:
        registry = Registry(server.storage)
        registry.create(LEASES, "default", {"metadata": {"name": "a"}})
        registry.delete(Target(LEASES, "default", "a"))
        assert stream.take(2) == [("ADDED", "a"), ("DELETED", "a")]


def test_closed_watches_are_unsubscribed(client: Client, server: EmbeddedApi) -> None:
    subscriptions = server.storage._collections[LEASES].subscriptions
    with client.watch(_PATH) as stream:
        _lease(client, "a")
        stream.take(1)
        assert len(subscriptions) == 1
    with client.watch(_PATH, timeoutSeconds=5, allowWatchBookmarks="true") as stream:
        while len(subscriptions) > 1:
            stream.next()
