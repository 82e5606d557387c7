"""In which format a new record is written, and whether records of the earlier format are still there.

A record of the current format is made only once every node's Lease says that its agent reads it: an agent of an earlier
version would record the same link once more, under its own name for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol

from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import CURRENT_SCHEMA


class FormatSource(Protocol):
    """Where the announcements and the records are read."""

    def node_leases(self) -> list[NodeLease]: ...

    def has_earlier_records(self) -> bool: ...


class RecordFormats:
    """What is known of the formats in use; safe between threads. Unknown until the first `read`.

    Not guaranteed: that all nodes learn of a change in the same moment. Two records of one link that come of this are
    found by `Records.as_recorded`, which every node asks in the same order.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = False
        self._writes_current = False
        self._earlier_possible = True

    def read(self, source: FormatSource, leases: Iterable[NodeLease] | None = None) -> None:
        """Read the announcements, or take `leases` as just read. Raises RatchetError."""
        announced = source.node_leases() if leases is None else leases
        writes_current = all(lease.schema >= CURRENT_SCHEMA for lease in announced)
        # Records of the earlier format may come for as long as somebody writes it; after that they only go.
        earlier_possible = not writes_current or (self._earlier_possible and source.has_earlier_records())
        with self._lock:
            self._read, self._writes_current, self._earlier_possible = True, writes_current, earlier_possible

    def writes_current(self, source: FormatSource) -> bool:
        """Whether a new record is of the current format. Raises RatchetError where that cannot be read."""
        self._read_once(source)
        return self._writes_current

    def earlier_possible(self, source: FormatSource) -> bool:
        """Whether there may be records of the earlier format. Raises RatchetError where that cannot be read."""
        self._read_once(source)
        return self._earlier_possible

    def _read_once(self, source: FormatSource) -> None:
        if not self._read:
            self.read(source)
