"""A place in the patch panel for an end whose link turns out to be in panel wiring."""

from __future__ import annotations

from dataclasses import replace

from ratchet.core.kinds import Wiring
from ratchet.core.model import Link
from ratchet.core.panel import PanelSlot
from ratchet.core.plan import Attempt
from ratchet.node.journal import HeldEnd, Journal


def placed(attempt: Attempt, record: Link | None, journal: Journal) -> Attempt:
    """The attempt with a place in the panel, if its record needs one. The journal then has it too.

    The record decides on the wiring: the peer's node, which has another default, may have created it. Raises
    RatchetError.
    """
    if record is None or record.wiring is Wiring.DIRECT or attempt.slot is not None:
        return attempt
    return replace(attempt, slot=_take_slot(journal, attempt.name, attempt.container_id))


def _take_slot(journal: Journal, link: str, container_id: str) -> PanelSlot | None:
    """Note that a sandbox's link is in panel wiring. None if this node does not hold the end."""

    def noted(ends: tuple[HeldEnd, ...]) -> tuple[HeldEnd, ...]:
        return tuple(_in_panel(end) if end.link == link else end for end in ends)

    for entry in journal.of_container(container_id):
        if entry.end_of(link) is not None:
            journal.change_ends(entry.attachment, noted)
            current = journal.read(entry.attachment)
            return current.slot if current is not None else None
    return None


def _in_panel(end: HeldEnd) -> HeldEnd:
    return replace(end, wanted=replace(end.wanted, wiring=Wiring.PANEL))
