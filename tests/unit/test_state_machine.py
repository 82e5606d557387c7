"""The state machine of a link: every event in every state, and the agreement of the table with `derive`."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.core.model import Link, Side, State
from ratchet.core.state_machine import (
    JOINED,
    LEFT,
    LOST,
    MARKED_READY,
    TABLE,
    Event,
    Facts,
    advance,
    derive,
    diagram,
    facts_of,
)
from ratchet.errors import IllegalTransitionError
from tests.support.links import joined, own, veth, vxlan, with_ready

PAGE = Path(__file__).parents[2] / "docs" / "state-machine.md"

PENDING, PRIMARY_READY, PAIR_READY, LINKED = State.PENDING, State.PRIMARY_READY, State.PAIR_READY, State.LINKED

# The target states of each legal event, written independently of the table. The second one applies if both ends are
# ready after the event, else the first.
LEGAL: dict[State, dict[Event, tuple[State, State]]] = {
    PENDING: {
        Event.PRIMARY_JOINED: (PRIMARY_READY, PRIMARY_READY),
        Event.PAIR_JOINED: (PENDING, PENDING),
        Event.PAIR_LEFT: (PENDING, PENDING),
    },
    PRIMARY_READY: {
        Event.PRIMARY_JOINED: (PRIMARY_READY, PRIMARY_READY),
        Event.PAIR_JOINED: (PAIR_READY, PAIR_READY),
        Event.PRIMARY_LEFT: (PENDING, PENDING),
    },
    PAIR_READY: {
        Event.PRIMARY_JOINED: (PAIR_READY, PAIR_READY),
        Event.PAIR_JOINED: (PAIR_READY, PAIR_READY),
        Event.PRIMARY_LEFT: (PENDING, PENDING),
        Event.PAIR_LEFT: (PRIMARY_READY, PRIMARY_READY),
        Event.PRIMARY_MARKED_READY: (PAIR_READY, LINKED),
        Event.PAIR_MARKED_READY: (PAIR_READY, LINKED),
        Event.PRIMARY_LOST: (PAIR_READY, PAIR_READY),
        Event.PAIR_LOST: (PAIR_READY, PAIR_READY),
    },
    LINKED: {
        Event.PRIMARY_JOINED: (PAIR_READY, PAIR_READY),
        Event.PAIR_JOINED: (PAIR_READY, PAIR_READY),
        Event.PRIMARY_LEFT: (PENDING, PENDING),
        Event.PAIR_LEFT: (PRIMARY_READY, PRIMARY_READY),
        Event.PRIMARY_LOST: (PAIR_READY, PAIR_READY),
        Event.PAIR_LOST: (PAIR_READY, PAIR_READY),
    },
}

ALL_FACTS = [Facts(*bits) for bits in itertools.product((False, True), repeat=4)]


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_an_event_leads_to_its_target_state_or_is_illegal(state: State, event: Event) -> None:
    for facts in ALL_FACTS:
        if event in LEGAL[state]:
            assert advance(state, event, facts) is LEGAL[state][event][facts.both_ready]
        else:
            with pytest.raises(IllegalTransitionError, match=f"{event} to a link that is {state}"):
                advance(state, event, facts)


def records() -> Iterator[Link]:
    """A record for each consistent combination of facts, as a vEth and as a VXLAN."""
    yield joined(None, None)
    yield joined(own(Side.PRIMARY), None)
    yield joined(None, own(Side.PAIR))
    for both in (veth(), vxlan()):
        yield from (both, with_ready(both, Side.PRIMARY), with_ready(both, Side.PAIR), with_ready(both, *Side))


def changed(link: Link, event: Event) -> Link | None:
    """The record after the event; None if the event cannot happen to it."""
    kind, side = next(
        (kind, side) for kind in (JOINED, LEFT, MARKED_READY, LOST) for side in Side if kind[side] is event
    )
    end = link.end(side)
    if kind is JOINED:
        node = end.sandbox.node if end.sandbox else "node-a"
        return link.with_end(side, replace(end, sandbox=own(side, node, number=2), ready=None))
    if kind is LEFT:
        return link.with_end(side, replace(end, sandbox=None, ready=None)) if end.sandbox else None
    if kind is MARKED_READY:
        return with_ready(link, side) if link.due(side) and not link.is_ready(side) else None
    return link.with_end(side, replace(end, ready=None)) if link.is_ready(side) else None


def test_the_records_cover_every_consistent_combination_of_facts() -> None:
    consistent = [
        facts
        for facts in ALL_FACTS
        if (facts.primary_joined and facts.pair_joined) or not (facts.primary_ready or facts.pair_ready)
    ]
    assert {facts_of(link) for link in records()} == set(consistent)
    assert len(consistent) == 7


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("before", list(records()), ids=lambda link: f"{facts_of(link)}-{link.kind}")
def test_a_possible_event_is_legal_and_leads_to_the_derived_state(before: Link, event: Event) -> None:
    state = derive(before)
    after = changed(before, event)
    if after is None:
        # The event cannot happen to this record: it is illegal, or it changes no state.
        if event in LEGAL[state]:
            assert advance(state, event, facts_of(before)) is state
        return
    target = advance(state, event, facts_of(after))
    if event is Event.PRIMARY_JOINED and before.primary.sandbox is None and before.pair.sandbox is not None:
        assert target is PRIMARY_READY
        # The pair joined first: it changes the state only now.
        target = advance(target, Event.PAIR_JOINED, facts_of(after))
    assert target is derive(after)


def test_the_state_is_derived_from_the_facts() -> None:
    assert derive(joined(None, None)) is PENDING
    assert derive(joined(None, own(Side.PAIR))) is PENDING
    assert derive(joined(own(Side.PRIMARY), None)) is PRIMARY_READY
    for both in (veth(), vxlan()):
        assert derive(both) is PAIR_READY
        assert derive(with_ready(both, Side.PRIMARY)) is PAIR_READY
        assert derive(with_ready(both, Side.PAIR)) is PAIR_READY
        assert derive(with_ready(both, *Side)) is LINKED


def test_an_end_is_not_ready_after_its_peer_moved_or_restarted() -> None:
    link = with_ready(vxlan(), *Side)
    moved = link.with_end(Side.PAIR, replace(link.pair, sandbox=own(Side.PAIR, "node-c", 2)))
    assert facts_of(moved) == Facts(primary_joined=True, pair_joined=True, primary_ready=False, pair_ready=False)
    link = with_ready(veth(), *Side)
    renewed = link.with_end(Side.PAIR, replace(link.pair, sandbox=own(Side.PAIR, "node-a", 2)))
    assert derive(renewed) is PAIR_READY


def test_the_table_has_no_duplicate_rows() -> None:
    cells = [(row.source, row.event, row.when, row.unless) for row in TABLE]
    assert len(set(cells)) == len(cells)


def test_the_page_has_the_diagram_of_the_table() -> None:
    blocks = PAGE.read_text().split("```mermaid\n")
    assert len(blocks) == 2
    drawn, _, _ = blocks[1].partition("\n```\n")
    assert drawn == diagram()


def test_the_diagram_has_an_arrow_for_every_row() -> None:
    arrows = {}
    for line in diagram().splitlines():
        if " --> " in line and "[*]" not in line:
            ends, _, events = line.strip().partition(" : ")
            source, _, target = ends.replace("_", "-").partition(" --> ")
            arrows[source, target] = events.split(" | ")
    for row in TABLE:
        guard = f" [{row.when}]" if row.when else f" [not {row.unless}]" if row.unless else ""
        assert f"{row.event}{guard}" in arrows[row.source, row.target]
    assert sum(map(len, arrows.values())) == len(TABLE)
    assert "    [*] --> pending" in diagram().splitlines()
    assert '    state "pair-ready" as pair_ready' in diagram().splitlines()


def test_the_module_prints_the_diagram() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "ratchet.core.state_machine"],
        check=True,
        capture_output=True,
        text=True,
        cwd=PAGE.parents[1],
    )
    assert printed.stdout == diagram() + "\n"
