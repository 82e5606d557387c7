"""What a change of declarations does to the links of a namespace, as its agents would do it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from ratchet.cli.declarations import Declarations
from ratchet.cli.link_ends import LinkEnds, Obstacle, restart_of, side_in
from ratchet.core.drift import DeclaredDifferences, Edits, declared_differences, edits
from ratchet.core.intent import WantedLink
from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import SIDES, Link, Side


class Change(StrEnum):
    """What happens to a link.

    `ON_START`: it is made or changed when a pod starts that does not run. `RESTART`: not before a running pod restarts.
    `REJECTED`: its declaration is invalid; running pods keep it as it is.
    """

    NONE = "none"
    ADDED = "added"
    REMOVED = "removed"
    MOVED = "moved"
    IN_PLACE = "in place"
    TUNNEL_REPLACED = "tunnel replaced"
    INTERFACE_REPLACED = "interface replaced"
    ON_START = "on start"
    RESTART = "restart"
    REJECTED = "rejected"


_OF_OBSTACLES = {
    Obstacle.ABSENT: Change.ON_START,
    Obstacle.RUNNING: Change.RESTART,
    Obstacle.REJECTED: Change.REJECTED,
}


@dataclass(frozen=True, slots=True)
class LinkChange:
    """What happens to one link. `link` is the name of its record."""

    link: str
    change: Change
    details: tuple[str, ...] = ()


def link_changes(before: Declarations, after: Declarations, records: Iterable[Link]) -> list[LinkChange]:
    """What happens to each link of a namespace if its declarations change, in the order of the links' names.

    `records` are those of the namespace. All nodes with pods of links have agents.
    """
    comparison = _Comparison(before, after, LinkEnds(before, after, records))
    return sorted(comparison.changes(), key=lambda one: one.link)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The declarations of a namespace before and after a change, and the ends of its links."""

    before: Declarations
    after: Declarations
    ends: LinkEnds

    def changes(self) -> Iterator[LinkChange]:
        """What happens to each link that is or was declared, or has a record."""
        known = set[str]()
        for one in self.after.wanted.links:
            record = one.record_in(self.ends.records)
            known |= one.record_names()
            earlier = self.ends.earlier(one)
            if earlier is not None:
                known |= earlier.record_names()
            yield self._of_declared(one, earlier, record)
        for earlier in self.before.wanted.links:
            if earlier.link.name not in known:
                known |= earlier.record_names()
                yield self._of_undeclared(earlier, earlier.record_in(self.ends.records))
        for name, record in self.ends.records.items():
            if name not in known:
                yield self._of_record(record)

    # Declared links

    def _of_declared(self, one: WantedLink, earlier: WantedLink | None, record: Link | None) -> LinkChange:
        if record is None:
            return self._of_unmade(one, earlier)
        found = declared_differences(record, one)
        is_edited = found.words and one.live and not (earlier is not None and earlier.live)
        if earlier is not None and _is_unchanged(earlier, one) and not is_edited:
            waiting = edits(record, one)
            return LinkChange(record.name, Change.NONE, (waiting.text(record),) if waiting else ())
        held = [side for side in SIDES if record.sandbox(side) is not None]
        if len(held) == 2:
            return LinkChange(record.name, *self._of_made(one, earlier, record, found))
        return LinkChange(record.name, *self._of_incomplete(one, earlier, record, held[0], found))

    def _of_unmade(self, one: WantedLink, earlier: WantedLink | None) -> LinkChange:
        """The change of a link that no sandbox has joined."""
        if earlier is not None and _is_unchanged(earlier, one):
            return LinkChange(one.link.name, Change.NONE)
        change, details = self._once_joined(one, SIDES)
        words = _words_of_edit(earlier, one) if earlier is not None else ()
        return LinkChange(one.link.name, change or Change.ADDED, (*words, *details))

    def _once_joined(self, one: WantedLink, sides: Iterable[Side]) -> tuple[Change | None, tuple[str, ...]]:
        """What happens when these ends are to be made; None if they are, at once."""
        found = [obstacle for side in sides if (obstacle := self.ends.obstacle(one, side)) is not None]
        moves = self.ends.moves(one, sides)
        if not found:
            return (Change.MOVED if moves else None), moves
        worst = max(kind for kind, _ in found)
        return _OF_OBSTACLES[worst], (*moves, *dict.fromkeys(text for kind, text in found if kind is worst))

    def _of_made(
        self, one: WantedLink, earlier: WantedLink | None, record: Link, found: DeclaredDifferences
    ) -> tuple[Change, tuple[str, ...]]:
        """The change of a link that both sandboxes have joined."""
        if not found.words:
            return Change.NONE, ()
        follows = one.live and not self.ends.declares_itself(record, Side.PRIMARY, earlier)
        if not follows:
            return Change.RESTART, (Edits(found.words).text(record),)
        if found.wiring:
            now = (f"in place: {'; '.join(found.settings)}",) if found.settings else ()
            return Change.RESTART, (*now, Edits(found.wiring).text(record))
        return _change_of_interfaces(record, one), found.settings

    def _of_incomplete(
        self,
        one: WantedLink,
        earlier: WantedLink | None,
        record: Link,
        held: Side,
        found: DeclaredDifferences,
    ) -> tuple[Change, tuple[str, ...]]:
        """The change of a link that only the sandbox at `held` has joined."""
        follows = one.live and not self.ends.declares_itself(record, held, earlier)
        if found.wiring or (found.settings and held is Side.PRIMARY and not follows):
            return Change.RESTART, (restart_of(record, held, found.words),)
        change, details = self._once_joined(one, [side_in(one, record, held.other)])
        if change is None:
            known = Change.IN_PLACE if found.settings else Change.NONE
            return Change.ADDED if earlier is None else known, found.settings
        if follows and record.wiring is Wiring.PANEL and found.end(held) and change is Change.ON_START:
            change = Change.IN_PLACE
        return change, (*found.settings, *details)

    # Undeclared links

    def _of_undeclared(self, earlier: WantedLink, record: Link | None) -> LinkChange:
        if record is None:
            error = self.ends.rejection(earlier.link)
            if error is not None:
                return LinkChange(earlier.link.name, Change.REJECTED, (error,))
            return LinkChange(earlier.link.name, Change.REMOVED, ("it was not made yet",))
        return self._of_record(record, earlier)

    def _of_record(self, record: Link, earlier: WantedLink | None = None) -> LinkChange:
        """The change of a link that has a record, and that is not declared."""
        error = self.ends.rejection(record)
        if error is not None and earlier is not None:
            return LinkChange(record.name, Change.REJECTED, (error,))
        removed = [side for side in SIDES if side in self.ends.removed(record)]
        kept = [side for side in SIDES if side not in removed and record.sandbox(side) is not None]
        if earlier is None and not removed:
            return LinkChange(record.name, Change.NONE)
        stays = (self.ends.ending(record, kept, earlier),) if kept else ()
        details = (*(self.ends.removal(record, side) for side in removed), *stays)
        return LinkChange(record.name, Change.REMOVED if removed else Change.RESTART, details)


