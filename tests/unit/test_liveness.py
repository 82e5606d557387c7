"""Dead sandboxes: their detection, and their removal from the journal and the records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from ratchet import datapath
from ratchet.agent import liveness
from ratchet.cni.delegation import Delegation
from ratchet.core.model import Side
from ratchet.core.pod import Pod
from ratchet.core.sandbox import Location, Sandbox
from ratchet.node.journal import SandboxEntry, since_boot
from tests.support.links import joined, wanted
from tests.support.memory import AgentNode, MemoryApi, sandbox_of

PRIMARY, PAIR = Side.PRIMARY, Side.PAIR
OWN = sandbox_of(PRIMARY)
STATIC = replace(OWN, pod=replace(OWN.pod, mirror="static-1"))


@pytest.mark.parametrize(
    ("sandbox", "pod", "alive"),
    [
        (OWN, Pod(OWN.pod), True),
        (OWN, Pod(replace(OWN.pod, uid="another")), False),
        (STATIC, Pod(replace(STATIC.pod, uid="another")), True),
        (STATIC, Pod(replace(STATIC.pod, uid="another", mirror="static-2")), False),
        (STATIC, Pod(replace(STATIC.pod, uid="another"), phase="Failed"), False),
        (STATIC, None, False),
    ],
    ids=["ordinary", "created again", "mirror created again", "new manifest", "mirror finished", "mirror gone"],
)
def test_a_sandbox_is_alive_while_its_pod_or_static_pod_runs(
    node: AgentNode, api: MemoryApi, sandbox: Sandbox, pod: Pod | None, alive: bool
) -> None:
    entry = node.hold(sandbox)
    api.delete_pod(sandbox.pod)
    if pod is not None:
        api.put_pod(pod)
    assert (node.liveness.why_dead(sandbox) is None) is alive
    assert node.liveness.is_running(entry) is alive
    assert node.liveness.may_join(entry) is alive


def test_a_deleting_pod_does_not_join_and_its_sandbox_is_not_dead(node: AgentNode, api: MemoryApi) -> None:
    entry = node.hold(OWN)
    api.put_pod(Pod(OWN.pod, deleting=True))
    assert not node.liveness.is_running(entry)
    assert node.liveness.why_dead(OWN) is None


def test_a_sandbox_whose_pod_is_only_in_the_cache_is_dead(node: AgentNode, api: MemoryApi) -> None:
    """Otherwise it would take back an end that garbage collection has removed from the record."""
    entry = node.hold(OWN)
    node.see_pod(Pod(OWN.pod))
    api.delete_pod(OWN.pod)
    assert node.liveness.pod_of(entry) == Pod(OWN.pod)
    assert not node.liveness.is_running(entry)
    assert node.liveness.why_dead(OWN) == "its pod is gone, and no DEL came"


def test_a_sandbox_without_its_namespace_may_not_join_and_is_dead(node: AgentNode) -> None:
    entry = node.hold(OWN)
    node.remove_namespace(OWN.container_id)
    assert node.liveness.is_running(entry)
    assert not node.liveness.may_join(entry)
    assert node.liveness.why_dead(OWN) == "its sandbox is gone, and no DEL came"


def test_a_deleted_sandbox_is_dead_unless_its_add_runs_again(node: AgentNode) -> None:
    entry = node.hold(OWN, began=since_boot())
    assert not node.journal.was_deleted(entry)
    node.journal.bury(entry.attachment, since_boot())
    assert node.journal.was_deleted(entry)
    assert node.liveness.why_dead(OWN) == "the sandbox was deleted"
    node.calls.adding.add(OWN.container_id)
    assert node.liveness.why_dead(OWN) is None


def gone_entry(node: AgentNode, **of_entry: Any) -> SandboxEntry:
    """The entry of a sandbox whose namespace and pod are gone."""
    entry = node.hold(OWN, **of_entry)
    node.remove_namespace(OWN.container_id)
    node.api.delete_pod(OWN.pod)
    return entry


def is_forgotten(node: AgentNode, entry: SandboxEntry) -> bool:
    node.liveness.remove_dead(wanted().name, entry)
    return node.journal.read(entry.attachment) is None


def test_a_sandbox_without_namespace_pod_and_record_is_forgotten(node: AgentNode) -> None:
    assert is_forgotten(node, gone_entry(node))


def test_a_sandbox_is_not_forgotten_while_its_namespace_is_there(node: AgentNode) -> None:
    entry = gone_entry(node)
    node.add_namespace(OWN.container_id)
    assert not is_forgotten(node, entry)


def test_a_sandbox_is_not_forgotten_while_its_pod_is_there(node: AgentNode) -> None:
    entry = gone_entry(node)
    node.api.put_pod(Pod(OWN.pod))
    assert not is_forgotten(node, entry)


def test_a_sandbox_is_not_forgotten_while_an_add_runs(node: AgentNode) -> None:
    entry = gone_entry(node)
    node.calls.adding.add(OWN.container_id)
    assert not is_forgotten(node, entry)


def test_a_sandbox_with_delegate_results_is_left_to_del(node: AgentNode) -> None:
    assert not is_forgotten(
        node, gone_entry(node, delegations=(Delegation({"type": "bridge", "cniVersion": "1.0.0"}),))
    )


@pytest.mark.parametrize("cached", [True, False])
def test_a_sandbox_whose_pod_and_namespace_are_gone_leaves_its_record(node: AgentNode, cached: bool) -> None:
    """Its DEL was forgotten: the disk was full, and the agent ended before it could write it."""
    entry = gone_entry(node)
    record = node.put_record(joined(OWN, sandbox_of(PAIR, "node-b")))
    if not cached:
        node.caches.links.drop(record.name)
    assert is_forgotten(node, entry)
    after = node.record()
    assert after is not None
    assert after.sandbox(PRIMARY) is None
    assert after.sandbox(PAIR) is not None
    assert after.history[-1].reason == liveness.NO_DEL


def test_a_sandbox_without_namespace_leaves_its_record_once_its_pod_has_a_later_one(node: AgentNode) -> None:
    """Its DEL was forgotten, and the pod runs on in another sandbox, with other links."""
    entry = node.hold(OWN, began=since_boot())
    node.see_pod(Pod(OWN.pod))
    node.put_record(joined(OWN, sandbox_of(PAIR, "node-b")))
    node.remove_namespace(OWN.container_id)
    assert not is_forgotten(node, entry)
    later = replace(OWN, container_id="later", netns="/run/netns/later")
    node.hold(later, began=since_boot() + 1)
    node.remove_namespace("later")
    assert is_forgotten(node, entry)
    record = node.record()
    assert record is not None
    assert record.sandbox(PRIMARY) is None
    assert record.history[-1].reason == liveness.REPLACED


def test_an_earlier_sandbox_of_the_pod_replaces_none(node: AgentNode) -> None:
    entry = node.hold(OWN, began=since_boot())
    node.see_pod(Pod(OWN.pod))
    node.hold(replace(OWN, container_id="earlier"), began=since_boot() - 1)
    node.put_record(joined(OWN, None))
    node.remove_namespace(OWN.container_id)
    assert not is_forgotten(node, entry)


def test_a_sandbox_of_another_boot_replaces_none(node: AgentNode) -> None:
    """Its ADD has the greater time since boot, and came before."""
    entry = node.hold(OWN, began=1.0)
    node.see_pod(Pod(OWN.pod))
    other = node.hold(replace(OWN, container_id="other"), began=2.0)
    with patch("ratchet.node.journal.boot_id", lambda: "another boot"):
        node.journal.write(other)
    record = node.put_record(joined(OWN, None))
    node.remove_namespace(OWN.container_id)
    assert not is_forgotten(node, entry)
    assert node.record() == record


def test_a_sandbox_with_delegate_results_leaves_its_record(node: AgentNode) -> None:
    entry = gone_entry(node, delegations=(Delegation({"type": "bridge", "cniVersion": "1.0.0"}),))
    node.put_record(joined(OWN, None))
    assert not is_forgotten(node, entry)
    assert node.record() is None


@pytest.mark.parametrize("has", ["a pod", "a namespace"])
def test_a_record_keeps_a_sandbox_that_may_be_alive(node: AgentNode, has: str) -> None:
    entry = gone_entry(node)
    if has == "a pod":
        node.api.put_pod(Pod(OWN.pod))
    else:
        node.add_namespace(OWN.container_id)
    record = node.put_record(joined(OWN, None))
    assert not is_forgotten(node, entry)
    assert node.record() == record


def test_a_sandbox_whose_pod_is_cached_costs_no_namespace_check_and_no_request(
    node: AgentNode, api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link is reconciled after each of its changes, and a check enters the namespace twice."""
    checked: list[str] = []

    def check(location: Location) -> bool:
        checked.append(location.netns)
        return True

    monkeypatch.setattr(liveness, "datapath", datapath)
    monkeypatch.setattr(datapath, "namespace_is_there", check)
    entry = node.hold(OWN)
    requests = len(api.requests)
    node.see_pod(Pod(OWN.pod))
    node.liveness.remove_dead(wanted().name, entry)
    assert not checked
    node.see_pod(Pod(replace(OWN.pod, uid="another")))
    node.liveness.remove_dead(wanted().name, entry)
    assert checked == [entry.netns]
    assert len(api.requests) == requests


