"""Which nodes are lost, told from when each was last heard of: a function of what was read and when.

A node is heard of when its Lease has changed since it was last read, and lost once that has not been for long enough by
the reader's own monotonic clock. What the Lease says of the time means nothing: clocks differ, and step. Nor does time
in which the reader could not read: it was perhaps the reader that was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ratchet.core.model import CURRENT_SCHEMA, EARLIER_SCHEMA


@dataclass(frozen=True, slots=True)
class NodeLease:
    """A node's Lease: `version` changes with each renewal; `vtep` is where its tunnels end; `uid` is the Lease's own.

    `schema` is the newest format of records that the node's agent reads (`core.model.CURRENT_SCHEMA`), `written_schema`
    the format in which it writes new records. `renewed` is the renewal time by the node's clock; None if the Lease has
    none that can be read.
    """

    node: str
    vtep: str
    schema: int = CURRENT_SCHEMA
    written_schema: int = EARLIER_SCHEMA
    version: str = ""
    uid: str = ""
    renewed: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a node's Lease was when it was last seen to change, and when that was, in monotonic seconds."""

    version: str
    at: float


@dataclass(frozen=True, slots=True)
class Attendance:
    """What is known of all nodes that have a Lease; `read_at` is when all were last read (monotonic seconds)."""

    nodes: Mapping[str, Heard] = field(default_factory=dict)
    read_at: float | None = None

    def read(self, leases: Mapping[str, str], now: float, longest_gap: float) -> Attendance:
        """What is known once the Leases' versions by node were read at `now`.

        Where nothing was read for longer than `longest_gap` seconds, everybody is taken as heard of just now.
        """
        blind = self.read_at is None or now - self.read_at > longest_gap
        nodes = {}
        for node, version in leases.items():
            known = self.nodes.get(node)
            nodes[node] = known if known and known.version == version and not blind else Heard(version, now)
        return Attendance(nodes, now)

    def lost(self, after: float) -> frozenset[str]:
        """The nodes that had not been heard of for `after` seconds when all were last read."""
        if self.read_at is None:
            return frozenset()
        return frozenset(node for node, heard in self.nodes.items() if self.read_at - heard.at >= after)
