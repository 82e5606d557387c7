"""Updates of a link's record by one of its ends: join, leave, mark ready, mark lost, another VNI.

Each function takes the record as read and returns the record to write. The state machine checks that the update is
legal, and the history gets a line for people. An update that changes nothing returns an equal record.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from ratchet.core.endpoint_spec import resets
from ratchet.core.escape import escape_unprintable
from ratchet.core.kinds import Wiring
from ratchet.core.model import NO_PEER, SIDES, End, EndError, Link, Side, Transition
from ratchet.core.naming import node_label
from ratchet.core.operations import RecordedOperation
from ratchet.core.overrides import AS_DECLARED, Override
from ratchet.core.sandbox import Sandbox
from ratchet.core.schemas import EARLIER_SCHEMA
from ratchet.core.state_machine import JOINED, LEFT, LOST, MARKED_READY, Event, advance, derive, facts_of

HISTORY_KEPT = 12
REFUSED_KEPT = 16
ERROR_MAX = 500  # characters

_ALWAYS_IN_HISTORY = frozenset({*JOINED.values(), *LEFT.values()})

Move = tuple[Event, Link]


def join(record: Link | None, wanted: Link, side: Side, sandbox: Sandbox, now: datetime) -> Link:
    """The record with `sandbox` at `side`, and that end not ready.

    `wanted` is the link as declared now, with the same roles as the record. A new record starts from it. A record of an
    earlier declaration is updated to it and gets the next generation, so that ends built for the earlier one are not
    ready. A primary that has joined freezes the declaration: when its pair joins later, the record keeps it.
    """
    before = wanted if record is None else _rewired(record, wanted) if record.abandoned else record
    frozen = side is Side.PAIR and before.primary.sandbox is not None  # `Attempt.declares`
    base, steps = (before, list[Move]()) if frozen else _renewed(before, wanted)
    sandbox = sandbox.in_schema(base.schema)
    if base.sandbox(side) == sandbox:
        return _with_history(base, before, steps, f"{side} {sandbox.pod} changed the declaration", now)
    # A pod that was absent when its peer joined may have been recorded under another of its names.
    mine = replace(base.end(side), name=wanted.end(side).name, sandbox=sandbox, ready=None, error=None)
    joined = base.with_end(side, mine)
    steps.append((JOINED[side], joined))
    if side is Side.PRIMARY and base.primary.sandbox is None and base.pair.sandbox is not None:
        steps.append((Event.PAIR_JOINED, joined))
    return replace(
        joined,
        expected_on=_expected_after_join(base, side, sandbox),
        history=_history_after(before, steps, f"{side} {sandbox.pod} joined on {sandbox.node}", now),
    )


def leave(record: Link, side: Side, container_id: str, reason: str, now: datetime) -> Link:
    """The record without this sandbox. Unchanged if another sandbox holds the end, as after a late DEL.

    On one node the other end is deleted or disconnected with this one, so it is not ready either.
    """
    if not record.holds(side, container_id):
        return record
    base, steps = record, list[Move]()
    if record.is_local:
        base, steps = _without_ready(record, side.other)
    base = _without_error(base, side.other)  # it waits again
    left = base.with_end(side, replace(base.end(side), sandbox=None, ready=None, error=None, resets=()))
    return replace(
        left,
        expected_on=_expected_after_leave(record, side),
        history=_history_after(record, [*steps, (LEFT[side], left)], reason, now),
    )


def mark_ready(record: Link, side: Side, now: datetime, override: Override = AS_DECLARED) -> Link:
    """The record with `side` ready and without its error. Both ends on one node become ready at once.

    `override` is what an operation makes of the link now: the pass has built its ends accordingly.
    """
    updated = record
    steps: list[Move] = []
    sides = override.applied_to(record).built_with(side)
    for one in sides:
        updated = _without_error(updated, one)
        if not updated.is_ready(one):
            updated = updated.with_end(one, replace(updated.end(one), ready=updated.due(one), resets=()))
            steps.append((MARKED_READY[one], updated))
    what = "both ends are ready" if len(sides) == 2 else f"{side} is ready"
    return _with_history(updated, record, steps, f"{what} ({record.kind})", now)


def mark_lost(record: Link, side: Side, reason: str, now: datetime) -> Link:
    """The record with `side` lost: its interface or its node is gone. A link on one node loses both ends."""
    lost, steps = record, list[Move]()
    for one in record.built_with(side):
        lost, more = _without_ready(lost, one)
        steps += more
    return _with_history(lost, record, steps, reason, now)


def with_error(record: Link, side: Side, text: str, now: datetime) -> Link:
    """The record with the error of an end. One that is there already keeps its time.

    Unchanged if an end has not joined: the peer has left since the error, so the end waits. No pass would clear it.
    """
    end = record.end(side)
    text = escape_unprintable(text)[:ERROR_MAX]
    is_known = end.error is not None and end.error.text == text
    if is_known or record.schema == EARLIER_SCHEMA or record.kind is None:
        return record
    return record.with_end(side, replace(end, error=EndError(_recorded_time(now), text)))


def with_operation(record: Link, operation: RecordedOperation | None) -> Link:
    """The record with its latest operation. One that is there already keeps its start."""
    before = record.operation
    is_known = before is not None and operation is not None and before.id == operation.id
    return record if is_known or record.schema == EARLIER_SCHEMA else replace(record, operation=operation)


def with_vni(record: Link, vni: int) -> Link:
    """The record with its tunnel's first VNI."""
    return replace(record, vni=vni)


