"""Lost nodes, decided from the changes of their Leases and the times at which they were read.

A node is lost if its Lease has not changed for long enough by the reader's own monotonic clock. The times in the Lease
do not count, because clocks differ and step. Time in which the reader could not read does not count either: the reader
may have been the one that was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ratchet.core.schemas import EARLIER_SCHEMA, READ_SCHEMA


@dataclass(frozen=True, slots=True)
class NodeLease:
    """The Lease of a node. `version` changes with each renewal; `vtep` is the node's VTEP.

    `schema` is the newest format of records that the node's agent reads (`core.schemas.READ_SCHEMA`). It writes new
    records in the format `written_schema`. `uid` is the Lease's own. `renewed` is the renewal time by the
    node's clock; None if it is missing or unreadable.
    """

    node: str
    vtep: str
    schema: int = READ_SCHEMA
    written_schema: int = EARLIER_SCHEMA
    version: str = ""
    uid: str = ""
    renewed: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Heard:
    """The version of a node's Lease, and when the reader first read it, in monotonic seconds."""

    version: str
    at: float


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
            nodes[node] = known if known and known.version == version and not blind else Heard(version, now)
        return Attendance(nodes, now)

    def lost(self, after: float) -> frozenset[str]:
        """The nodes whose Leases had not changed for `after` seconds when all were last read."""
        if self.read_at is None:
            return frozenset()
        return frozenset(node for node, heard in self.nodes.items() if self.read_at - heard.at >= after)
