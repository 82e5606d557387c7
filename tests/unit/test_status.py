"""The status of links: the Events and conditions of pods, metrics, and changes that are not reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratchet.core.model import Link, Side, State, Transition
from ratchet.core.record_updates import join, leave, mark_ready
from ratchet.core.state_machine import derive
from ratchet.node.journal import HeldEnd, SandboxEntry, since_boot
from tests.support.links import NOW, RECORD, joined, later, wanted, with_ready
from tests.support.memory import AgentNode, sandbox_of

PRIMARY, PAIR = Side.PRIMARY, Side.PAIR
OWN, PEER = sandbox_of(PRIMARY), sandbox_of(PAIR)
WAITING = joined(OWN, None)
LINKED = with_ready(joined(OWN, PEER), PRIMARY, PAIR)

IS_LINKED = ("Linked", "in1 is linked to in2 of pair-pod (veth)", "in1")
WAITS = ("WaitingForPeer", "in1 waits for pod pair-pod: there is no such pod", "in1")
IS_LOST = ("LinkLost", "in1 to pair-pod: its record is gone", "in1")


@pytest.fixture
def entry(node: AgentNode) -> SandboxEntry:
    return node.hold(OWN)


def report(node: AgentNode, record: Link | None = None) -> list[tuple[str, str, str]]:
    """Report the link with this record, or with none. Returns the new Events."""
    if record is not None:
        node.put_record(record)
    else:
        node.caches.links.drop(RECORD)
    before = len(node.announcements.events)
    node.status.report(RECORD, node.held())
    return node.announcements.events[before:]


@pytest.mark.usefixtures("entry")
def test_the_events_of_a_link_name_its_interface(node: AgentNode) -> None:
    assert report(node) == [WAITS]
    assert report(node, LINKED) == [IS_LINKED]
    assert report(node) == [IS_LOST]


@pytest.mark.usefixtures("entry")
def test_an_unchanged_status_is_reported_once(node: AgentNode) -> None:
    assert report(node, WAITING) == [WAITS]
    assert report(node, WAITING) == []
    assert report(node, LINKED) == [IS_LINKED]
    assert report(node, LINKED) == []


@pytest.mark.usefixtures("entry")
def test_a_lost_link_has_the_reason_of_the_last_transition(node: AgentNode) -> None:
    report(node, LINKED)
    lost = replace(WAITING, history=(Transition(NOW, State.LINKED, State.PRIMARY_READY, "the peer left"),))
    assert report(node, lost) == [("LinkLost", "in1 to pair-pod: the peer left", "in1")]


@pytest.mark.usefixtures("entry")
def test_a_lost_link_has_the_reason_of_the_transition_from_linked(node: AgentNode) -> None:
    """The peer may have joined again before the agent sees the record."""
    linked = mark_ready(joined(OWN, PEER), PRIMARY, NOW)
    report(node, linked)
    alone = leave(linked, PAIR, PEER.container_id, "the sandbox was deleted", NOW)
    again = join(alone, wanted(), PAIR, sandbox_of(PAIR, "node-b", 2), NOW)
    assert report(node, again) == [("LinkLost", "in1 to pair-pod: the sandbox was deleted", "in1")]


@pytest.mark.usefixtures("entry")
@pytest.mark.parametrize("number", [1, 2], ids=["of the same pod", "of a recreated pod"])
def test_an_end_that_another_sandbox_has_taken_is_reported_as_replaced(node: AgentNode, number: int) -> None:
    """The link may be linked again before the agent sees its record: the last transition is then to `linked`."""
    report(node, LINKED)
    successor = replace(OWN, container_id="next", pod=sandbox_of(PRIMARY, number=number).pod)
    unready = join(LINKED, wanted(), PRIMARY, successor, NOW)
    again = mark_ready(unready, PRIMARY, NOW)
    assert derive(again) is State.LINKED
    assert report(node, again) == [("LinkLost", "in1 to pair-pod: another sandbox has joined in its place", "in1")]


@pytest.mark.usefixtures("entry")
def test_a_record_that_was_edited_gives_no_reason(node: AgentNode) -> None:
    """A user may remove a key of an end. The history then has no line for it."""
    linked = mark_ready(joined(OWN, PEER), PRIMARY, NOW)
    report(node, linked)
    edited = replace(linked, pair=replace(linked.pair, ready=None))
    assert report(node, edited) == [("LinkLost", "in1 to pair-pod: the record does not say why", "in1")]
    edited = replace(edited, history=())
    assert report(node, linked) == [IS_LINKED]
    assert report(node, edited) == [("LinkLost", "in1 to pair-pod: the record does not say why", "in1")]


@pytest.mark.usefixtures("entry")
def test_a_tunnel_is_reported_with_its_vni(node: AgentNode) -> None:
    tunnel = with_ready(replace(joined(OWN, sandbox_of(PAIR, "node-b")), vni=12), PRIMARY, PAIR)
    assert report(node, tunnel) == [("Linked", "in1 is linked to in2 of pair-pod (vxlan, VNI 12)", "in1")]


def test_a_link_of_an_earlier_agent_is_reported_only_when_it_changes(node: AgentNode) -> None:
    node.status = replace(node.status, since=since_boot())
    node.hold(OWN, began=node.status.since - 1)
    assert report(node, LINKED) == []
    assert report(node) == [IS_LOST]


def test_a_link_that_an_earlier_agent_left_waiting_is_reported(node: AgentNode) -> None:
    node.status = replace(node.status, since=since_boot())
    node.hold(OWN, began=node.status.since - 1)
    assert report(node, WAITING) == [WAITS]


@pytest.mark.usefixtures("entry")
def test_an_end_whose_add_runs_is_not_reported(node: AgentNode) -> None:
    node.calls.adding.add(OWN.container_id)
    assert report(node, LINKED) == []
    assert node.announcements.conditions == []
    node.calls.adding.clear()
    assert report(node, LINKED) == [IS_LINKED]


def test_a_deleted_end_is_not_reported(node: AgentNode, entry: SandboxEntry) -> None:
    node.journal.bury(entry.attachment, since_boot())
    assert report(node, LINKED) == []
    assert node.announcements.conditions == []


def test_an_end_that_is_no_longer_wanted_is_not_reported(node: AgentNode, entry: SandboxEntry) -> None:
    held = node.held()
    node.journal.change_ends(entry.attachment, lambda _: ())
    node.status.report(RECORD, held)
    assert node.announcements.events == []


@pytest.mark.usefixtures("entry")
def test_an_end_that_was_not_held_for_a_while_is_reported_again(node: AgentNode) -> None:
    assert report(node, LINKED) == [IS_LINKED]
    node.status.report(RECORD, [])
    assert report(node, LINKED) == [IS_LINKED]


@pytest.mark.usefixtures("entry")
def test_the_condition_follows_the_link(node: AgentNode) -> None:
    report(node, WAITING)
    report(node, LINKED)
    assert node.announcements.conditions == [
        (False, "WaitingForPeer", f"not linked: {RECORD}"),
        (True, "Linked", "all 1 links are ready"),
    ]


def test_the_condition_is_true_once_all_links_of_the_pod_are_linked(node: AgentNode, entry: SandboxEntry) -> None:
    other = HeldEnd(replace(wanted(), name="default.other.in2.primary-pod.in1"), PRIMARY)
    node.journal.change_ends(entry.attachment, lambda ends: (*ends, other))
    report(node, LINKED)
    assert node.announcements.conditions == [(False, "WaitingForPeer", f"not linked: {other.link}")]
    node.put_record(replace(LINKED, name=other.link))
    node.status.report(other.link, node.held(other.link))
    assert node.announcements.conditions[1:] == [(True, "Linked", "all 2 links are ready")]


def test_the_condition_names_twenty_of_many_links(node: AgentNode, entry: SandboxEntry) -> None:
    names = [f"default.o{number}.in2.primary-pod.in1" for number in range(30)]
    others = [HeldEnd(replace(wanted(), name=name), PRIMARY) for name in names]
    node.journal.change_ends(entry.attachment, lambda ends: (*ends, *others))
    report(node, LINKED)
    ((_, _, message),) = node.announcements.conditions
    assert message == f"not linked: {', '.join(names[:20])}, and 10 others"


def linked_count(node: AgentNode) -> tuple[float, float]:
    """The number of links that came up, and the sum of their seconds."""
    lines = dict(line.rsplit(" ", 1) for line in node.metrics.text().decode().splitlines() if line[0] != "#")
    return float(lines["ratchet_link_ready_seconds_count"]), float(lines["ratchet_link_ready_seconds_sum"])


@pytest.mark.usefixtures("entry")
def test_the_time_from_the_second_join_to_the_linked_state_is_measured(node: AgentNode) -> None:
    steps = (
        Transition(NOW, State.PRIMARY_READY, State.PAIR_READY, "joined"),
        Transition(later(1.5), State.PAIR_READY, State.LINKED, "ready"),
    )
    report(node, replace(LINKED, history=steps))
    assert linked_count(node) == (1, 1.5)


@pytest.mark.usefixtures("entry")
@pytest.mark.parametrize("state", [State.PAIR_READY, State.LINKED])
def test_a_time_without_a_known_start_or_end_is_not_measured(node: AgentNode, state: State) -> None:
    report(node, replace(LINKED, history=(Transition(NOW, State.PENDING, state, "x"),)))
    assert linked_count(node) == (0, 0)


def test_the_links_of_the_node_are_counted_by_state(node: AgentNode) -> None:
    for name, link in {
        "waiting": WAITING,
        "linked": LINKED,
        "another": LINKED,
        "of other nodes": with_ready(joined(sandbox_of(PRIMARY, "node-b"), sandbox_of(PAIR, "node-c"))),
    }.items():
        node.caches.links.put(replace(link, name=name, resource_version="1"))
    states = node.status.states()
    assert states == {State.PENDING: 0, State.PRIMARY_READY: 1, State.PAIR_READY: 0, State.LINKED: 2}