def renumber(record: Link, vni: int, reason: str, now: datetime, *, refused: bool = False) -> Link:
    """The record with another VNI and neither end ready. `refused`: a node cannot use the old VNI.

    The history gets a line even if the state stays the same.
    """
    base, steps = record, list[Move]()
    for side in SIDES:
        base, more = _without_ready(base, side)
        steps += more
    refused_vnis = record.refused_vnis
    if refused and record.vni is not None:
        kept = [one for one in refused_vnis if one != record.vni]
        refused_vnis = (*kept, record.vni)[-REFUSED_KEPT:]
    text = f"VNI {record.vni} replaced by {vni}: {reason}"
    history = _history_after(record, steps, text, now)
    if not history or history[-1].reason != text:
        state = derive(base)
        history = (*history, Transition(_recorded_time(now), state, state, text))[-HISTORY_KEPT:]
    return replace(base, vni=vni, refused_vnis=refused_vnis, history=history)


def _without_error(record: Link, side: Side) -> Link:
    end = record.end(side)
    return record if end.error is None else record.with_end(side, replace(end, error=None))


def _expected_after_join(record: Link, side: Side, sandbox: Sandbox) -> tuple[str, ...]:
    if record.sandbox(side.other) is not None:
        return ()
    return tuple(label for label in record.expected_on if label != node_label(sandbox.node))


def _expected_after_leave(record: Link, side: Side) -> tuple[str, ...]:
    """The label of the node that a pod leaves, if its peer is on another: most pods come back."""
    sandbox, peer = record.sandbox(side), record.sandbox(side.other)
    if sandbox is None or peer is None or sandbox.node == peer.node:
        return ()
    return (node_label(sandbox.node),)


def _without_ready(record: Link, side: Side) -> tuple[Link, list[Move]]:
    """The record with `side` not ready, and the event of it, if the side was built for the record."""
    if record.end(side).ready is None:
        return record, []
    lost = record.with_end(side, replace(record.end(side), ready=None))
    return lost, [(LOST[side], lost)] if record.due(side) else []


def _renewed(record: Link, wanted: Link) -> tuple[Link, list[Move]]:
    """The record updated to the current declaration. Ends that were ready for an earlier one are lost.

    They stay connected (`Link.is_connected`), unless another kind of interface replaces what they have, or in direct
    wiring a tunnel with another UDP port.
    """
    if record.intends_the_same_as(wanted):
        return record, []
    primary, pair = (
        replace(new, sandbox=old.sandbox, ready=old.ready, resets=_resets(record, old, new))
        for old, new in ((record.primary, wanted.primary), (record.pair, wanted.pair))
    )
    renewed = replace(
        record, encapsulation=wanted.encapsulation, generation=record.generation + 1, primary=primary, pair=pair
    )
    has_other_port = record.encapsulation.vxlan_port != wanted.encapsulation.vxlan_port
    if record.kind is not renewed.kind or (record.wiring is Wiring.DIRECT and has_other_port):
        renewed = replace(renewed, primary=_disconnected(renewed.primary), pair=_disconnected(renewed.pair))
    return renewed, [(LOST[side], renewed) for side in SIDES if record.is_ready(side)]


def _resets(record: Link, old: End, new: End) -> tuple[str, ...]:
    if old.ready is None or record.schema == EARLIER_SCHEMA:
        return ()
    return resets(old.properties, new.properties, old.resets)


def _disconnected(end: End) -> End:
    return end if end.ready is None else replace(end, ready=replace(end.ready, peer=NO_PEER))


def _rewired(record: Link, wanted: Link) -> Link:
    """A record without ends in the declared wiring. Schema 1 holds direct wiring only."""
    if EARLIER_SCHEMA in (record.schema, wanted.schema):
        return record
    return replace(record, wiring=wanted.wiring, schema=wanted.schema)


def _with_history(after: Link, before: Link, steps: list[Move], reason: str, now: datetime) -> Link:
    """`after` with the history of `before` and of the steps (`_history_after`)."""
    history = _history_after(before, steps, reason, now)
    return after if after.history == history else replace(after, history=history)


def _history_after(before: Link, steps: list[Move], reason: str, now: datetime) -> tuple[Transition, ...]:
    """The history of `before`, then the state machine's transitions for the events of the steps."""
    if not steps:
        return before.history[-HISTORY_KEPT:]
    state, history = derive(before), list(before.history)
    at = _recorded_time(now)
    for event, record in steps:
        target = advance(state, event, facts_of(record))
        if target is not state or event in _ALWAYS_IN_HISTORY:
            history.append(Transition(at, state, target, reason))
        state = target
    return tuple(history[-HISTORY_KEPT:])


def _recorded_time(now: datetime) -> datetime:
    """A time in the precision of a record: milliseconds."""
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
