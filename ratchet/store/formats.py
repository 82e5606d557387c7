"""In which format a new record is written, and whether records of the earlier format are still there.

A record of the current format is made only once every node's Lease says that its agent reads it: an agent of an earlier
version would record the same link once more, under its own name for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol

from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import CURRENT_SCHEMA, EARLIER_SCHEMA


class FormatSource(Protocol):
    """Where the announcements and the records are read."""

    def node_leases(self) -> list[NodeLease]: ...

    def has_earlier_records(self) -> bool: ...


class RecordFormats:
    """What is known of the formats in use; safe between threads. Unknown until the first `read`.

    Nodes learn of a change at different times, and can create two records of one link meanwhile. `Records.as_recorded`
    finds both, in the same order on every node. An end without a peer moves to the first one (`agent.membership`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = False
        self._writes_current = False
        self._all_write_current = True
        self._earlier_possible = True

    def read(self, source: FormatSource, leases: Iterable[NodeLease] | None = None) -> None:
        """Read the announcements, or take `leases` as just read. Raises RatchetError."""
        announced = source.node_leases() if leases is None else list(leases)
        writes_current = all(lease.schema >= CURRENT_SCHEMA for lease in announced)
        all_write_current = writes_current and all(lease.written_schema >= CURRENT_SCHEMA for lease in announced)
        # An agent may create an earlier record until it announces that it no longer writes that format, and its last
        # one may be under way then: two reads have to agree. After that, earlier records are only deleted.
        none_created = all_write_current and self._all_write_current
        earlier_possible = not none_created or (self._earlier_possible and source.has_earlier_records())
        with self._lock:
            self._read, self._writes_current = True, writes_current
            self._all_write_current, self._earlier_possible = all_write_current, earlier_possible

    def note_earlier(self) -> None:
        """Note that a watch reported a record of the earlier format."""
        with self._lock:
            self._earlier_possible = True

    @property
    def written_schema(self) -> int:
        """The format of new records, as far as it is known: CURRENT_SCHEMA or EARLIER_SCHEMA."""
        return CURRENT_SCHEMA if self._writes_current else EARLIER_SCHEMA

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
