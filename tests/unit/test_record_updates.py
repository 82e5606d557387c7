"""The moves on a record: each rule of the protocol by itself, and any sequence of moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core import record_updates
from ratchet.core.model import Kind, Link, ReadyFor, Sandbox, Side, State
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
from ratchet.core.state_machine import TABLE, derive
from ratchet.errors import IllegalTransitionError
from tests.support.links import NOW, joined, later, own, standing, veth, vxlan, wanted

PRIMARY, PAIR = Side.PRIMARY, Side.PAIR
BOTH = pytest.mark.parametrize("side", Side)


def renewed_intent() -> Link:
    link = wanted()
    return replace(link, pair=replace(link.pair, addresses=(ip_interface("192.168.2.9/24"),)))


def path(link: Link) -> list[tuple[State, State]]:
    return [(step.source, step.target) for step in link.history]


# Joining


@BOTH
def test_the_first_to_join_makes_the_record_from_what_is_wanted(side: Side) -> None:
    record = join(None, wanted(), side, own(side), NOW)
    assert record.sandbox(side) == own(side)
    assert record.sandbox(side.other) is None
    assert record.generation == 1
    assert replace(record.end(side), sandbox=None) == wanted().end(side)
    assert derive(record) is (State.PRIMARY_READY if side is PRIMARY else State.PENDING)


def test_a_pair_that_is_first_is_noted_and_counts_once_the_primary_joins() -> None:
    first = join(None, wanted(), PAIR, own(PAIR), NOW)
    assert path(first) == [(State.PENDING, State.PENDING)]
    both = join(first, wanted(), PRIMARY, own(PRIMARY), later(1))
    assert path(both)[1:] == [(State.PENDING, State.PRIMARY_READY), (State.PRIMARY_READY, State.PAIR_READY)]
    assert {step.at for step in both.history[1:]} == {later(1)}


@BOTH
def test_joining_clears_only_what_its_own_end_stood_toward(side: Side) -> None:
    link = standing(vxlan(), *Side)
    node = "node-a" if side is PRIMARY else "node-b"
    again = join(link, wanted(), side, own(side, node, 2), NOW)
    assert again.end(side).ready is None
    assert again.end(side.other) == link.end(side.other)
    assert derive(again) is State.PAIR_READY


@BOTH
def test_a_tunnels_other_end_stands_on_where_the_new_sandbox_is_on_the_same_node(side: Side) -> None:
    link = standing(vxlan(), *Side)
    sandbox = link.sandbox(side)
    assert sandbox is not None
    assert join(link, wanted(), side, own(side, sandbox.node, 2), NOW).is_ready(side.other)
    assert not join(link, wanted(), side, own(side, "node-c", 2), NOW).is_ready(side.other)


def test_joining_again_with_the_same_sandbox_changes_nothing() -> None:
    link = standing(veth(), *Side)
    assert join(link, wanted(), PRIMARY, own(PRIMARY), later(5)) == link


def test_a_pair_does_not_change_what_its_primary_has_frozen() -> None:
    link = join(None, wanted(), PRIMARY, own(PRIMARY), NOW)
    paired = join(link, renewed_intent(), PAIR, own(PAIR), NOW)
    assert paired.generation == 1
    assert paired.pair.addresses == link.pair.addresses


def test_a_pair_that_is_alone_brings_the_intent_that_it_finds() -> None:
    alone = join(None, wanted(), PAIR, own(PAIR), NOW)
    again = join(alone, renewed_intent(), PAIR, own(PAIR, number=2), NOW)
    assert again.generation == 2
    assert again.pair.addresses == renewed_intent().pair.addresses


@pytest.mark.parametrize("link", [veth(), vxlan()], ids=["veth", "vxlan"])
def test_a_new_intent_is_one_generation_on_and_neither_end_stands(link: Link) -> None:
    link = standing(link, *Side)
    again = join(link, renewed_intent(), PRIMARY, own(PRIMARY, number=2), NOW)
    assert again.generation == 2
    assert again.pair.addresses == renewed_intent().pair.addresses
    assert again.pair.sandbox == link.pair.sandbox
    assert not again.is_ready(PRIMARY)
    assert not again.is_ready(PAIR)
    assert derive(again) is State.PAIR_READY


def test_a_new_intent_reaches_the_record_through_the_sandbox_that_is_there_already() -> None:
    linked = standing(vxlan(), *Side)
    again = join(linked, renewed_intent(), PRIMARY, own(PRIMARY), NOW)
    assert again.generation == 2
    assert derive(again) is State.PAIR_READY
    assert "anew" in again.history[-1].reason


@pytest.mark.parametrize("link", [vxlan(), joined(own(PRIMARY), None)], ids=["both", "alone"])
def test_a_new_intent_is_written_though_no_end_stood_for_the_old_one(link: Link) -> None:
    again = join(link, renewed_intent(), PRIMARY, own(PRIMARY), NOW)
    assert again.generation == 2
    assert again.pair.addresses == renewed_intent().pair.addresses
    assert derive(again) is derive(link)


def test_labels_for_people_alone_are_no_new_intent() -> None:
    link = standing(veth(), *Side)
    told = replace(wanted(), primary=replace(wanted().primary, notes={"public_ip": "1.1.1.1"}))
    assert join(link, told, PRIMARY, own(PRIMARY), NOW).generation == 1


def test_a_link_that_is_renumbered_is_not_linked_until_both_ends_are_made_anew() -> None:
    link = standing(with_vni(vxlan(), 11), *Side)
    assert derive(link) is State.LINKED
    changed = renumber(link, 12, "another link holds its Lease", later(5))
    assert (changed.vni, changed.refused_vnis) == (12, ())
    assert [changed.end(side).ready for side in Side] == [None, None]
    last = changed.history[-1]
    assert (last.at, last.source, last.target) == (later(5), State.LINKED, State.PAIR_READY)
    assert last.reason == "VNI 11 replaced by 12: another link holds its Lease"


def test_the_history_tells_of_a_new_number_also_where_no_end_stands() -> None:
    link = with_vni(vxlan(), 11)
    changed = renumber(link, 12, "why", later(5))
    assert len(changed.history) == len(link.history) + 1
    assert (changed.history[-1].source, changed.history[-1].target) == (State.PAIR_READY, State.PAIR_READY)


def test_the_latest_numbers_that_a_node_refused_are_noted() -> None:
    link = with_vni(vxlan(), 1)
    for vni in range(2, REFUSED_KEPT + 4):
        link = renumber(link, vni, "why", NOW, refused=True)
    assert link.refused_vnis == tuple(range(3, REFUSED_KEPT + 3))
    assert len(link.history) == HISTORY_KEPT


def test_the_number_stays_when_a_new_sandbox_or_intent_comes() -> None:
    link = with_vni(vxlan(), 11)
    assert join(link, renewed_intent(), PRIMARY, own(PRIMARY, number=2), NOW).vni == 11


# Leaving


@BOTH
def test_a_late_leave_harms_nobody(side: Side) -> None:
    link = join(standing(veth(), *Side), wanted(), side, own(side, number=2), NOW)
    assert leave(link, side, own(side).container_id, "late", later(1)) == link
    assert leave(link, side.other, own(side, number=2).container_id, "wrong end", later(1)) == link


@BOTH
def test_leaving_clears_the_end_and_is_done_once(side: Side) -> None:
    link = standing(vxlan(), *Side)
    left = leave(link, side, own(side).container_id, "the sandbox was deleted", NOW)
    assert left.sandbox(side) is None
    assert left.end(side).ready is None
    assert left.end(side.other) == link.end(side.other)
    assert left.history[-1].reason == "the sandbox was deleted"
    assert leave(left, side, own(side).container_id, "again", later(1)) == left


@BOTH
def test_a_veths_other_end_goes_with_the_one_that_leaves(side: Side) -> None:
    left = leave(standing(veth(), *Side), side, own(side).container_id, "gone", NOW)
    assert left.end(side.other).ready is None
    assert left.sandbox(side.other) == own(side.other)
    assert derive(left) is (State.PENDING if side is PRIMARY else State.PRIMARY_READY)


@BOTH
def test_the_last_to_leave_leaves_an_abandoned_record(side: Side) -> None:
    link = standing(veth(), *Side)
    left = leave(link, side, own(side).container_id, "gone", NOW)
    assert not left.abandoned
    left = leave(left, side.other, own(side.other).container_id, "gone too", NOW)
    assert left.abandoned
    assert derive(left) is State.PENDING


# Noting


def test_a_veth_stands_for_both_ends_at_once() -> None:
    link = mark_ready(veth(), PAIR, NOW)
    assert link.primary.ready == ReadyFor(own(PRIMARY).container_id, own(PAIR).container_id, 1)
    assert link.pair.ready == ReadyFor(own(PAIR).container_id, own(PRIMARY).container_id, 1)
    assert derive(link) is State.LINKED
    assert path(link) == [(State.PAIR_READY, State.LINKED)]
    assert mark_ready(link, PRIMARY, later(1)) == link


@BOTH
def test_each_end_of_a_tunnel_stands_by_itself_toward_the_peers_vtep(side: Side) -> None:
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
def test_nothing_stands_before_both_have_joined(link: Link, side: Side) -> None:
    before = replace(link)
    with pytest.raises(IllegalTransitionError):
        mark_ready(link, side, NOW)
    assert link == before


def test_a_lost_veth_is_lost_for_both() -> None:
    link = mark_lost(standing(veth(), *Side), PRIMARY, "in1 is not there", NOW)
    assert link.primary.ready is None
    assert link.pair.ready is None
    assert path(link) == [(State.LINKED, State.PAIR_READY)]
    assert mark_lost(link, PRIMARY, "again", later(1)) == link


def test_a_lost_tunnel_end_is_lost_for_itself() -> None:
    link = mark_lost(standing(vxlan(), *Side), PAIR, "in2 is not there", NOW)
    assert link.pair.ready is None
    assert link.is_ready(PRIMARY)
    assert derive(link) is State.PAIR_READY


def test_an_end_that_is_lost_while_its_peer_is_away_does_not_stand_when_the_peer_comes_back() -> None:
    alone = leave(standing(vxlan(), *Side), PRIMARY, own(PRIMARY).container_id, "gone", NOW)
    lost = mark_lost(alone, PAIR, "in2 is not there", later(1))
    assert lost.pair.ready is None
    back = join(lost, wanted(), PRIMARY, own(PRIMARY, number=2), later(2))
    assert derive(mark_ready(back, PRIMARY, later(3))) is State.PAIR_READY


# Any sequence


@dataclass(frozen=True)
class Move:
    """One move, of one of a side's sandboxes, with one of three intents."""

    kind: str
    side: Side
    number: int
    intent: int

    @property
    def sandbox(self) -> Sandbox:
        # The first two are on one node for both sides, so that a link changes from vEth to VXLAN and back.
        other = "node-b" if self.side is PRIMARY else "node-c"
        return own(self.side, "node-a" if self.number < 3 else other, self.number)

    @property
    def wanted(self) -> Link:
        link = wanted()
        address = ip_interface(f"192.168.2.{101 + self.intent}/24")
        return replace(link, pair=replace(link.pair, addresses=(address,)))


