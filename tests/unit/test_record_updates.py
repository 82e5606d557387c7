"""Updates of a record: each rule of the protocol alone, and random sequences of updates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core.kinds import Kind
from ratchet.core.model import Link, ReadyFor, Side, State
from ratchet.core.record_updates import (
    HISTORY_KEPT,
    REFUSED_KEPT,
    join,
    leave,
    mark_lost,
    mark_ready,
    renumber,
    with_vni,
)
from ratchet.core.sandbox import Sandbox
from ratchet.core.state_machine import TABLE, derive
from ratchet.errors import IllegalTransitionError
from tests.support.links import NOW, joined, later, own, veth, vxlan, wanted, with_ready

PRIMARY, PAIR = Side.PRIMARY, Side.PAIR
BOTH = pytest.mark.parametrize("side", Side)


def changed_declaration() -> Link:
    link = wanted()
    return replace(link, pair=replace(link.pair, addresses=(ip_interface("192.168.2.9/24"),)))


def transitions(link: Link) -> list[tuple[State, State]]:
    return [(step.source, step.target) for step in link.history]


# Join


@BOTH
def test_the_first_join_creates_the_record_from_the_declaration(side: Side) -> None:
    record = join(None, wanted(), side, own(side), NOW)
    assert record.sandbox(side) == own(side)
    assert record.sandbox(side.other) is None
    assert record.generation == 1
    assert replace(record.end(side), sandbox=None) == wanted().end(side)
    assert derive(record) is (State.PRIMARY_READY if side is PRIMARY else State.PENDING)


def test_a_pair_that_joins_first_changes_the_state_once_the_primary_joins() -> None:
    first = join(None, wanted(), PAIR, own(PAIR), NOW)
    assert transitions(first) == [(State.PENDING, State.PENDING)]
    both = join(first, wanted(), PRIMARY, own(PRIMARY), later(1))
    assert transitions(both)[1:] == [(State.PENDING, State.PRIMARY_READY), (State.PRIMARY_READY, State.PAIR_READY)]
    assert {step.at for step in both.history[1:]} == {later(1)}


@BOTH
def test_a_join_clears_only_the_readiness_of_its_own_end(side: Side) -> None:
    link = with_ready(vxlan(), *Side)
    node = "node-a" if side is PRIMARY else "node-b"
    again = join(link, wanted(), side, own(side, node, 2), NOW)
    assert again.end(side).ready is None
    assert again.end(side.other) == link.end(side.other)
    assert derive(again) is State.PAIR_READY


@BOTH
def test_a_tunnels_other_end_stays_ready_if_the_new_sandbox_is_on_the_same_node(side: Side) -> None:
    link = with_ready(vxlan(), *Side)
    sandbox = link.sandbox(side)
    assert sandbox is not None
    assert join(link, wanted(), side, own(side, sandbox.node, 2), NOW).is_ready(side.other)
    assert not join(link, wanted(), side, own(side, "node-c", 2), NOW).is_ready(side.other)


def test_joining_again_with_the_same_sandbox_changes_nothing() -> None:
    link = with_ready(veth(), *Side)
    assert join(link, wanted(), PRIMARY, own(PRIMARY), later(5)) == link


def test_a_pair_does_not_change_the_declaration_of_a_joined_primary() -> None:
    link = join(None, wanted(), PRIMARY, own(PRIMARY), NOW)
    paired = join(link, changed_declaration(), PAIR, own(PAIR), NOW)
    assert paired.generation == 1
    assert paired.pair.addresses == link.pair.addresses


def test_a_pair_without_its_primary_updates_the_declaration() -> None:
    alone = join(None, wanted(), PAIR, own(PAIR), NOW)
    again = join(alone, changed_declaration(), PAIR, own(PAIR, number=2), NOW)
    assert again.generation == 2
    assert again.pair.addresses == changed_declaration().pair.addresses


@pytest.mark.parametrize("link", [veth(), vxlan()], ids=["veth", "vxlan"])
def test_a_changed_declaration_gets_the_next_generation_and_no_end_is_ready(link: Link) -> None:
    link = with_ready(link, *Side)
    again = join(link, changed_declaration(), PRIMARY, own(PRIMARY, number=2), NOW)
    assert again.generation == 2
    assert again.pair.addresses == changed_declaration().pair.addresses
    assert again.pair.sandbox == link.pair.sandbox
    assert not again.is_ready(PRIMARY)
    assert not again.is_ready(PAIR)
    assert derive(again) is State.PAIR_READY


def test_a_joined_sandbox_updates_the_record_to_a_changed_declaration() -> None:
    linked = with_ready(vxlan(), *Side)
    again = join(linked, changed_declaration(), PRIMARY, own(PRIMARY), NOW)
    assert again.generation == 2
    assert derive(again) is State.PAIR_READY
    assert again.history[-1].reason == f"primary {own(PRIMARY).pod} changed the declaration"


@pytest.mark.parametrize("link", [vxlan(), joined(own(PRIMARY), None)], ids=["both", "alone"])
def test_a_changed_declaration_is_recorded_even_if_no_end_was_ready(link: Link) -> None:
    again = join(link, changed_declaration(), PRIMARY, own(PRIMARY), NOW)
    assert again.generation == 2
    assert again.pair.addresses == changed_declaration().pair.addresses
    assert derive(again) is derive(link)


def test_changed_notes_alone_do_not_start_a_new_generation() -> None:
    link = with_ready(veth(), *Side)
    with_notes = replace(wanted(), primary=replace(wanted().primary, notes={"public_ip": "1.1.1.1"}))
    assert join(link, with_notes, PRIMARY, own(PRIMARY), NOW).generation == 1


def test_a_linked_link_with_another_vni_is_pair_ready_and_no_end_is_ready() -> None:
    link = with_ready(with_vni(vxlan(), 11), *Side)
    assert derive(link) is State.LINKED
    changed = renumber(link, 12, "another link holds its Lease", later(5))
    assert (changed.vni, changed.refused_vnis) == (12, ())
    assert [changed.end(side).ready for side in Side] == [None, None]
    last = changed.history[-1]
    assert (last.at, last.source, last.target) == (later(5), State.LINKED, State.PAIR_READY)
    assert last.reason == "VNI 11 replaced by 12: another link holds its Lease"


def test_the_history_records_another_vni_even_if_no_end_was_ready() -> None:
    link = with_vni(vxlan(), 11)
    changed = renumber(link, 12, "why", later(5))
    assert len(changed.history) == len(link.history) + 1
    assert (changed.history[-1].source, changed.history[-1].target) == (State.PAIR_READY, State.PAIR_READY)


def test_the_record_keeps_the_latest_refused_vnis() -> None:
    link = with_vni(vxlan(), 1)
    for vni in range(2, REFUSED_KEPT + 4):
        link = renumber(link, vni, "why", NOW, refused=True)
    assert link.refused_vnis == tuple(range(3, REFUSED_KEPT + 3))
    assert len(link.history) == HISTORY_KEPT


def test_the_vni_stays_after_a_new_sandbox_and_a_changed_declaration() -> None:
    link = with_vni(vxlan(), 11)
    assert join(link, changed_declaration(), PRIMARY, own(PRIMARY, number=2), NOW).vni == 11


# Leave


@BOTH
def test_a_late_leave_changes_nothing(side: Side) -> None:
    link = join(with_ready(veth(), *Side), wanted(), side, own(side, number=2), NOW)
    assert leave(link, side, own(side).container_id, "late", later(1)) == link
    assert leave(link, side.other, own(side, number=2).container_id, "wrong end", later(1)) == link


@BOTH
def test_a_leave_clears_its_end_and_is_idempotent(side: Side) -> None:
    link = with_ready(vxlan(), *Side)
    left = leave(link, side, own(side).container_id, "the sandbox was deleted", NOW)
    assert left.sandbox(side) is None
    assert left.end(side).ready is None
    assert left.end(side.other) == link.end(side.other)
    assert left.history[-1].reason == "the sandbox was deleted"
    assert leave(left, side, own(side).container_id, "again", later(1)) == left


@BOTH
def test_a_leave_makes_the_other_end_of_a_veth_not_ready(side: Side) -> None:
    left = leave(with_ready(veth(), *Side), side, own(side).container_id, "gone", NOW)
    assert left.end(side.other).ready is None
    assert left.sandbox(side.other) == own(side.other)
    assert derive(left) is (State.PENDING if side is PRIMARY else State.PRIMARY_READY)


@BOTH
def test_the_last_leave_makes_the_record_abandoned(side: Side) -> None:
    link = with_ready(veth(), *Side)
    left = leave(link, side, own(side).container_id, "gone", NOW)
    assert not left.abandoned
    left = leave(left, side.other, own(side.other).container_id, "gone too", NOW)
    assert left.abandoned
    assert derive(left) is State.PENDING


# Mark ready and mark lost


def test_both_ends_of_a_veth_become_ready_at_once() -> None:
    link = mark_ready(veth(), PAIR, NOW)
    assert link.primary.ready == ReadyFor(own(PRIMARY).container_id, own(PAIR).container_id, 1)
    assert link.pair.ready == ReadyFor(own(PAIR).container_id, own(PRIMARY).container_id, 1)
    assert derive(link) is State.LINKED
    assert transitions(link) == [(State.PAIR_READY, State.LINKED)]
    assert mark_ready(link, PRIMARY, later(1)) == link


@BOTH
def test_each_end_of_a_tunnel_becomes_ready_separately_for_the_peers_vtep(side: Side) -> None:
    one = mark_ready(vxlan(), side, NOW)
    peer = one.sandbox(side.other)
    assert peer is not None
    assert one.end(side).ready == ReadyFor(own(side).container_id, peer.vtep, 1)
    assert one.end(side.other).ready is None
    assert derive(one) is State.PAIR_READY
    assert mark_ready(one, side, later(1)) == one
    assert derive(mark_ready(one, side.other, NOW)) is State.LINKED


@pytest.mark.parametrize("link", [joined(None, None), joined(own(PRIMARY), None), joined(None, own(PAIR))])
@BOTH
def test_no_end_can_be_ready_before_both_have_joined(link: Link, side: Side) -> None:
    before = replace(link)
    with pytest.raises(IllegalTransitionError):
        mark_ready(link, side, NOW)
    assert link == before


def test_a_lost_veth_is_lost_for_both_ends() -> None:
    link = mark_lost(with_ready(veth(), *Side), PRIMARY, "in1 is not there", NOW)
    assert link.primary.ready is None
    assert link.pair.ready is None
    assert transitions(link) == [(State.LINKED, State.PAIR_READY)]
    assert mark_lost(link, PRIMARY, "again", later(1)) == link


def test_a_lost_tunnel_end_leaves_its_peer_ready() -> None:
    link = mark_lost(with_ready(vxlan(), *Side), PAIR, "in2 is not there", NOW)
    assert link.pair.ready is None
    assert link.is_ready(PRIMARY)
    assert derive(link) is State.PAIR_READY


def test_an_end_lost_while_its_peer_is_absent_is_not_ready_when_the_peer_returns() -> None:
    alone = leave(with_ready(vxlan(), *Side), PRIMARY, own(PRIMARY).container_id, "gone", NOW)
    lost = mark_lost(alone, PAIR, "in2 is not there", later(1))
    assert lost.pair.ready is None
    back = join(lost, wanted(), PRIMARY, own(PRIMARY, number=2), later(2))
    assert derive(mark_ready(back, PRIMARY, later(3))) is State.PAIR_READY


# Random sequences


@dataclass(frozen=True)
class Update:
    """One update for one of a side's three sandboxes, with one of two declarations."""

    kind: str
    side: Side
    number: int
    intent: int

    @property
    def sandbox(self) -> Sandbox:
        # The first two sandboxes of both sides are on one node, so that a link changes between vEth and VXLAN.
        other = "node-b" if self.side is PRIMARY else "node-c"
        return own(self.side, "node-a" if self.number < 3 else other, self.number)

    @property
    def wanted(self) -> Link:
        link = wanted()
        address = ip_interface(f"192.168.2.{101 + self.intent}/24")
        return replace(link, pair=replace(link.pair, addresses=(address,)))


