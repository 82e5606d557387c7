"""What operations make of the links of this node, as its host knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ratchet.core.overrides import Override


class Overrides(Protocol):
    """The operations on the links of this node."""

    def of(self, link: str) -> Override:
        """What an operation makes of a link now, by the name of its record."""
        ...


class NoOverrides:
    """No operations, as of the daemonless plugin."""

    def of(self, link: str) -> Override:  # noqa: ARG002  # `Overrides`
        from ratchet.core.overrides import AS_DECLARED  # a call for a pod without links needs none

        return AS_DECLARED


NO_OVERRIDES = NoOverrides()