def _words_of_edit(earlier: WantedLink, one: WantedLink) -> tuple[str, ...]:
    """The differences between two declarations of a link that is not made yet."""
    wirings = (f"wiring {one.wiring or 'none'} instead of {earlier.wiring or 'none'}",)
    settings = declared_differences(replace(earlier.link, wiring=Wiring.PANEL), one).settings
    return (*wirings, *settings) if one.wiring is not earlier.wiring else settings


def _is_unchanged(earlier: WantedLink, one: WantedLink) -> bool:
    """Whether a link is declared as before, between the same pods."""
    same = earlier.link.intends_the_same_as(one.link.oriented_as(earlier.link)) and earlier.wiring is one.wiring
    return same and {pod.ref for pod in earlier.pods()} == {pod.ref for pod in one.pods()}


def _change_of_interfaces(record: Link, one: WantedLink) -> Change:
    """How the interfaces of a link on its nodes change to another encapsulation and other settings.

    The kernel changes neither the kind nor the UDP port of an interface. In panel wiring, this concerns the panel's
    devices only. Across nodes, a link is a VXLAN whatever its `kind`.
    """
    edited = replace(record, encapsulation=one.link.encapsulation)
    is_tunnel = edited.kind is Kind.VXLAN
    same_port = record.encapsulation.vxlan_port == edited.encapsulation.vxlan_port
    if edited.kind is record.kind and (same_port or not is_tunnel):
        return Change.IN_PLACE
    return Change.TUNNEL_REPLACED if record.wiring is Wiring.PANEL else Change.INTERFACE_REPLACED