KINDS = st.sampled_from(["join", "join", "leave", "stand", "stand", "lose"])
SEQUENCES = st.lists(
    st.builds(Update, KINDS, st.sampled_from(Side), st.integers(1, 3), st.sampled_from([0, 0, 0, 1])), max_size=40
)
STEPS = {(row.source, row.target) for row in TABLE}


def after(record: Link | None, update: Update, second: int) -> Link | None:
    """The record after an update; None if there is none. An illegal update must raise, and changes nothing."""
    moment = later(second)
    if update.kind == "join":
        return join(record, update.wanted, update.side, update.sandbox, moment)
    if record is None:
        return None
    if update.kind == "leave":
        left = leave(record, update.side, update.sandbox.container_id, "left", moment)
        return None if left.abandoned else left
    step: Callable[[], Link] = {
        "stand": lambda: mark_ready(record, update.side, moment),
        "lose": lambda: mark_lost(record, update.side, "lost", moment),
    }[update.kind]
    if update.kind == "stand" and record.kind is None:
        with pytest.raises(IllegalTransitionError):
            step()
        return record
    return step()


def check_history(record: Link) -> None:
    assert 1 <= len(record.history) <= HISTORY_KEPT
    assert record.history[-1].target is derive(record)
    assert all(step in STEPS for step in transitions(record))
    steps = list(zip(record.history, record.history[1:], strict=False))
    assert all(one.target is next_one.source and one.at <= next_one.at for one, next_one in steps)


