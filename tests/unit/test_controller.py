"""LinkController: reconciliation of a link's ends on a node, without threads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ratchet.agent.queue import ReconcileKey, ReconcileKind
from ratchet.core.kinds import Kind
from ratchet.core.model import Side, State
from ratchet.core.naming import vni_lease_name
from ratchet.core.pod import Pod
from ratchet.core.state_machine import derive
from ratchet.errors import AddressFamilyError, ConflictError, InvalidIntentError, RatchetError
from ratchet.node.journal import SandboxEntry, since_boot
from ratchet.node.reconciler import Reconciler
from tests.support.links import RECORD, joined, with_ready
from tests.support.memory import AgentNode, MemoryApi, sandbox_of

PRIMARY, PAIR = Side.PRIMARY, Side.PAIR
OWN, PEER = sandbox_of(PRIMARY), sandbox_of(PAIR)
BOTH = {(OWN.netns, "in1"), (PEER.netns, "in2")}


def reconcile(node: AgentNode) -> State | None:
    """Reconcile the example's link, and return the state of its record."""
    node.controller.reconcile(RECORD)
    record = node.record()
    return derive(record) if record is not None else None


def linked(node: AgentNode) -> tuple[SandboxEntry, SandboxEntry]:
    """Link both pods on one node, and return their journal entries."""
    entries = node.hold(OWN), node.hold(PEER)
    assert reconcile(node) is State.LINKED
    assert node.interfaces() == BOTH
    return entries


def test_an_end_joins_and_is_linked_once_its_peer_joins(node: AgentNode) -> None:
    node.hold(OWN)
    assert reconcile(node) is State.PRIMARY_READY
    assert node.interfaces() == set()
    node.hold(PEER)
    assert reconcile(node) is State.LINKED
    assert node.interfaces() == BOTH
    assert [reason for reason, _, _ in node.announcements.events] == ["WaitingForPeer", "Linked", "Linked"]


def test_a_link_without_an_end_on_the_node_gets_no_record(node: AgentNode) -> None:
    assert reconcile(node) is None
    assert node.announcements.events == []


def test_reconciling_a_verified_linked_end_makes_no_request(node: AgentNode, api: MemoryApi) -> None:
    for sandbox in (OWN, PEER):
        node.see_pod(Pod(sandbox.pod))
    linked(node)
    reconcile(node)
    requests = len(api.requests)
    node.controller.reconcile(RECORD)
    assert api.requests[requests:] == []


def test_a_removed_interface_is_restored_when_the_end_is_verified_again(node: AgentNode) -> None:
    linked(node)
    node.kernel.world = node.kernel.world._replace(interfaces=frozenset())
    assert reconcile(node) is State.LINKED
    assert node.interfaces() == set()
    node.verified.forget(RECORD)
    assert reconcile(node) is State.LINKED
    assert node.interfaces() == BOTH


def test_a_record_that_was_deleted_by_hand_is_created_again(node: AgentNode, api: MemoryApi) -> None:
    linked(node)
    (path,) = (path for path in api.objects if path.endswith(RECORD))
    del api.objects[path]
    node.caches.links.delete(RECORD, "999")
    assert reconcile(node) is State.LINKED
    assert node.interfaces() == BOTH


def test_a_record_that_lost_the_nodes_label_is_joined_again(node: AgentNode) -> None:
    """The watch reports such a record as deleted, at a version that the API still has."""
    record = node.put_record(joined(None, sandbox_of(PAIR, "node-b")))
    node.caches.links.state.set_synced()
    node.caches.links.delete(RECORD, record.resource_version)
    node.hold(OWN)
    with pytest.raises(ConflictError):
        node.store.links.create(record)
    assert node.store.links.lookup_cached(RECORD).link == record
    assert reconcile(node) is State.PAIR_READY


def test_an_end_whose_add_is_running_is_not_reconciled(node: AgentNode) -> None:
    node.hold(OWN)
    node.calls.adding.add(OWN.container_id)
    assert reconcile(node) is None
    node.calls.adding.clear()
    assert reconcile(node) is State.PRIMARY_READY


def test_an_end_whose_pod_is_gone_does_not_join_and_its_interface_is_removed(node: AgentNode, api: MemoryApi) -> None:
    """Garbage collection has removed the end from the record."""
    linked(node)
    node.put_record(joined(None, PEER))
    api.delete_pod(OWN.pod)
    assert reconcile(node) is State.PENDING
    record = node.record()
    assert record is not None
    assert record.side_of(OWN.container_id) is None
    assert node.interfaces() == set()


def test_a_deleted_end_is_released(node: AgentNode) -> None:
    """DEL wrote its tombstone, and failed before it changed the record."""
    own, _ = linked(node)
    node.journal.bury(own.attachment, since_boot())
    reconcile(node)
    record = node.record()
    assert record is not None
    assert record.side_of(OWN.container_id) is None
    assert record.side_of(PEER.container_id) is not None
    assert node.interfaces() == set()


