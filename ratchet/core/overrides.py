"""What operations make of a link at one time: the states of its ends replace the declared ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from ratchet.core.endpoint_spec import EndState
from ratchet.core.model import Link, Side
from ratchet.core.naming import Endpoint, earlier_record_names
from ratchet.core.operations import Operation, Operations, Verb


class Override(NamedTuple):
    """What an operation makes of the declared states of a link's ends; None: they are as declared."""

    verb: Verb | None = None
    sender: Side | None = None

    def applied_to(self, link: Link) -> Link:
        """The link with these states. UP and DOWN replace declared ones, CUT only adds to them."""
        match self.verb:
            case None:
                return link
            case Verb.CUT:
                sides = Side if self.sender is None else (self.sender,)
                cut = [side for side in sides if link.end(side).properties.state is EndState.UP]
                return _with_states(link, dict.fromkeys(cut, EndState.CUT))
            case Verb.UP:
                return _with_states(link, dict.fromkeys(Side, EndState.UP))
        return _with_states(link, dict.fromkeys(Side, EndState.DOWN))


AS_DECLARED = Override()


class Phase(NamedTuple):
    """What an operation does at one time. `seconds`: until this changes; None: until the operation is removed.

    `ended`: it does nothing any more.
    """

    override: Override
    seconds: float | None = None
    ended: bool = False


def phase_of(operation: Operation, elapsed: float, sender: Side | None = None) -> Phase:
    """What an operation does `elapsed` seconds after it began. `sender` is the side of its sender."""
    total = operation.total_seconds
    if total is not None and elapsed >= total:
        return Phase(AS_DECLARED, ended=True)
    left = None if total is None else total - elapsed
    if operation.verb is not Verb.FLAP or left is None:
        return Phase(Override(operation.verb, sender), left)
    within = max(elapsed, 0.0) % (operation.down_seconds + operation.up_seconds)
    if within < operation.down_seconds:
        return Phase(Override(Verb.DOWN), min(operation.down_seconds - within, left))
    return Phase(AS_DECLARED, min(operation.down_seconds + operation.up_seconds - within, left))


def sender_side(operation: Operation, record: Link) -> Side | None:
    """The side of an operation's sender. Raises ValueError if the link has no such endpoint."""
    if operation.sender is None:
        return None
    for side in Side:
        if operation.sender in endpoint_names(record, side):
            return side
    raise ValueError(f"from: the link has no endpoint {':'.join(operation.sender)}")


def endpoint_names(record: Link, side: Side) -> set[Endpoint]:
    """An endpoint under each name of its pod that its record has."""
    end = record.end(side)
    names = {end.name} | ({end.sandbox.pod.name} if end.sandbox is not None else set())
    return {(name, end.ifname) for name in names}


def operation_keys(record: Link) -> set[str]:
    """The keys under which an operation on a link may be stored: every name that its record may have."""
    ends = [endpoint_names(record, side) for side in Side]
    return {record.name} | earlier_record_names(record.namespace, *ends)


def key_of(operations: Operations, record: Link) -> str | None:
    """The key of a link's operation, which may be invalid; None if it has none."""
    found = operations.valid.keys() | operations.invalid.keys()
    if record.name in found:
        return record.name
    return next((key for key in sorted(operation_keys(record)) if key in found), None)


def _with_states(link: Link, states: Mapping[Side, EndState]) -> Link:
    for side, state in states.items():
        end = link.end(side)
        if end.properties.state is not state:
            link = link.with_end(side, replace(end, properties=replace(end.properties, state=state)))
    return link
