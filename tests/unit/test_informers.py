"""The agent's informers: notifications, gaps after 410, unknown collections, and followed namespaces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from queue import SimpleQueue
from typing import Any, cast

import pytest

from ratchet.agent.informers import WITHHELD_SECONDS, Informers
from ratchet.agent.priority import ForegroundGate
from ratchet.core.limits import AnnotationLimits, TopologyLimits
from ratchet.core.model import End, Link
from ratchet.core.pod import Pod, PodRef, Topology
from ratchet.dev.testbed import wait_for
from ratchet.errors import MalformedRecordError, RatchetError, TopologiesUnknownError
from ratchet.store.api_errors import ExpiredError
from ratchet.store.apiserver import ApiServer
from ratchet.store.links import LinkChange, LinkStore, VersionedLinkList
from ratchet.store.pods import PodChange, PodChanges, PodList, PodStore
from ratchet.store.session import Watched as WatchEvent
from ratchet.store.store import ApiStore
from ratchet.store.topologies import DeclaredChange, DeclaredList, OperationsChange, TopologyChange, TopologyStore

EXPIRED = ExpiredError("too old")
FORBIDDEN = TopologiesUnknownError("cannot read the topologies of namespace ns: forbidden")


def link(name: str, version: str) -> Link:
    return Link(name, "ns", End("a", "in1"), End("b", "in2"), uid=name, resource_version=version)


def pod(name: str, uid: str = "1") -> Pod:
    return Pod(PodRef("ns", name, uid))


class Scripted:
    """A script for one collection. Each list and each watch waits for its next step."""

    def __init__(self) -> None:
        self.lists: SimpleQueue[Any] = SimpleQueue()
        self.watches: SimpleQueue[Any] = SimpleQueue()

    def list(self) -> Any:
        return self._next(self.lists)

    def watch(self) -> Iterator[Any]:
        yield from self._next(self.watches)

    def _next(self, steps: SimpleQueue[Any]) -> Any:
        step = steps.get()
        if isinstance(step, RatchetError):
            raise step
        return step


class ScriptedLinks(LinkStore):
    """Scripted lists and watches of the node's records."""

    def __init__(self, script: Scripted) -> None:
        self._script = script

    def list_of_node(self, node: str, keep: Callable[[Link], bool] = lambda _: True) -> VersionedLinkList:
        links, version, *malformed = self._script.list()
        return [link for link in links if keep(link)], malformed, version

    def watch_of_node(self, *_: object) -> Iterator[tuple[LinkChange | None, str]]:
        return self._script.watch()


class ScriptedPods(PodStore):
    """Scripted lists and watches of the pods of a namespace and of the node."""

    def __init__(self, script: Scripted, node_script: Scripted) -> None:
        self._script = script
        self._node_script = node_script
        self.limits = AnnotationLimits()

    def list_with_version(self, namespace: str | None = None) -> tuple[PodList, str]:
        return self._script.list()  # type: ignore[no-any-return]

    def watch(self, *_: object) -> PodChanges:
        return self._script.watch()

    def list_of_node(self, node: str) -> tuple[PodList, str]:
        return self._node_script.list()  # type: ignore[no-any-return]

    def watch_of_node(self, *_: object) -> PodChanges:
        return self._node_script.watch()


class ScriptedTopologies(TopologyStore):
    """Scripted lists and watches of topologies."""

    def __init__(self, script: Scripted, *, enabled: bool) -> None:
        self._script = script
        self.enabled = enabled
        self.limits = TopologyLimits(topologies=2)
        self.watch_seconds: list[float] = []

    def list_with_version(self, namespace: str) -> tuple[DeclaredList, str]:
        return self._script.list()  # type: ignore[no-any-return]

    def watch(self, namespace: str, version: str, seconds: float) -> Iterator[tuple[DeclaredChange | None, str]]:
        self.watch_seconds.append(seconds)
        return self._script.watch()


class FakeRecords(ApiStore):
    """A store whose lists and watches are scripted."""

    def __init__(self, *, use_topologies: bool = True) -> None:
        self.links_script, self.node_pods_script = Scripted(), Scripted()
        self.pods_script, self.topologies_script = Scripted(), Scripted()
        self.links = ScriptedLinks(self.links_script)
        self.pods = ScriptedPods(self.pods_script, self.node_pods_script)
        self.topologies = ScriptedTopologies(self.topologies_script, enabled=use_topologies)