@given(SEQUENCES)
def test_the_history_ends_in_the_derived_state(sequence: list[Update]) -> None:
    record: Link | None = None
    for second, update in enumerate(sequence):
        record = after(record, update, second)
        if record is not None:
            check_history(record)


@given(SEQUENCES)
def test_an_update_leaves_the_other_sandbox_alone_and_is_idempotent(sequence: list[Update]) -> None:
    record: Link | None = None
    for second, update in enumerate(sequence):
        before, record = record, after(record, update, second)
        if record is None:
            continue
        if before is not None:
            assert record.sandbox(update.side.other) == before.sandbox(update.side.other)
            if update.kind == "join" and record.generation == before.generation:
                assert record.end(update.side.other) == before.end(update.side.other)
        if update.kind == "join":
            assert record.holds(update.side, update.sandbox.container_id)
            frozen = before if before and before.primary.sandbox and update.side is PAIR else None
            declared = frozen or update.wanted
            assert record.pair.addresses == declared.pair.addresses
        again = after(record, update, second + 1)
        assert again == record


@given(SEQUENCES)
def test_an_end_is_ready_only_for_a_build_that_was_not_undone(sequence: list[Update]) -> None:
    """`built` is a model of the ready ends that follows the events alone."""
    record: Link | None = None
    built: dict[Side, tuple[str, str, int]] = {}
    for second, update in enumerate(sequence):
        kind, before = record.kind if record else None, record
        record = after(record, update, second)
        if update.kind == "stand" and kind is not None and record is not None:
            for side in Side if kind is Kind.VETH else (update.side,):
                due = record.due(side)
                assert due is not None
                built[side] = (due.sandbox, due.peer, due.generation)
        elif update.kind == "lose":
            for side in Side if kind is Kind.VETH else (update.side,):
                built.pop(side, None)
        elif record is None:
            built.clear()
        elif before is not None and before.sandbox(update.side) != record.sandbox(update.side):
            built.pop(update.side, None)
            if update.kind == "leave" and kind is Kind.VETH:
                built.pop(update.side.other, None)
        if record is not None:
            for side in Side:
                recorded = record.end(side).ready
                assert (recorded and (recorded.sandbox, recorded.peer, recorded.generation)) == built.get(side)


