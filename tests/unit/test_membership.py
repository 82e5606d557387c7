"""The ends of a running pod: removed if undeclared, and moved to the name of the link's record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from ratchet.agent.edits import replaced
from ratchet.agent.membership import Membership, _by_record
from ratchet.core.intent import WantedLink, wanted_links
from ratchet.core.intent.topology_limits import admit
from ratchet.core.kinds import Wiring
from ratchet.core.limits import LinkLimits, TopologyLimits
from ratchet.core.model import Link, Side
from ratchet.core.pod import Pod, PodRef, Topology
from ratchet.node import attach
from ratchet.node.journal import Attachment, HeldEnd, SandboxEntry
from tests.protocol.editing import announcing
from tests.support.lines import lines_run
from tests.support.links import RECORD, joined, primary_pod
from tests.support.memory import AgentNode, MemoryApi, sandbox_of


def pod(name: str, annotations: dict[str, str] | None = None) -> Pod:
    return Pod(PodRef("ns", name, f"uid-{name}"), {"ratchet": "true"}, annotations or {}, "node-a")


Y = pod("y")
LAB = Topology("ns", "lab", '- endpoints: ["x:in1", "y:in1"]')
OTHER = Topology("ns", "other", '- endpoints: ["v:in1", "w:in1"]')
UNREADABLE = {"ratchet.links": "- {interface: in1, peer: "}


class Declared:
    """A fake store with these pods and topologies.

    `recorded` is the record name of every link, if given. `wiring` is that of every record.
    """

    def __init__(self, pods: Sequence[Pod], topologies: Sequence[Topology] = (), recorded: str = "") -> None:
        self.pods = list(pods)
        self.topologies = list(topologies)
        self.recorded = recorded
        self.wiring = Wiring.DIRECT
        self.cache: dict[str, Link] = {}
        self.enabled = True

    def store(self) -> Any:
        return SimpleNamespace(
            links=SimpleNamespace(cache=self.cache),
            pods=SimpleNamespace(list=lambda _: self.pods),
            topologies=SimpleNamespace(list=lambda _: self.topologies, enabled=self.enabled),
            as_recorded=self.as_recorded,
            resolve=lambda pod, pods, topologies, reserved: wanted_links(pods, reserved, topologies).of(pod),
        )

    def as_recorded(self, link: WantedLink) -> Link:
        return replace(link.link, name=self.recorded or link.link.name, wiring=self.wiring)


def membership_with(records: Declared) -> Membership:
    unused: Any = None
    return Membership(unused, records.store(), unused, calls=unused, queue=unused, handover=unused)


def end_of_y(*, declared: bool = False) -> HeldEnd:
    ((wanted, side),) = wanted_links([pod("x"), Y], topologies=[LAB]).ends_of(Y)
    return HeldEnd(wanted.link, side, index=7, declared=declared)


def entry_with(end: HeldEnd) -> SandboxEntry:
    return SandboxEntry(Attachment("net", "container", "eth0"), "/run/netns/y", Y.ref, (end,), asks=True)


@pytest.mark.parametrize(
    ("pods", "topologies", "known"),
    [
        ([pod("x"), Y], [], True),
        ([pod("x"), Y], [LAB], True),
        ([Y], [], True),
        ([pod("x"), Y], [replace(LAB, text='- {endpoints: ["x:in1", ')], False),
        ([pod("x"), Y], admit([LAB], TopologyLimits(topologies=0)), False),
        ([pod("x"), Y], admit([LAB, OTHER], TopologyLimits(topologies=1)), False),
        ([pod("x", UNREADABLE), Y], [], False),
        ([pod("x"), pod("z", UNREADABLE), Y], [], True),
    ],
    ids=[
        "no declaration",
        "a declaration",
        "no peer",
        "an unreadable topology",
        "a topology over a limit",
        "another topology over a limit",
        "a peer whose declaration is unreadable",
        "another pod whose declaration is unreadable",
    ],
)
def test_a_pods_ends_are_known_if_all_possible_declarations_are_readable(
    pods: list[Pod], topologies: list[Topology], known: bool
) -> None:
    end = end_of_y()
    declared = membership_with(Declared(pods, topologies))._declared_now(entry_with(end), end, Y)
    assert (declared is not None) is known


ASKS_NO_MORE = replace(Y, labels={})
RENAMED = replace(Y, labels={"ratchet": "true", "ratchet.pod_name": "another"})
BY_ALIAS = replace(LAB, text='- endpoints: ["x:in1", "router:in1"]')


@pytest.mark.parametrize(
    ("now", "topology", "known"),
    [
        (Y, LAB, True),
        (ASKS_NO_MORE, LAB, False),
        (RENAMED, LAB, True),  # its record is found by the pod's own name
        (RENAMED, BY_ALIAS, True),
        (Y, replace(LAB, text='- endpoints: ["x:in1", "y:in2"]'), True),
        (Y, replace(LAB, text='- endpoints: ["z:in1", "y:in1"]'), True),
    ],
)
def test_labels_of_a_running_pod_remove_no_link_of_a_topology(now: Pod, topology: Topology, known: bool) -> None:
    end = replace(end_of_y(), live=True)
    membership = membership_with(Declared([pod("x"), now], [topology]))
    assert (membership._declared_now(entry_with(end), end, now) is not None) is known


def test_an_agent_that_reads_no_topologies_removes_no_link_of_one() -> None:
    end, declared = replace(end_of_y(), live=True), Declared([pod("x"), Y])
    declared.enabled = False
    assert membership_with(declared)._declared_now(entry_with(end), end, Y) is None


@pytest.mark.parametrize("declared", [False, True])
def test_only_a_link_declared_by_others_becomes_undeclared(declared: bool) -> None:
    reason = membership_with(Declared([Y]))._why_removed(end_of_y(declared=declared), {})
    assert (reason is None) is declared


@pytest.mark.parametrize("declared", [False, True])
def test_an_end_moves_to_the_name_of_its_links_record(declared: bool) -> None:
    """This holds for any declarer: the peer may have joined under a name that is looked up first."""
    end, store = end_of_y(declared=declared), Declared([pod("x"), Y], [LAB], recorded="ns.x.in1.y.in1-earlier")
    own = list(wanted_links(store.pods, topologies=store.topologies).ends_of(Y))
    membership = membership_with(store)
    assert membership._why_removed(end, _by_record(own)) == "the link is recorded as ns.x.in1.y.in1-earlier"
    renamed = membership._renamed(end, own)
    assert renamed is not None
    assert (renamed.link, renamed.index, renamed.declared) == ("ns.x.in1.y.in1-earlier", 7, declared)


@pytest.mark.parametrize("declared", [False, True])
def test_a_moved_end_keeps_its_original_declaration(declared: bool) -> None:
    end, edited = end_of_y(declared=declared), replace(LAB, text=f"{LAB.text}\n  mtu: 1400")
    store = Declared([pod("x"), Y], [edited], recorded="ns.x.in1.y.in1-earlier")
    own = wanted_links(store.pods, topologies=store.topologies).ends_of(Y)
    renamed = membership_with(store)._renamed(end, own)
    assert own[0][0].link.primary.properties.mtu == 1400
    assert renamed == replace(end, wanted=replace(end.wanted, name=store.recorded))


def test_a_moved_end_has_the_wiring_of_its_new_record() -> None:
    end, store = end_of_y(), Declared([pod("x"), Y], [LAB], recorded="ns.x.in1.y.in1-earlier")
    store.wiring = Wiring.PANEL
    renamed = membership_with(store)._renamed(end, wanted_links(store.pods, topologies=[LAB]).ends_of(Y))
    assert renamed is not None
    assert renamed.wanted.wiring is Wiring.PANEL


def test_an_end_stays_while_its_record_has_both_ends() -> None:
    end, store = end_of_y(), Declared([pod("x"), Y], [LAB], recorded="another")
    sandbox: Any = SimpleNamespace(node="a")
    both = [replace(end.wanted.end(side), sandbox=sandbox) for side in Side]
    store.cache[end.link] = replace(end.wanted, primary=both[0], pair=both[1])
    own = wanted_links(store.pods, topologies=store.topologies).ends_of(Y)
    assert membership_with(store)._why_removed(end, _by_record(own)) is None


def test_a_renamed_end_replaces_the_old_one_once() -> None:
    old = end_of_y()
    new, other = (replace(old, wanted=replace(old.wanted, name=name)) for name in ("new", "other"))
    assert replaced([other, old], old, None) == (other,)
    assert replaced([other, old], old, new) == (other, new)
    assert replaced([new, old], old, new) == (new,)


def test_an_event_of_an_edited_link_has_the_interface(node: AgentNode) -> None:
    own = sandbox_of(Side.PRIMARY)
    entry = node.hold(own)
    node.put_record(joined(own, None))
    node.membership._announce_edits(entry, Pod(own.pod), {}, None)
    ((reason, text, interface),) = node.announcements.events
    assert (reason, interface) == ("WantsRestart", "in1")
    assert text.startswith(f"link {RECORD} wants a restart of pod default/primary-pod: ")


def test_an_event_of_a_link_with_a_taken_interface_has_the_interface(node: AgentNode) -> None:
    """The pod does not take the link. A restart of the pod frees the interface."""
    own = sandbox_of(Side.PRIMARY)
    entry = node.hold(own)
    other = primary_pod("other", "primary-pod", pair_ifname="in1", local_ifname="in2")
    for one in (other, pod("primary-pod")):
        node.api.put_pod(replace(one, ref=replace(one.ref, namespace="default")))
    node.caches.formats.read(announcing())
    current = Pod(own.pod, {"ratchet": "true"}, node="node-a")
    node.api.put_pod(current)
    node.membership.reconcile("default", "primary-pod")
    assert [(reason, interface) for reason, _, interface in node.announcements.events] == [("WantsRestart", "in1")]
    held = node.journal.read(entry.attachment)
    assert held is not None
    assert held.ends == entry.ends


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (LinkLimits(per_pod=2), "it has 3 links, more than links_per_pod, 2"),
        (LinkLimits(per_namespace=2), "namespace default declares 3 links, more than links_per_namespace, 2"),
    ],
)
def test_a_running_pod_at_a_limit_keeps_its_links_and_takes_no_further_ones(
    node: AgentNode, limits: LinkLimits, message: str
) -> None:
    own = sandbox_of(Side.PRIMARY)
    entry = node.hold(own)
    listed = [{"peer": "primary-pod", "ifname": f"in{number}", "peer_ifname": f"x{number}"} for number in range(2)]
    node.api.put_pod(
        Pod(PodRef("default", "other", "uid-other"), {"ratchet": "true"}, {"ratchet.links": json.dumps(listed)})
    )
    node.api.put_pod(replace(primary_pod("primary-pod", "pair-pod"), ref=own.pod, node="node-a"))
    node.caches.formats.read(announcing())
    node.store.limits = limits
    node.membership.reconcile("default", "primary-pod")
    assert node.announcements.events == [("InvalidIntent", f"cannot link pod {own.pod}: {message}", "")]
    held = node.journal.read(entry.attachment)
    assert held is not None
    assert held.ends == entry.ends
    node.store.limits = LinkLimits(3, 3)
    node.membership.reconcile("default", "primary-pod")
    held = node.journal.read(entry.attachment)
    assert held is not None
    assert len(held.ends) == 3


def test_a_running_pod_on_a_full_node_keeps_its_links_and_takes_no_further_ones(node: AgentNode) -> None:
    own = sandbox_of(Side.PRIMARY)
    entry = node.hold(own)
    node.journal._admission._most = 2
    listed = [{"peer": "primary-pod", "ifname": f"in{number}", "peer_ifname": f"x{number}"} for number in range(2)]
    node.api.put_pod(
        Pod(PodRef("default", "other", "uid-other"), {"ratchet": "true"}, {"ratchet.links": json.dumps(listed)})
    )
    node.api.put_pod(replace(primary_pod("primary-pod", "pair-pod"), ref=own.pod, node="node-a"))
    node.caches.formats.read(announcing())
    node.membership.reconcile("default", "primary-pod")
    ((reason, text, _),) = node.announcements.events
    assert (reason, "links_per_node, 2" in text) == ("InvalidIntent", True)
    held = node.journal.read(entry.attachment)
    assert held is not None
    assert held.ends == entry.ends
    node.journal._admission._most = 100
    node.membership.reconcile("default", "primary-pod")
    held = node.journal.read(entry.attachment)
    assert held is not None
    assert len(held.ends) == 3


def lines_to_take(folder: Path, links: int) -> int:
    """How many lines run while a running pod takes so many links, which other pods declare."""
    node = AgentNode(folder, MemoryApi())
    own = sandbox_of(Side.PRIMARY)
    node.hold(own)
    namespace = node.caches.namespace_cache("default")
    hub = Pod(own.pod, {"ratchet": "true"}, node="node-a")
    declarations = [[{"peer": own.pod.name, "ifname": "in1", "peer_ifname": f"x{number}"}] for number in range(links)]
    others = [
        Pod(PodRef("default", f"p{number}", f"uid-{number}"), hub.labels, {"ratchet.links": json.dumps(listed)})
        for number, listed in enumerate(declarations)
    ]
    namespace.replace([hub, *others])
    namespace.state.set_synced()
    node.caches.formats.read(announcing())
    node.see_pod(hub)
    node.store.wanted_for(hub, frozenset({"eth0"}))  # resolved for the ADD of the pod already
    with patch.object(attach, "map_concurrently", lambda act, things, *_: [act(one) for one in things]):
        lines = lines_run(lambda: node.membership.reconcile("default", own.pod.name))
    held = node.journal.of_pod("default", own.pod.name)[0]
    assert len(held.ends) == links + 1
    return lines


def test_the_cost_of_taking_a_link_does_not_grow_with_the_links_of_the_pod(tmp_path: Path) -> None:
    """A pod is reconciled by one worker, so a pod with a thousand links must not be quadratic."""
    few, many = (lines_to_take(tmp_path / str(links), links) / links for links in (20, 200))
    assert many < 1.2 * few


def _replicas(node: AgentNode, **of_newer: Any) -> tuple[Pod, Pod]:
    """Two pods with one alias, of which the older one has a sandbox on the node."""
    alias = {"ratchet": "true", "ratchet.pod_name": "primary-pod"}
    own = sandbox_of(Side.PRIMARY)
    node.hold(own)
    older = Pod(own.pod, alias, node="node-a", phase="Running")
    ref = PodRef("default", "replica-2", "uid-2")
    newer = replace(Pod(ref, alias, node="node-b", phase="Running"), **of_newer)
    return older, newer


def _reconcile_replicas(node: AgentNode, *pods: Pod) -> list[tuple[PodRef, str, str]]:
    """Reconcile the older one of these pods, which are all of their namespace. Returns its Events."""
    events = list[tuple[PodRef, str, str]]()
    node.caches.formats.read(announcing())
    namespace = node.caches.namespace_cache("default")
    namespace.replace(pods)
    namespace.state.set_synced()
    with patch.object(node.announcements, "event", lambda ref, reason, text, _="": events.append((ref, reason, text))):
        node.membership.reconcile("default", "primary-pod")
    return events


def test_two_running_pods_of_one_name_are_reported_on_both(node: AgentNode, caplog: pytest.LogCaptureFixture) -> None:
    older, newer = _replicas(node)
    first, second = _reconcile_replicas(node, older, newer)
    assert (first[:2], second[:2]) == ((older.ref, "NameTaken"), (newer.ref, "NameTaken"))
    expected = "default/primary-pod and default/replica-2 both have the name primary-pod: only the newer one"
    assert all(text.startswith(expected) for _, _, text in (first, second))
    assert "name=primary-pod pod=default/primary-pod newer=default/replica-2" in caplog.text
    assert _reconcile_replicas(node, older, newer) == [], "once"
    assert _reconcile_replicas(node, older) == []
    assert len(_reconcile_replicas(node, older, newer)) == 2, "again after the other one was gone"


def test_the_successor_of_a_pod_is_not_reported(node: AgentNode) -> None:
    older, newer = _replicas(node)
    assert _reconcile_replicas(node, replace(older, deleting=True), newer) == []
    assert _reconcile_replicas(node, older, replace(newer, phase="Pending")) == []
    assert _reconcile_replicas(node, older, replace(newer, deleting=True)) == []