KINDS = st.sampled_from(["join", "join", "leave", "stand", "stand", "lose"])
SEQUENCES = st.lists(
    st.builds(Move, KINDS, st.sampled_from(Side), st.integers(1, 3), st.sampled_from([0, 0, 0, 1])), max_size=40
)
STEPS = {(row.source, row.target) for row in TABLE}


def after(record: Link | None, move: Move, second: int) -> Link | None:
    """The record after a move; None while there is none. What may not be is refused, and changes nothing."""
    moment = later(second)
    if move.kind == "join":
        return join(record, move.wanted, move.side, move.sandbox, moment)
    if record is None:
        return None
    if move.kind == "leave":
        left = leave(record, move.side, move.sandbox.container_id, "left", moment)
        return None if left.abandoned else left
    step: Callable[[], Link] = {
        "stand": lambda: mark_ready(record, move.side, moment),
        "lose": lambda: mark_lost(record, move.side, "lost", moment),
    }[move.kind]
    if move.kind == "stand" and record.kind is None:
        with pytest.raises(IllegalTransitionError):
            step()
        return record
    return step()


def check_history(record: Link) -> None:
    assert 1 <= len(record.history) <= HISTORY_KEPT
    assert record.history[-1].target is derive(record)
    assert all(step in STEPS for step in path(record))
    steps = list(zip(record.history, record.history[1:], strict=False))
    assert all(one.target is next_one.source and one.at <= next_one.at for one, next_one in steps)


