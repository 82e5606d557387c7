"""The progress of a namespace: how many declared links are linked, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ratchet.cli.topology_faults import topology_faults
from ratchet.core.drift import edits
from ratchet.core.intent import Wanted, WantedLink, absence
from ratchet.core.model import Link, Side, State
from ratchet.core.pod import Pod, Topology
from ratchet.core.state_machine import derive


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a namespace.

    `linked`, `wanted`: the number of links that are linked as declared, and of all declared links, where an invalid
    declaration counts as one. `waiting`: why each other link is not linked, by its name. `refused`: the errors of
    invalid declarations.
    """

    linked: int
    wanted: int
    waiting: Mapping[str, str]
    refused: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return self.linked == self.wanted


def progress_of(
    wanted: Wanted, records: Mapping[str, Link], pods: Collection[Pod], topologies: Iterable[Topology] = ()
) -> Progress:
    """The progress of declared links. `records`: by name. `pods`, `topologies`: those of the namespace."""
    waiting = {}
    for one in wanted.links:
        record = one.record_in(records)
        if record is None or derive(record) is not State.LINKED:
            waiting[one.link.name] = _why(one, record, pods)
        elif found := edits(record, one):
            waiting[one.link.name] = found.text(record)
    refused = rejected_declarations(wanted, topologies)
    linked = len(wanted.links) - len(waiting)
    return Progress(linked, len(wanted.links) + len(refused), waiting, tuple(sorted(set(refused.values()))))


def rejected_declarations(wanted: Wanted, topologies: Iterable[Topology] = ()) -> dict[str, str]:
    """The errors of invalid declarations, by place. One of a topology is rejected whether or not its pods exist."""
    errors = {error.place: str(error) for error in wanted.refused.values()}
    return errors | {fault.place: str(fault) for fault in topology_faults(topologies)}


def _why(wanted: WantedLink, record: Link | None, pods: Collection[Pod]) -> str:
    missing = [side for side in Side if record is None or record.sandbox(side) is None]
    if record is None or missing:
        ends = [wanted.link.end(side) for side in missing]
        return "; ".join(f"pod {end.name}: {absence(end.name, pods, end.ifname)}" for end in ends)
    if errors := end_errors(record):
        return "; ".join(errors)
    latest = f" ({record.history[-1].reason})" if record.history else ""
    sides = [side for side in Side if not record.is_ready(side)]
    places = " and ".join(f"{record.end(side).ifname} of pod {_pod(record, side)}" for side in sides)
    return f"both pods have joined, but {places} {'is' if len(sides) == 1 else 'are'} not ready yet{latest}"


def end_errors(record: Link) -> list[str]:
    """The errors of a link's ends, each with its interface and its pod."""
    failed = [(side, record.end(side)) for side in Side]
    return [f"{end.ifname} of pod {_pod(record, side)}: {end.error.text}" for side, end in failed if end.error]


def _pod(record: Link, side: Side) -> str:
    sandbox = record.sandbox(side)
    return f"{sandbox.pod.name} on {sandbox.node}" if sandbox else record.end(side).name