def test_the_history_keeps_the_newest_transitions() -> None:
    record = join(None, wanted(), PRIMARY, own(PRIMARY), NOW)
    for number in range(2, 3 * HISTORY_KEPT):
        record = join(record, wanted(), PRIMARY, own(PRIMARY, number=number), later(number))
    assert [step.at for step in record.history] == [later(n) for n in range(2 * HISTORY_KEPT, 3 * HISTORY_KEPT)]


UPDATES: dict[str, Callable[[Link], Link]] = {
    "join": lambda link: join(link, changed_declaration(), PRIMARY, own(PRIMARY, number=2), NOW),
    "leave": lambda link: leave(link, PRIMARY, own(PRIMARY).container_id, "gone", NOW),
    "mark_ready": lambda link: mark_ready(replace(link, generation=2), PRIMARY, NOW),
    "mark_lost": lambda link: mark_lost(link, PRIMARY, "gone", NOW),
    "with_vni": lambda link: with_vni(link, 12),
    "renumber": lambda link: renumber(link, 12, "in use", NOW, refused=True),
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_an_update_does_not_modify_the_given_record(update: Callable[[Link], Link]) -> None:
    """Also not the notes of its ends: they are the only value of a record that is not frozen."""
    link = replace(with_ready(veth(), *Side), vni=11)
    for side in Side:
        link = link.with_end(side, replace(link.end(side), notes={"color": "blue"}))
    before = copy.deepcopy(link)
    assert update(link) != before
    assert link == before
