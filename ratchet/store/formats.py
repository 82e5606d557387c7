"""The formats of records: which one is written, and under which name a link is recorded.

A record of the current format is created only once every node's Lease announces that its agent reads that format. An
agent of an earlier version would create a second record of the link, under another name. The same holds for a record in
panel wiring, which an agent of an earlier version leaves alone. Until then the link is recorded in direct wiring.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ratchet.core.heartbeat import NodeLease
from ratchet.core.intent import WantedLink
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link
from ratchet.core.schemas import CURRENT_SCHEMA, EARLIER_SCHEMA, PANEL_SCHEMA

if TYPE_CHECKING:
    from ratchet.store.interface import Store


log = logging.getLogger(__name__)


class RecordFormats:
    """The formats in use; safe between threads. They are unknown until the first `read`.

    Nodes learn of a change at different times, and can create two records of one link meanwhile. `as_recorded` finds
    both, in the same order on every node. An end without a peer moves to the first one (`agent.membership`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = False
        self._writes_current = self._writes_panel = False
        self._all_write_current = True
        self._earlier_possible = True
        # Links of which it was logged that they are direct until all agents read panel wiring.
        self._postponed = set[str]()

    def read(self, store: Store, leases: Iterable[NodeLease] | None = None) -> None:
        """Read the announcements of the node Leases. Raises RatchetError.

        `leases` are the node Leases, if they have just been listed.
        """
        announced = store.nodes.list_leases() if leases is None else list(leases)
        writes_current = all(lease.schema >= CURRENT_SCHEMA for lease in announced)
        writes_panel = all(lease.schema >= PANEL_SCHEMA for lease in announced)
        all_write_current = writes_current and all(lease.written_schema >= CURRENT_SCHEMA for lease in announced)
        # An agent may create an earlier record until it announces that it no longer writes that format, and its last
        # one may be under way then: two reads have to agree. After that, earlier records are only deleted.
        none_created = all_write_current and self._all_write_current
        earlier_possible = not none_created or (self._earlier_possible and store.links.has_earlier())
        with self._lock:
            self._read, self._writes_current, self._writes_panel = True, writes_current, writes_panel
            self._all_write_current, self._earlier_possible = all_write_current, earlier_possible
            if writes_panel:
                self._postponed.clear()

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
        """The wanted link under the name, the format and in the wiring of its record, or of the record to be created.

        A record is never renamed, so it is looked up under every name that it may have, in the same order on all nodes.
        Its wiring stays while an end is held, whatever is declared now.

        Raises RatchetError if a record, or the formats, cannot be read.
        """
        record = self._record_of(wanted, store)
        if record is not None and not (record.abandoned and record.schema != EARLIER_SCHEMA):
            return replace(wanted.link, name=record.name, schema=record.schema, wiring=record.wiring)
        if record is None and not self._writes_current:
            return wanted.earlier_link()
        name = record.name if record is not None else wanted.link.name
        wiring = self._writable(wanted.effective_wiring(store.default_wiring), name)
        if (name, wiring) == (wanted.link.name, Wiring.DIRECT):
            return wanted.link
        schema = CURRENT_SCHEMA if wiring is Wiring.DIRECT else PANEL_SCHEMA
        return replace(wanted.link, name=name, schema=schema, wiring=wiring)

    def _record_of(self, wanted: WantedLink, store: Store) -> Link | None:
        """The link's record. None if it has none, or if no cache has one of the current name: the join finds it."""
        writes_current, possible = self.writes_current(store), wanted.alias_names()
        if self.earlier_possible(store):
            possible += wanted.earlier_names()
        for name in possible if writes_current else [*possible, wanted.link.name]:
            if (record := store.links.lookup(name).link) is not None:
                return record
        return store.links.known(wanted.link.name) if writes_current else None

    def _writable(self, wiring: Wiring, name: str) -> Wiring:
        """The wiring of a new record: direct while an agent of an earlier version runs, which is logged once a link."""
        if wiring is Wiring.DIRECT or self._writes_panel:
            return wiring
        with self._lock:
            is_new = name not in self._postponed
            self._postponed.add(name)
        if is_new:
            log.info("panel wiring postponed, because not all agents read its records link=%s", name)
        return Wiring.DIRECT

    def _read_once(self, store: Store) -> None:
        if not self._read:
            self.read(store)
