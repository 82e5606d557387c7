"""Resync, change handling and periodic work: which links and pods are queued, and which caches are cleared."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ratchet.agent.announce import Announcer
from ratchet.agent.changes import ChangeHandler
from ratchet.agent.health import AgentHealth
from ratchet.agent.informers import Informers
from ratchet.agent.node_events import NodeEvents
from ratchet.agent.panel import NodePanel
from ratchet.agent.periodic import PeriodicWork
from ratchet.agent.port_clash import PortClash
from ratchet.agent.queue import ReconcileKey, ReconcileKind
from ratchet.agent.resync import Resync
from ratchet.agent.tunnel_guard import TunnelGuard
from ratchet.agent.tunnel_silence import TunnelSilence
from ratchet.agent.vni_check import VniCheck
from ratchet.core.model import Side
from ratchet.core.pod import Pod
from ratchet.store.pods import PodChange
from tests.support.links import RECORD, joined, with_ready
from tests.support.memory import AgentNode, MemoryApi, sandbox_of

PRIMARY, PAIR = Side.PRIMARY, Side.PAIR
OWN = sandbox_of(PRIMARY)
LINKED = with_ready(joined(OWN, sandbox_of(PAIR, "node-b")), PRIMARY, PAIR)


class FakeInformers:
    """Informers that record the followed and the kept namespaces."""

    def __init__(self) -> None:
        self.links_listed = False
        self.followed: set[str] = set()
        self.kept: list[set[str]] = []

    def namespace_cache(self, namespace: str) -> None:
        self.followed.add(namespace)

    def keep_namespaces(self, wanted: set[str]) -> None:
        self.kept.append(wanted)


class FakeApi(MemoryApi):
    """An API that counts its reconnects."""

    reconnected = 0

    def reconnect(self) -> None:
        self.reconnected += 1


class Node:
    """A node with one sandbox, and its resync."""

    def __init__(self, node: AgentNode) -> None:
        self.node = node
        self.entry = node.hold(OWN)
        self.informers = FakeInformers()
        self.api = FakeApi()
        self.resync = Resync(
            node.name,
            self.api,
            node.journal,
            node.store,
            cast(Informers, self.informers),
            node.queue,
            node.verified,
        )

    def queued(self) -> set[tuple[str, str]]:
        """The kind and the name of each key that is queued now or later."""
        queue = self.node.queue
        waiting = [key for _, _, key in queue._later]
        found = {(key.kind.value, key.name) for key in waiting}
        while len(queue):
            key = queue.take()
            assert key is not None
            queue.done(key)
            found.add((key.kind.value, key.name))
        return found


@pytest.fixture
def one(node: AgentNode) -> Node:
    return Node(node)


def test_enqueue_all_queues_links_and_pods_and_forgets_verified_ends(one: Node, node: AgentNode) -> None:
    record = replace(LINKED, name="watched", uid="u", resource_version="1")
    node.caches.links.put(record)
    node.verified.note(record, PRIMARY, node.underlay, up=True)
    one.resync.enqueue_all()
    assert one.queued() == {("link", RECORD), ("link", "watched"), ("pod", "primary-pod")}
    assert one.informers.followed == {"default"}
    assert not node.verified.is_current(record, PRIMARY, node.underlay)


def test_a_pod_that_asks_for_no_links_is_not_queued(one: Node, node: AgentNode) -> None:
    node.journal.write(replace(one.entry, asks=False))
    one.resync.enqueue_pods()
    assert one.queued() == set()
    assert one.informers.followed == set()


def test_a_resync_queues_the_pods_and_forgets_records_that_no_watch_reports(one: Node, node: AgentNode) -> None:
    elsewhere = joined(sandbox_of(PRIMARY, "node-b"), sandbox_of(PAIR, "node-c"))
    node.caches.links.put(replace(elsewhere, name="elsewhere", resource_version="1"))
    node.caches.links.put(replace(LINKED, resource_version="1"))
    requests = len(node.api.requests)
    one.resync.run()
    assert one.queued() == {("pod", "primary-pod")}
    assert one.informers.kept == [{"default"}]
    assert node.caches.links.names() == [RECORD]
    assert len(node.api.requests) == requests


def test_a_resync_that_fails_is_logged(one: Node, caplog: pytest.LogCaptureFixture) -> None:
    one.informers.keep_namespaces = lambda _: 1 / 0  # type: ignore[assignment, method-assign]
    one.resync.run()
    assert "resync failed" in caplog.text


def test_the_links_of_a_lost_node_are_queued(one: Node, node: AgentNode) -> None:
    node.caches.links.put(replace(LINKED, resource_version="1"))
    one.resync.node_changed("node-c")
    assert one.queued() == set()
    one.resync.node_changed("node-b")
    assert one.queued() == {("link", RECORD)}


def test_a_change_of_the_underlay_reconnects_to_the_api_and_queues_everything(one: Node) -> None:
    one.resync.underlay_changed()
    assert one.api.reconnected == 1
    assert one.queued() == {("link", RECORD), ("pod", "primary-pod")}


class FakeAnnouncer:
    """An announcer that records the UIDs of the pods whose announcements were dropped."""

    def __init__(self) -> None:
        self.uids: list[str] = []

    def forget(self, uid: str) -> None:
        self.uids.append(uid)


def handler_of(node: AgentNode, announcer: FakeAnnouncer) -> ChangeHandler:
    return ChangeHandler(node.journal, node.queue, node.verified, cast(Announcer, announcer), node.operations)


def test_a_changed_link_is_queued(one: Node, node: AgentNode) -> None:
    handler_of(node, FakeAnnouncer()).link_changed("l")
    assert one.queued() == {("link", "l")}


def test_a_changed_pod_is_queued_if_it_has_a_sandbox_on_this_node(one: Node, node: AgentNode) -> None:
    handler = handler_of(node, FakeAnnouncer())
    handler.pods_changed("other", ["primary-pod"])
    handler.pods_changed("default", ["elsewhere"])
    assert one.queued() == set()
    handler.pods_changed("default", ["elsewhere", "primary-pod"])
    assert one.queued() == {("pod", "primary-pod")}


def test_the_links_of_a_deleted_pod_are_queued_and_its_announcements_dropped(one: Node, node: AgentNode) -> None:
    announcer, record = FakeAnnouncer(), replace(LINKED, uid="u", resource_version="1")
    handler = handler_of(node, announcer)
    node.verified.note(record, PRIMARY, node.underlay, up=True)
    handler.pod_deleted(PodChange(Pod(replace(OWN.pod, uid="an earlier one")), gone=True))
    assert one.queued() == set()
    assert node.verified.is_current(record, PRIMARY, node.underlay)
    handler.pod_deleted(PodChange(Pod(OWN.pod), gone=True))
    assert one.queued() == {("link", RECORD)}
    assert not node.verified.is_current(record, PRIMARY, node.underlay)
    assert announcer.uids == ["an earlier one", OWN.pod.uid]


class StepEvent(threading.Event):
    """An event whose `wait` times out for the first `steps` calls, and then returns True."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def wait(self, timeout: float | None = None) -> bool:
        self.left -= 1
        return self.left < 0


