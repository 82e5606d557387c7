"""The pairing machine: four states, eight events, one table.

A record holds facts; `derive` names the state that they amount to. The table says which events are legal in which
state and where they lead; anything else raises and nothing happens. A test holds the two together, and the diagram
in docs/state-machine.md is drawn from the table.
"""

from __future__ import annotations

from collections.abc import Callable
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
    PRIMARY_STANDS = "primary_stands"
    PRIMARY_LOST = "primary_lost"
    PAIR_JOINED = "pair_joined"
    PAIR_LEFT = "pair_left"
    PAIR_STANDS = "pair_stands"
    PAIR_LOST = "pair_lost"


JOINED = {Side.PRIMARY: Event.PRIMARY_JOINED, Side.PAIR: Event.PAIR_JOINED}
LEFT = {Side.PRIMARY: Event.PRIMARY_LEFT, Side.PAIR: Event.PAIR_LEFT}
STANDS = {Side.PRIMARY: Event.PRIMARY_STANDS, Side.PAIR: Event.PAIR_STANDS}
LOST = {Side.PRIMARY: Event.PRIMARY_LOST, Side.PAIR: Event.PAIR_LOST}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the state depends on: which ends have joined, and which stand toward what the record says."""

    primary_joined: bool
    pair_joined: bool
    primary_ready: bool
    pair_ready: bool

    @property
    def both_stand(self) -> bool:
        return self.primary_ready and self.pair_ready


def facts_of(link: Link) -> Facts:
    return Facts(
        primary_joined=link.primary.sandbox is not None,
        pair_joined=link.pair.sandbox is not None,
        primary_ready=link.is_ready(Side.PRIMARY),
        pair_ready=link.is_ready(Side.PAIR),
    )


def derive(link: Link) -> State:
    """The state that a record's facts amount to."""
    if link.primary.sandbox is None:
        return State.PENDING
    if link.pair.sandbox is None:
        return State.PRIMARY_READY
    return State.LINKED if link.is_ready(Side.PRIMARY) and link.is_ready(Side.PAIR) else State.PAIR_READY


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `when` and `unless` name a property of Facts, as they are after the event."""

    source: State
    event: Event
    target: State
    when: str | None = None
    unless: str | None = None


PENDING, PRIMARY_READY, PAIR_READY, LINKED = State.PENDING, State.PRIMARY_READY, State.PAIR_READY, State.LINKED

TABLE: tuple[Row, ...] = (
    # The way there. A pair that was first is only noted; it counts once the primary has joined.
    Row(PENDING, Event.PAIR_JOINED, PENDING),
    Row(PENDING, Event.PRIMARY_JOINED, PRIMARY_READY),
    Row(PRIMARY_READY, Event.PAIR_JOINED, PAIR_READY),
    Row(PAIR_READY, Event.PRIMARY_STANDS, LINKED, when="both_stand"),
    Row(PAIR_READY, Event.PRIMARY_STANDS, PAIR_READY, unless="both_stand"),
    Row(PAIR_READY, Event.PAIR_STANDS, LINKED, when="both_stand"),
    Row(PAIR_READY, Event.PAIR_STANDS, PAIR_READY, unless="both_stand"),
    # A new sandbox in the old one's place.
    Row(PRIMARY_READY, Event.PRIMARY_JOINED, PRIMARY_READY),
    Row(PAIR_READY, Event.PRIMARY_JOINED, PAIR_READY),
    Row(PAIR_READY, Event.PAIR_JOINED, PAIR_READY),
    Row(LINKED, Event.PRIMARY_JOINED, PAIR_READY),
    Row(LINKED, Event.PAIR_JOINED, PAIR_READY),
    # The ways back.
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


class _Pairing:
    """The machine's model for one decision: the facts its guards look at, and the state it is driven to."""

    state: State
    trigger: Callable[[str], bool]

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    def both_stand(self) -> bool:
        return self.facts.both_stand


def _machine(model: _Pairing, state: State) -> Machine:
    transitions = [
        {
            "trigger": row.event.value,
            "source": row.source.value,
            "dest": row.target.value,
            "conditions": row.when,
            "unless": row.unless,
        }
        for row in TABLE
    ]
    return Machine(
        model=model,
        states=[state.value for state in State],
        initial=state.value,
        transitions=transitions,
        auto_transitions=False,
        send_event=False,
    )


@cache  # of few arguments a function, and half a millisecond for a machine
def advance(state: State, event: Event, facts: Facts) -> State:
    """The state that `event` leads to from `state`, `facts` being what holds once it has happened.

    Raises IllegalTransitionError where the table has no such row.
    """
    model = _Pairing(facts)
    _machine(model, state)
    try:
        moved = model.trigger(event.value)
    except MachineError as refusal:
        raise IllegalTransitionError(f"cannot apply {event} to a link that is {state}: no such transition") from refusal
    if not moved:
        raise IllegalTransitionError(f"cannot apply {event} to a link that is {state}: its facts are {facts}")
    return State(model.state)


def diagram() -> str:
    """The table as a Mermaid state diagram, one arrow for each pair of states that an event connects."""
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