class Watched:
    """Informers on a scripted store, and the handler that they notify of changes."""

    def __init__(self, *, use_topologies: bool = True) -> None:
        self.store = FakeRecords(use_topologies=use_topologies)
        self.links: list[str] = []
        self.concerned: list[tuple[str, Collection[str]]] = []
        self.gone: list[PodChange] = []
        self.operations: list[tuple[str, OperationsChange]] = []
        self.informers = Informers(self.store, "n", self, ForegroundGate())

    def link_changed(self, link: str) -> None:
        self.links.append(link)

    def pods_changed(self, namespace: str, names: Collection[str]) -> None:
        self.concerned.append((namespace, names))

    def pod_deleted(self, change: PodChange) -> None:
        self.gone.append(change)

    def operations_changed(self, namespace: str, change: OperationsChange) -> None:
        self.operations.append((namespace, change))


@pytest.fixture
def watched() -> Watched:
    return Watched()


def until(what: str, condition: Callable[[], bool]) -> None:
    wait_for(what, condition, 10)


def test_a_pod_that_vanished_in_a_gap_after_410_is_reported_as_deleted(watched: Watched) -> None:
    script = watched.store.node_pods_script
    deleted, vanished, stays, recreated = pod("deleted"), pod("vanished"), pod("stays"), pod("again")
    script.lists.put(([deleted, vanished, stays, recreated], "5"))
    script.watches.put([(PodChange(deleted, gone=True), "6"), (None, "7")])
    watched.informers.start()
    until("a deletion", lambda: watched.gone == [PodChange(deleted, gone=True)])
    script.watches.put(EXPIRED)
    script.lists.put(([stays, pod("again", "2")], "9"))
    until("what vanished", lambda: len(watched.gone) == 3)
    assert watched.gone[1:] == [PodChange(vanished, gone=True), PodChange(recreated, gone=True)]
    assert watched.informers.caches.node_pods.get("ns", "stays") == stays


def test_a_record_that_vanished_in_a_gap_after_410_is_removed_from_the_cache(watched: Watched) -> None:
    script, cache = watched.store.links_script, watched.informers.caches.links
    script.lists.put(([link("a", "3"), link("b", "4")], "5"))
    watched.informers.start()
    until("the records", lambda: watched.informers.links_listed)
    assert watched.links == ["a", "b"]
    script.watches.put(EXPIRED)
    script.lists.put(([link("b", "4"), link("c", "8")], "9"))
    until("the gap to be closed", lambda: watched.links == ["a", "b", "a", "c"])
    assert cache.names() == ["b", "c"]


def test_a_record_that_becomes_malformed_stays_in_the_cache(watched: Watched) -> None:
    links = watched.store.links_script
    cache = watched.informers.caches.links
    links.lists.put(([link("kept", "1"), link("unread", "1")], "1"))
    watched.informers.start()
    until("the records", lambda: watched.informers.links_listed)
    links.watches.put(EXPIRED)
    error = MalformedRecordError("cannot read the record unread: it has no namespace", record="unread")
    links.lists.put(([link("kept", "2")], "2", error))
    until("the list after the gap", lambda: cache.all()[0].resource_version == "2")
    assert cache.names() == ["kept", "unread"]