def test_a_sandbox_whose_namespace_is_gone_is_recorded_as_not_ready(node: AgentNode) -> None:
    linked(node)
    node.remove_namespace(OWN.container_id)
    node.verified.forget(RECORD)
    assert reconcile(node) is State.PAIR_READY
    record = node.record()
    assert record is not None
    assert record.is_ready(PRIMARY) is False
    assert "its namespace is gone" in {step.reason for step in record.history}


def test_an_earlier_sandbox_does_not_change_the_end_of_a_later_one(node: AgentNode) -> None:
    """The record has the later sandbox, so reconciling the earlier one makes no request."""
    linked(node)
    later = sandbox_of(PRIMARY, number=2)
    node.api.put_pod(Pod(later.pod, node="node-a", phase="Running"))
    node.put_record(joined(later, PEER))
    node.remove_namespace(OWN.container_id)
    before, requests = node.record(), len(node.api.requests)
    node.controller._reconcile_end(*node.held()[0])
    assert len(node.api.requests) == requests, "there is nothing to remove, so the API is not asked"
    assert node.record() == before


def test_a_dead_sandbox_is_removed_with_its_journal_entry_and_record(node: AgentNode, api: MemoryApi) -> None:
    entry = node.hold(OWN)
    assert reconcile(node) is State.PRIMARY_READY
    node.journal.bury(entry.attachment, since_boot())
    node.remove_namespace(OWN.container_id)
    api.delete_pod(OWN.pod)
    assert reconcile(node) is None
    assert node.journal.entries() == []
    assert reconcile(node) is None


def test_a_stray_sandbox_is_removed_from_the_record(node: AgentNode) -> None:
    stray = sandbox_of(PAIR, number=7)
    node.put_record(joined(None, stray))
    node.hold(OWN)
    reconcile(node)
    record = node.record()
    assert record is not None
    assert record.side_of(stray.container_id) is None
    assert record.side_of(OWN.container_id) is PRIMARY


def test_a_peer_on_a_lost_node_is_recorded_as_not_ready(node: AgentNode) -> None:
    node.hold(OWN)
    peer = sandbox_of(PAIR, "node-b")
    node.put_record(with_ready(replace(joined(OWN, peer), vni=12), PRIMARY, PAIR))
    node.nodes.lost.add("node-b")
    node.verified.note(
        node.put_record(with_ready(replace(joined(OWN, peer), vni=12), PRIMARY, PAIR)), PRIMARY, node.underlay, up=True
    )
    assert reconcile(node) is State.PAIR_READY


def test_the_lease_of_a_doubtful_vni_is_restored_once_by_the_next_reconciliation(
    node: AgentNode, api: MemoryApi
) -> None:
    node.hold(OWN)
    record = with_ready(replace(joined(OWN, sandbox_of(PAIR, "node-b")), vni=12), PRIMARY, PAIR)
    node.verified.note(node.put_record(record), PRIMARY, node.underlay, up=True)
    node.see_pod(Pod(OWN.pod))
    node.controller.assert_vni(RECORD)
    assert node.queue.take() == ReconcileKey(ReconcileKind.LINK, "", RECORD)
    assert not any(vni_lease_name(12) in path for path in api.objects)
    assert reconcile(node) is State.LINKED
    assert any(vni_lease_name(12) in path for path in api.objects)
    requests = len(api.requests)
    node.controller.reconcile(RECORD)
    assert len(api.requests) == requests


@pytest.mark.parametrize(
    ("error", "reason"),
    [(InvalidIntentError("no"), "InvalidIntent"), (AddressFamilyError("no"), "NoCommonAddressFamily")],
)
def test_the_event_for_an_end_that_cannot_be_created_has_its_interface(
    node: AgentNode, error: RatchetError, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reject(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Reconciler, "reconcile", reject)
    node.hold(OWN)
    with pytest.raises(type(error)):
        reconcile(node)
    assert node.announcements.events == [(reason, "no", "in1")]


def test_an_end_that_cannot_be_created_does_not_stop_the_other_end(
    node: AgentNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciled: list[str] = []

    def reject(_: object, attempt: Any, *__: Any, **___: Any) -> None:
        reconciled.append(attempt.container_id)
        raise InvalidIntentError("no")

    monkeypatch.setattr(Reconciler, "reconcile", reject)
    node.hold(OWN)
    node.hold(PEER)
    with pytest.raises(InvalidIntentError):
        reconcile(node)
    assert sorted(reconciled) == sorted([OWN.container_id, PEER.container_id])


def test_a_vxlan_between_nodes_is_recorded_with_a_vni(node: AgentNode) -> None:
    node.hold(OWN)
    node.put_record(joined(None, sandbox_of(PAIR, "node-b")))
    assert reconcile(node) is State.PAIR_READY
    record = node.record()
    assert record is not None
    assert record.kind is Kind.VXLAN
    assert record.vni is not None
    assert record.is_ready(PRIMARY)
    assert node.interfaces() == {(OWN.netns, "in1")}
