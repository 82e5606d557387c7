"""The progress of a namespace: how many declared links are linked, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ratchet.core.drift import edits, wants_restart
from ratchet.core.intent import Wanted, WantedLink, absence
from ratchet.core.model import Link, Side, State
from ratchet.core.pod import Pod
from ratchet.core.state_machine import derive


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a namespace.

    `linked`, `wanted`: the number of links that are linked as declared, and of all declared links. `waiting`: why each
    other link is not linked, by its name. `refused`: the errors of invalid declarations.
    """

    linked: int
    wanted: int
    waiting: Mapping[str, str]
    refused: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return self.linked == self.wanted and not self.refused


def progress_of(wanted: Wanted, records: Mapping[str, Link], pods: Collection[Pod]) -> Progress:
    """The progress of declared links. `records`: by name. `pods`: those of the namespace."""
    waiting = {}
    for one in wanted.links:
        record = one.record_in(records)
        if record is None or derive(record) is not State.LINKED:
            waiting[one.link.name] = _why(one, record, pods)
        elif words := edits(record, one.link):
            waiting[one.link.name] = wants_restart(record, words)
    refused = tuple(sorted({str(error) for error in wanted.refused.values()}))
    return Progress(len(wanted.links) - len(waiting), len(wanted.links), waiting, refused)


def _why(wanted: WantedLink, record: Link | None, pods: Collection[Pod]) -> str:
    missing = [side for side in Side if record is None or record.sandbox(side) is None]
    if record is None or missing:
        ends = [wanted.link.end(side) for side in missing]
        return "; ".join(f"pod {end.name}: {absence(end.name, pods, end.ifname)}" for end in ends)
    latest = f" ({record.history[-1].reason})" if record.history else ""
    sides = [side for side in Side if not record.is_ready(side)]
    places = " and ".join(f"{record.end(side).ifname} of pod {_pod(record, side)}" for side in sides)
    return f"both pods have joined, but {places} {'is' if len(sides) == 1 else 'are'} not ready yet{latest}"


def _pod(record: Link, side: Side) -> str:
    sandbox = record.sandbox(side)
    return f"{sandbox.pod.name} on {sandbox.node}" if sandbox else record.end(side).name