STRAY = sandbox_of(PRIMARY)


def strays_removed(node: AgentNode) -> bool:
    """Remove strays, and return whether the primary's sandbox is gone from its record."""
    record = node.record()
    assert record is not None
    node.liveness.remove_strays(record, node.held())
    after = node.record()
    return after is None or after.sandbox(PRIMARY) is None


def test_a_dead_sandbox_that_the_journal_lacks_is_removed_from_its_record(node: AgentNode) -> None:
    node.put_record(joined(STRAY, sandbox_of(PAIR, "node-b")))
    assert strays_removed(node)
    record = node.record()
    assert record is not None
    assert record.sandbox(PAIR) is not None
    assert record.history[-1].reason == "its sandbox is gone, and no DEL came"


def test_a_record_is_deleted_with_its_only_sandbox(node: AgentNode) -> None:
    node.put_record(joined(STRAY, None))
    assert strays_removed(node)
    assert node.record() is None


def test_a_sandbox_in_the_journal_is_not_a_stray(node: AgentNode) -> None:
    node.hold(STRAY)
    node.remove_namespace(STRAY.container_id)
    node.put_record(joined(STRAY, None))
    assert not strays_removed(node)


def test_a_sandbox_that_joins_meanwhile_is_not_a_stray(node: AgentNode) -> None:
    """Its entry is written after the entries were read, and before the lock is held."""
    record = node.put_record(joined(STRAY, None))
    held = node.held()
    node.hold(STRAY)
    node.remove_namespace(STRAY.container_id)
    node.liveness.remove_strays(record, held)
    assert node.record() == record


def test_a_sandbox_of_another_node_is_not_a_stray(node: AgentNode) -> None:
    node.put_record(joined(sandbox_of(PRIMARY, "node-b"), None))
    assert not strays_removed(node)


def test_a_sandbox_whose_add_runs_is_not_a_stray(node: AgentNode) -> None:
    node.put_record(joined(STRAY, None))
    node.calls.adding.add(STRAY.container_id)
    assert not strays_removed(node)


def test_a_live_sandbox_without_an_entry_is_not_a_stray(node: AgentNode) -> None:
    """Its entry may be lost while its pod runs. Without its namespace it is dead."""
    entry = node.hold(STRAY)
    node.journal.forget(entry.attachment)
    record = node.put_record(joined(STRAY, None))
    assert not strays_removed(node)
    assert node.record() == record
    node.remove_namespace(STRAY.container_id)
    assert strays_removed(node)
