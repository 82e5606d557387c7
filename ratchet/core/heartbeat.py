"""Lost nodes, decided from the changes of their Leases and the times at which they were read.

A node is lost if its Lease has not changed for long enough by the reader's own monotonic clock. The times in the Lease
do not count, because clocks differ and step. Time in which the reader could not read does not count either: the reader
may have been the one that was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from ratchet.core.schemas import EARLIER_SCHEMA, READ_SCHEMA


@dataclass(frozen=True, slots=True)
class NodeLease:
    """The Lease of a node. `version` changes with each renewal; `vtep` is the node's VTEP.

    `schema` is the newest format of records that the node's agent reads (`core.schemas.READ_SCHEMA`). It writes new
    records in the format `written_schema`. `oam` is the version of the OAM frames that it sends (`core.oam`), 0 if it
    sends none. `uid` is the Lease's own. `renewed` is the renewal time by the
    node's clock; None if it is missing or unreadable.
    """

    node: str
    vtep: str
    schema: int = READ_SCHEMA
    written_schema: int = EARLIER_SCHEMA
    oam: int = 0
    version: str = ""
    uid: str = ""
    renewed: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Heard:
    """The version of a node's Lease, and when the reader first read it, in monotonic seconds.

    `renewed`: the Lease was renewed then or later; None: the reader has seen no renewal yet.
    """

    version: str
    at: float
    renewed: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Attendance:
    """The latest changes of all node Leases. `read_at` is when all were last read (monotonic seconds)."""

    nodes: Mapping[str, Heard] = field(default_factory=dict)
    read_at: float | None = None

    def read(self, leases: Mapping[str, str], now: float, longest_gap: float) -> Attendance:
        """The latest changes after the Leases' versions by node were read at `now`.

        If nothing was read for longer than `longest_gap` seconds, all Leases count as changed at `now`.
        """
        blind = self.read_at is None or now - self.read_at > longest_gap
        nodes = {}
        for node, version in leases.items():
            known = self.nodes.get(node)
            if known is None:
                nodes[node] = Heard(version, now)
            elif known.version != version:
                nodes[node] = Heard(version, now, renewed=self.read_at)
            else:
                nodes[node] = replace(known, at=now) if blind else known
        return Attendance(nodes, now)

    def renewed(self, node: str) -> float | None:
        """The latest time for which it is known that a node's Lease was renewed after it, in monotonic seconds."""
        heard = self.nodes.get(node)
        return None if heard is None else heard.renewed

    def lost(self, after: float) -> frozenset[str]:
        """The nodes whose Leases had not changed for `after` seconds when all were last read."""
        if self.read_at is None:
            return frozenset()
        return frozenset(node for node, heard in self.nodes.items() if self.read_at - heard.at >= after)
