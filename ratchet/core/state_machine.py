"""State machine of a link: four states, eight events, one table.

A record holds facts, and `derive` names their state. The table lists the legal events of each state and their targets;
any other event raises an error. A test compares `derive` with the table, and the diagram in docs/state-machine.md is
drawn from the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from transitions import Machine, MachineError

from ratchet.core.model import Link, Side, State
from ratchet.errors import IllegalTransitionError


class Event(StrEnum):
    """What can happen to one end of a link."""

    PRIMARY_JOINED = "primary_joined"
    PRIMARY_LEFT = "primary_left"
    PRIMARY_MARKED_READY = "primary_marked_ready"
    PRIMARY_LOST = "primary_lost"
    PAIR_JOINED = "pair_joined"
    PAIR_LEFT = "pair_left"
    PAIR_MARKED_READY = "pair_marked_ready"
    PAIR_LOST = "pair_lost"


JOINED = {Side.PRIMARY: Event.PRIMARY_JOINED, Side.PAIR: Event.PAIR_JOINED}
LEFT = {Side.PRIMARY: Event.PRIMARY_LEFT, Side.PAIR: Event.PAIR_LEFT}
MARKED_READY = {Side.PRIMARY: Event.PRIMARY_MARKED_READY, Side.PAIR: Event.PAIR_MARKED_READY}
LOST = {Side.PRIMARY: Event.PRIMARY_LOST, Side.PAIR: Event.PAIR_LOST}


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a record that decide its state: which ends have joined, and which are ready."""

    primary_joined: bool
    pair_joined: bool
    primary_ready: bool
    pair_ready: bool

    @property
    def both_ready(self) -> bool:
        return self.primary_ready and self.pair_ready


def facts_of(link: Link) -> Facts:
    return Facts(
        primary_joined=link.primary.sandbox is not None,
        pair_joined=link.pair.sandbox is not None,
        primary_ready=link.is_ready(Side.PRIMARY),
        pair_ready=link.is_ready(Side.PAIR),
    )


def derive(link: Link) -> State:
    """The state of a record, derived from its facts."""
    if link.primary.sandbox is None:
        return State.PENDING
    if link.pair.sandbox is None:
        return State.PRIMARY_READY
    return State.LINKED if link.is_ready(Side.PRIMARY) and link.is_ready(Side.PAIR) else State.PAIR_READY


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table. `when` and `unless` name a property of Facts, which hold after the event."""

    source: State
    event: Event
    target: State
    when: str | None = None
    unless: str | None = None


PENDING, PRIMARY_READY, PAIR_READY, LINKED = State.PENDING, State.PRIMARY_READY, State.PAIR_READY, State.LINKED

TABLE: tuple[Row, ...] = (
    # Forward. A pair that joins first changes no state until the primary has joined.
    Row(PENDING, Event.PAIR_JOINED, PENDING),
    Row(PENDING, Event.PRIMARY_JOINED, PRIMARY_READY),
    Row(PRIMARY_READY, Event.PAIR_JOINED, PAIR_READY),
    Row(PAIR_READY, Event.PRIMARY_MARKED_READY, LINKED, when="both_ready"),
    Row(PAIR_READY, Event.PRIMARY_MARKED_READY, PAIR_READY, unless="both_ready"),
    Row(PAIR_READY, Event.PAIR_MARKED_READY, LINKED, when="both_ready"),
    Row(PAIR_READY, Event.PAIR_MARKED_READY, PAIR_READY, unless="both_ready"),
    # A new sandbox replaces the old one.
    Row(PRIMARY_READY, Event.PRIMARY_JOINED, PRIMARY_READY),
    Row(PAIR_READY, Event.PRIMARY_JOINED, PAIR_READY),
    Row(PAIR_READY, Event.PAIR_JOINED, PAIR_READY),
    Row(LINKED, Event.PRIMARY_JOINED, PAIR_READY),
    Row(LINKED, Event.PAIR_JOINED, PAIR_READY),
    # Backward.
    Row(PENDING, Event.PAIR_LEFT, PENDING),
    Row(PRIMARY_READY, Event.PRIMARY_LEFT, PENDING),
    Row(PAIR_READY, Event.PRIMARY_LEFT, PENDING),
    Row(PAIR_READY, Event.PAIR_LEFT, PRIMARY_READY),
    Row(LINKED, Event.PRIMARY_LEFT, PENDING),
    Row(LINKED, Event.PAIR_LEFT, PRIMARY_READY),
    Row(PAIR_READY, Event.PRIMARY_LOST, PAIR_READY),
    Row(PAIR_READY, Event.PAIR_LOST, PAIR_READY),
    Row(LINKED, Event.PRIMARY_LOST, PAIR_READY),
    Row(LINKED, Event.PAIR_LOST, PAIR_READY),
)


class _Decision:
    """The machine's model for one decision. The guards of the table read their values from `facts`."""

    __slots__ = ("facts", "state")

    def __init__(self, state: State, facts: Facts) -> None:
        self.state: str = state.value
        self.facts = facts

    @property
    def both_ready(self) -> bool:
        return self.facts.both_ready


# The machine has no model of its own and keeps no state: each decision brings its model, so threads share the machine.
_MACHINE = Machine(
    model=None,
    states=[state.value for state in State],
    initial=None,
    transitions=[
        {
            "trigger": row.event.value,
            "source": row.source.value,
            "dest": row.target.value,
            "conditions": row.when,
            "unless": row.unless,
        }
        for row in TABLE
    ],
    auto_transitions=False,
    send_event=False,
)


@cache  # a decision takes some 30 µs, and its arguments have few values
def advance(state: State, event: Event, facts: Facts) -> State:
    """The state after `event` in `state`. `facts` hold after the event.

    Raises IllegalTransitionError if the table has no such row.
    """
    decision = _Decision(state, facts)
    try:
        moved = _MACHINE.events[event.value].trigger(decision)
    except MachineError as cause:
        raise IllegalTransitionError(f"cannot apply {event} to a link that is {state}: no such transition") from cause
    if not moved:
        raise IllegalTransitionError(f"cannot apply {event} to a link that is {state}: its facts are {facts}")
    return State(decision.state)


def diagram() -> str:
    """The table as a Mermaid state diagram, with one arrow for each pair of connected states."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for row in TABLE:
        guard = f" [{row.when}]" if row.when else f" [not {row.unless}]" if row.unless else ""
        arrows.setdefault((row.source, row.target), []).append(f"{row.event}{guard}")
    lines = ["stateDiagram-v2", *(f'    state "{s}" as {_mermaid(s)}' for s in State if "-" in s)]
    lines.append(f"    [*] --> {PENDING}")
    lines += [
        f"    {_mermaid(source)} --> {_mermaid(target)} : {' | '.join(events)}"
        for (source, target), events in arrows.items()
    ]
    return "\n".join(lines)


def _mermaid(state: State) -> str:
    return state.value.replace("-", "_")


if __name__ == "__main__":
    print(diagram())