def test_a_malformed_record_in_the_watch_is_logged_once_per_version(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """After the gap, the record is listed again at the same version."""
    script, cache = watched.store.links_script, watched.informers.caches.links

    def error(version: str) -> MalformedRecordError:
        return MalformedRecordError(f"cannot read it at {version}", record="broken", version=version)

    script.lists.put(([link("broken", "1")], "1"))
    script.watches.put([(LinkChange("broken", None, "2", error("2")), "2")])
    watched.informers.start()
    until("the event", lambda: "cannot read it at 2" in caplog.text)
    assert cache.names() == ["broken"], "a record that cannot be read is not deleted"
    script.watches.put(EXPIRED)
    script.lists.put(([], "3", error("2")))
    script.watches.put([(LinkChange("broken", None, "4", error("4")), "4"), (LinkChange("broken", None, "5"), "5")])
    until("the deletion", lambda: cache.names() == [])
    logged = [record.getMessage() for record in caplog.records if "malformed" in record.getMessage()]
    assert [message.count("cannot read it at 2") for message in logged] == [1, 0]
    assert logged[1] == 'record is malformed record=broken version=4 cause="cannot read it at 4"'


def test_a_watch_reports_a_malformed_record_and_continues() -> None:
    class Api:
        def watch_decoded(self, *arguments: Any, **_: str) -> Iterator[Any]:
            events = [("MODIFIED", "7"), ("DELETED", "8")]
            decode = arguments[-1]
            for kind, version in events:
                yield decode(WatchEvent(kind, {"metadata": {"name": "broken", "resourceVersion": version}}))

    (broken, at), deletion = ApiStore(cast(ApiServer, Api())).links.watch_of_node("n", "6", 1.0)
    assert broken is not None
    assert broken.error is not None
    assert (broken.name, broken.error.record, broken.error.version, at) == ("broken", "broken", "7", "7")
    assert deletion == (LinkChange("broken", None, "8"), "8")


def test_forbidden_topologies_are_unknown_until_they_can_be_listed(watched: Watched) -> None:
    cache = watched.informers.namespace_cache("ns")
    watched.store.pods_script.lists.put(([pod("a")], "5"))
    watched.store.topologies_script.lists.put(FORBIDDEN)
    until("the refusal", lambda: watched.informers.forbidden_topologies() is FORBIDDEN)
    until("the pods", lambda: watched.concerned == [("ns", {"a"})])
    before = cache.is_synced
    lab = Topology("ns", "lab", "- endpoints: [a:in1, b:in2]")
    watched.store.topologies_script.lists.put(([lab], "7"))
    until("the topologies", lambda: cache.topologies_state.is_synced)
    assert (before, cache.is_synced) == (False, True)
    assert cache.topologies() == [lab]
    assert watched.informers.forbidden_topologies() is None


def test_a_topology_that_vanished_in_a_gap_after_410_is_removed_from_the_cache(watched: Watched) -> None:
    cache, script = watched.informers.namespace_cache("ns"), watched.store.topologies_script
    script.lists.put(([Topology("ns", "lab", "[]"), Topology("ns", "more", "[]")], "7"))
    until("the topologies", lambda: len(cache.topologies()) == 2)
    script.watches.put(EXPIRED)
    script.lists.put(([Topology("ns", "more", "[]")], "9"))
    until("the gap to be closed", lambda: [one.name for one in cache.topologies()] == ["more"])


def test_topologies_over_a_limit_are_listed_again_once_older_ones_are_deleted(watched: Watched) -> None:
    """Their texts are not kept, and no watch reports them again."""
    cache, script = watched.informers.namespace_cache("ns"), watched.store.topologies_script
    known = [Topology("ns", name, "[]") for name in ("a", "b", "c")]
    script.lists.put((known, "7"))
    until("the topologies", lambda: [one.name for one in cache.topologies() if one.withheld] == ["c"])
    script.watches.put([(None, "8")])  # nothing makes room: the watch continues
    script.watches.put([(TopologyChange(known[0], gone=True), "9")])
    script.lists.put((known[1:], "10"))
    until("the list", lambda: not any(one.withheld for one in cache.topologies()))
    assert {one.name for one in cache.topologies()} == {"b", "c"}


def test_a_watch_becomes_short_once_its_namespace_is_over_a_limit(watched: Watched) -> None:
    """After it, topologies for which older ones have made room are listed."""
    cache, script = watched.informers.namespace_cache("ns"), watched.store.topologies_script
    known = [Topology("ns", name, "[]") for name in ("a", "b", "c")]
    script.lists.put((known[:2], "7"))
    script.watches.put([(TopologyChange(known[2], gone=False), "8"), (None, "never read")])
    until("the short watch", lambda: len(watched.store.topologies.watch_seconds) == 2)  # type: ignore[attr-defined]
    long, short = watched.store.topologies.watch_seconds  # type: ignore[attr-defined]
    assert long > short == WITHHELD_SECONDS
    assert [one.name for one in cache.topologies() if one.withheld] == ["c"]


def test_disabled_topologies_are_not_listed_and_count_as_none() -> None:
    watched = Watched(use_topologies=False)
    cache = watched.informers.namespace_cache("off")
    watched.store.pods_script.lists.put(([pod("a")], "5"))
    until("the pods", lambda: cache.is_synced)
    assert cache.topologies() == []
    assert not [one for one in threading.enumerate() if one.name == "informer-topologies of namespace off"]


def test_a_namespace_that_is_no_longer_followed_is_removed_with_its_informers(watched: Watched) -> None:
    before = set(threading.enumerate())
    first = watched.informers.namespace_cache("ns")
    assert watched.informers.namespace_cache("ns") is first
    informers = set(threading.enumerate()) - before
    assert {one.name for one in informers} == {"informer-pods of namespace ns", "informer-topologies of namespace ns"}
    watched.informers.keep_namespaces({"other"})
    for script in (watched.store.pods_script, watched.store.topologies_script):
        for _ in range(2):  # an informer of the other namespace may take one
            script.lists.put(([], "5"))
    until("the other's", lambda: watched.informers.namespace_cache("other").is_synced)
    until("the end of the informers", lambda: not any(one.is_alive() for one in informers))
    assert not first.is_synced
    assert "ns" not in dict(watched.concerned)
    assert watched.informers.namespace_cache("ns") is not first