@given(SEQUENCES)
def test_the_history_ends_in_the_state_that_the_facts_amount_to(sequence: list[Move]) -> None:
    record: Link | None = None
    for second, move in enumerate(sequence):
        record = after(record, move, second)
        if record is not None:
            check_history(record)


@given(SEQUENCES)
def test_a_move_touches_no_end_but_its_own_and_is_done_once(sequence: list[Move]) -> None:
    record: Link | None = None
    for second, move in enumerate(sequence):
        before, record = record, after(record, move, second)
        if record is None:
            continue
        if before is not None:
            assert record.sandbox(move.side.other) == before.sandbox(move.side.other)
            if move.kind == "join" and record.generation == before.generation:
                assert record.end(move.side.other) == before.end(move.side.other)
        if move.kind == "join":
            assert record.holds(move.side, move.sandbox.container_id)
            assert record.pair.addresses == move.wanted.pair.addresses
        again = after(record, move, second + 1)
        assert again == record


@given(SEQUENCES)
def test_an_end_stands_only_for_a_build_that_nothing_has_undone(sequence: list[Move]) -> None:
    """A second account of what stands, kept by the events alone."""
    record: Link | None = None
    built: dict[Side, tuple[str, str, int]] = {}
    for second, move in enumerate(sequence):
        kind, before = record.kind if record else None, record
        record = after(record, move, second)
        if move.kind == "stand" and kind is not None and record is not None:
            for side in Side if kind is Kind.VETH else (move.side,):
                due = record.due(side)
                assert due is not None
                built[side] = (due.sandbox, due.peer, due.generation)
        elif move.kind == "lose":
            for side in Side if kind is Kind.VETH else (move.side,):
                built.pop(side, None)
        elif record is None:
            built.clear()
        elif before is not None and before.sandbox(move.side) != record.sandbox(move.side):
            built.pop(move.side, None)
            if move.kind == "leave" and kind is Kind.VETH:
                built.pop(move.side.other, None)
        if record is not None:
            for side in Side:
                noted = record.end(side).ready
                assert (noted and (noted.sandbox, noted.peer, noted.generation)) == built.get(side)


def test_the_history_keeps_the_newest() -> None:
    record = join(None, wanted(), PRIMARY, own(PRIMARY), NOW)
    for number in range(2, 3 * HISTORY_KEPT):
        record = join(record, wanted(), PRIMARY, own(PRIMARY, number=number), later(number))
    assert [step.at for step in record.history] == [later(n) for n in range(2 * HISTORY_KEPT, 3 * HISTORY_KEPT)]


def test_a_move_never_changes_the_record_it_was_given() -> None:
    link = standing(veth(), *Side)
    kept = replace(link)
    record_updates.leave(link, PRIMARY, own(PRIMARY).container_id, "gone", NOW)
    record_updates.mark_lost(link, PRIMARY, "gone", NOW)
    record_updates.join(link, renewed_intent(), PAIR, own(PAIR, number=2), NOW)
    assert link == kept
