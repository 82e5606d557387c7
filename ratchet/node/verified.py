"""Which ends were seen to stand, so that nobody looks again at what nothing has changed since."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet.core.model import Kind, Link, Side
from ratchet.core.plan import Underlay


@dataclass(frozen=True, slots=True)
class _By:
    """What an end was seen to be as wanted by: a version of its link's record, and what the node brings to it."""

    version: str
    site: Underlay


class VerifiedEnds:
    """The ends that this process has seen to stand; safe between threads.

    Not guaranteed: that they still do. What somebody does to an interface behind our back is found by whoever looks
    now and then, having forgotten all of this.
    """

    def __init__(self) -> None:
        self._by: dict[tuple[str, Side], _By] = {}

    def note(self, record: Link, side: Side, site: Underlay, *, up: bool) -> None:
        """Note what was seen of an end whose record is as it is stored; a vEth is seen at both its ends."""
        for one in (side, side.other) if record.kind is Kind.VETH else (side,):
            if up:
                self._by[record.name, one] = _By(record.resource_version, site)
            else:
                self._by.pop((record.name, one), None)

    def is_current(self, record: Link, side: Side, site: Underlay) -> bool:
        """Whether an end was seen to be what this very record, and this site, want of it."""
        return self._by.get((record.name, side)) == _By(record.resource_version, site)

    def forget(self, link: str) -> None:
        for side in Side:
            self._by.pop((link, side), None)

    def forget_all(self) -> None:
        self._by.clear()
