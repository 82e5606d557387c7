"""A cache of ends that were verified to be up, so that an unchanged end is not observed again."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet.core.model import Kind, Link, Side
from ratchet.core.plan import Underlay


@dataclass(frozen=True, slots=True)
class _Basis:
    """The basis on which an end was verified: the version of its link's record, and the node's underlay."""

    version: str
    underlay: Underlay


class VerifiedEnds:
    """The ends that this process has verified to be up. Thread-safe.

    An end in here may no longer be up. To find outside changes to interfaces, callers clear this cache from time to
    time and observe the ends again.
    """

    def __init__(self) -> None:
        self._by: dict[tuple[str, Side], _Basis] = {}

    def note(self, record: Link, side: Side, underlay: Underlay, *, up: bool) -> None:
        """Note whether an end is up, with its record as stored. For a vEth this covers both ends."""
        for one in (side, side.other) if record.kind is Kind.VETH else (side,):
            if up:
                self._by[record.name, one] = _Basis(record.resource_version, underlay)
            else:
                self._by.pop((record.name, one), None)

    def is_current(self, record: Link, side: Side, underlay: Underlay) -> bool:
        """Whether an end was verified against this version of the record and this underlay."""
        return self._by.get((record.name, side)) == _Basis(record.resource_version, underlay)

    def forget(self, link: str) -> None:
        for side in Side:
            self._by.pop((link, side), None)

    def forget_all(self) -> None:
        self._by.clear()