class FakeVniCheck:
    """A VNI check that counts its lists and checks. The first list fails."""

    def __init__(self) -> None:
        self.lists = self.checks = 0

    def list(self) -> bool:
        self.lists += 1
        return self.lists > 1

    def check_some(self) -> None:
        self.checks += 1


def periodic(one: Node, vnis: FakeVniCheck, resync_seconds: float) -> tuple[PeriodicWork, AgentHealth]:
    nothing: Any = None
    informers, vni_check = cast(Informers, one.informers), cast(VniCheck, vnis)
    node = one.node
    health = AgentHealth(informers, nothing, node.queue, node.journal, *[nothing] * 4)
    guard = cast(TunnelGuard, SimpleNamespace(check=lambda: None))
    port = cast(PortClash, SimpleNamespace(check=lambda: None))
    panel = cast(NodePanel, SimpleNamespace(look=lambda: None))
    followed = informers, node.queue, node.verified
    silence = cast(TunnelSilence, SimpleNamespace(check=lambda: None))
    events = cast(NodeEvents, SimpleNamespace(send=lambda: None))
    checked: Any = (guard, port, panel, silence, events)
    work = PeriodicWork(node.journal, one.resync, resync_seconds, vni_check, *followed, health, *checked)
    return work, health


def test_vni_leases_are_listed_after_the_links_and_until_a_list_succeeds(one: Node) -> None:
    vnis = FakeVniCheck()
    work, _ = periodic(one, vnis, 1000.0)
    work.run(StepEvent(2))
    assert (vnis.lists, vnis.checks) == (0, 2)
    one.informers.links_listed = True
    work.run(StepEvent(5))
    assert (vnis.lists, vnis.checks) == (2, 7)


def test_each_resync_lists_the_vni_leases(one: Node) -> None:
    vnis = FakeVniCheck()
    work, health = periodic(one, vnis, 0.0)
    work.run(StepEvent(3))
    assert (vnis.lists, vnis.checks) == (3, 3)
    assert one.informers.kept == [{"default"}] * 3
    assert one.queued() == {("pod", "primary-pod")}
    assert health.why_not_live() is None


def test_each_round_queues_the_links_for_a_new_observation(
    one: Node, node: AgentNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading of the clock is a second later than the one before."""
    now = iter(range(1000, 2000))
    monkeypatch.setattr("ratchet.agent.periodic.time.monotonic", lambda: float(next(now)))
    record = replace(LINKED, uid="u", resource_version="1")
    node.verified.note(record, PRIMARY, node.underlay, up=True)
    work, _ = periodic(one, FakeVniCheck(), 10_000.0)
    work.run(StepEvent(20))
    assert node.verified.is_current(record, PRIMARY, node.underlay)
    work.run(StepEvent(40))
    assert not node.verified.is_current(record, PRIMARY, node.underlay)
    assert node.queue.take() == ReconcileKey(ReconcileKind.LINK, "", RECORD)
