"""A cache of ends that were verified to be up, so that an unchanged end is not observed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ratchet.core.model import Link, Side
from ratchet.core.overrides import AS_DECLARED, Override

if TYPE_CHECKING:
    from ratchet.core.forwarding import Tunnel
    from ratchet.core.underlay import Underlay


@dataclass(frozen=True, slots=True)
class _Basis:
    """The basis on which an end was verified: the version of its link's record, the node's underlay, an operation."""

    version: str
    underlay: Underlay
    override: Override


class VerifiedEnds:
    """The ends that this process has verified to be up. Thread-safe.

    An end in here may no longer be up. To find outside changes to interfaces, callers expire ends from time to time and
    observe them again. The parameters of an expired end's tunnel are kept: if the end differs from them, somebody else
    has changed it.
    """

    def __init__(self) -> None:
        self._by: dict[tuple[str, Side], _Basis] = {}
        self._tunnels: dict[tuple[str, Side], Tunnel] = {}

    def note(
        self,
        record: Link,
        side: Side,
        underlay: Underlay,
        override: Override = AS_DECLARED,
        *,
        up: bool,
        tunnel: Tunnel | None = None,
    ) -> None:
        """Note whether an end is up, with its record as stored, and the end that was built with it.

        `tunnel` has the parameters with which the end of a tunnel was verified. `override` is what an operation made of
        the link.
        """
        for one in override.applied_to(record).built_with(side):
            if up:
                self._by[record.name, one] = _Basis(record.resource_version, underlay, override)
            else:
                self._by.pop((record.name, one), None)
        if up and tunnel is not None:
            self._tunnels[record.name, side] = tunnel

    def is_current(self, record: Link, side: Side, underlay: Underlay, override: Override = AS_DECLARED) -> bool:
        """Whether an end was verified against this version of the record, this underlay and this operation."""
        return self._by.get((record.name, side)) == _Basis(record.resource_version, underlay, override)

    def is_tunnel(self, link: str, side: Side, tunnel: Tunnel) -> bool:
        """Whether an end was last verified with these parameters, and this process has not changed it since."""
        return self._tunnels.get((link, side)) == tunnel

    def changing(self, link: str, side: Side, tunnel: Tunnel | None) -> None:
        """Note that this process is about to build an end. `tunnel` is None for a vEth."""
        if tunnel is None or not self.is_tunnel(link, side, tunnel):
            self._tunnels.pop((link, side), None)

    def expire(self, link: str) -> None:
        """Have the ends of a link observed again."""
        for side in Side:
            self._by.pop((link, side), None)

    def forget(self, link: str) -> None:
        """Forget the ends of a link."""
        self.expire(link)
        for side in Side:
            self._tunnels.pop((link, side), None)

    def expire_all(self) -> None:
        """Have all ends observed again."""
        self._by.clear()
