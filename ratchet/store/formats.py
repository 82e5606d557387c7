"""The formats of records: which one is written, and under which name a link is recorded.

A record of the current format is created only once every node's Lease announces that its agent reads that format. An
agent of an earlier version would create a second record of the link, under another name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ratchet.core.heartbeat import NodeLease
from ratchet.core.intent import WantedLink
from ratchet.core.model import Link
from ratchet.core.schemas import CURRENT_SCHEMA, EARLIER_SCHEMA

if TYPE_CHECKING:
    from ratchet.store.interface import Store


class RecordFormats:
    """The formats in use; safe between threads. They are unknown until the first `read`.

    Nodes learn of a change at different times, and can create two records of one link meanwhile. `as_recorded` finds
    both, in the same order on every node. An end without a peer moves to the first one (`agent.membership`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = False
        self._writes_current = False
        self._all_write_current = True
        self._earlier_possible = True

    def read(self, store: Store, leases: Iterable[NodeLease] | None = None) -> None:
        """Read the announcements of the node Leases. Raises RatchetError.

        `leases` are the node Leases, if they have just been listed.
        """
        announced = store.nodes.list_leases() if leases is None else list(leases)
        writes_current = all(lease.schema >= CURRENT_SCHEMA for lease in announced)
        all_write_current = writes_current and all(lease.written_schema >= CURRENT_SCHEMA for lease in announced)
        # An agent may create an earlier record until it announces that it no longer writes that format, and its last
        # one may be under way then: two reads have to agree. After that, earlier records are only deleted.
        none_created = all_write_current and self._all_write_current
        earlier_possible = not none_created or (self._earlier_possible and store.links.has_earlier())
        with self._lock:
            self._read, self._writes_current = True, writes_current
            self._all_write_current, self._earlier_possible = all_write_current, earlier_possible

    def note_earlier(self) -> None:
        """Note that a watch reported a record of the earlier format."""
        with self._lock:
            self._earlier_possible = True

    @property
    def written_schema(self) -> int:
        """The format of new records: CURRENT_SCHEMA, or EARLIER_SCHEMA also while the formats are unknown."""
        return CURRENT_SCHEMA if self._writes_current else EARLIER_SCHEMA

    def writes_current(self, store: Store) -> bool:
        """Whether a new record gets the current format. Raises RatchetError if the formats cannot be read."""
        self._read_once(store)
        return self._writes_current

    def earlier_possible(self, store: Store) -> bool:
        """Whether there may be records of the earlier format.

        Raises RatchetError if the formats cannot be read.
        """
        self._read_once(store)
        return self._earlier_possible

    def as_recorded(self, wanted: WantedLink, store: Store) -> Link:
        """The wanted link under the name and the format of its record, or of the record to be created.

        A record is never renamed, so it is looked up under every name that it may have, in the same order on all nodes.
        Raises RatchetError if a record, or the formats, cannot be read.
        """
        writes_current, possible = self.writes_current(store), wanted.alias_names()
        if self.earlier_possible(store):
            possible += wanted.earlier_names()
        # The create finds a record of the current name that is not looked up here.
        for name in possible if writes_current else [*possible, wanted.link.name]:
            record = store.links.lookup(name).link
            if record is not None:
                return replace(wanted.link, name=name, schema=record.schema)
        return wanted.link if writes_current else wanted.earlier_link()

    def _read_once(self, store: Store) -> None:
        if not self._read:
            self.read(store)
