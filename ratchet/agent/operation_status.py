"""The operations on this node's links in the links' records, and in Events of their pods."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet.agent.announce import Announcer
from ratchet.agent.link_operations import LinkOperations
from ratchet.agent.liveness import HeldEnds
from ratchet.core import record_updates
from ratchet.core.model import Link
from ratchet.node.journal import Journal
from ratchet.node.record_writer import RecordWriter
from ratchet.store.cached_store import CachedStore


@dataclass(frozen=True, slots=True)
class OperationStatus:
    """Reports the operations on the links of one node."""

    journal: Journal
    store: CachedStore
    operations: LinkOperations
    announcer: Announcer

    def report(self, link: str, held: HeldEnds) -> None:
        """Record the operation on a link, and announce what is new of it. Raises RatchetError."""
        for news in self.operations.take_news(link):
            for entry, end in held:
                if entry.pod is not None:
                    self.announcer.event(entry.pod, news.reason, f"{end.ifname}: {news.text}", end.ifname)
        record, _ = self.store.links.lookup_cached(link)
        if held and record is not None and self.operations.recorded(record) != record.operation:
            with self.journal.lock(link):
                RecordWriter(self.store).change(link, self._with_operation)

    def _with_operation(self, record: Link) -> Link:
        return record_updates.with_operation(record, self.operations.recorded(record))
