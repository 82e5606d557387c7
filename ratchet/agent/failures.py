"""Ends that cannot be made ready: their errors in the records, and as Events of their pods.

ADD returns before its links are ready, so nothing else reports these errors to a pod's owner.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from ratchet.agent.announce import Announcer
from ratchet.agent.events import Reason
from ratchet.core import record_updates
from ratchet.core.model import Link
from ratchet.errors import AddressFamilyError, DatapathError, InvalidIntentError, VniExhaustedError
from ratchet.node.journal import HeldEnd, Journal, SandboxEntry
from ratchet.node.record_writer import RecordWriter
from ratchet.store.interface import Store

log = logging.getLogger(__name__)

# The errors that a pod's owner can do something about. Those of the API and of the protocol pass or concern all pods.
ReportedError = AddressFamilyError | DatapathError | InvalidIntentError | VniExhaustedError
REPORTED = (AddressFamilyError, DatapathError, InvalidIntentError, VniExhaustedError)
# Errors of declarations do not pass. Of the others, most are over at the next try.
_LASTING = (AddressFamilyError, InvalidIntentError)


@dataclass(frozen=True, slots=True)
class EndFailures:
    """Reports the errors of this node's ends. A link is reconciled by one worker at a time."""

    store: Store
    journal: Journal
    announcer: Announcer
    _failed: dict[str, Counter[str]] = field(default_factory=dict)  # failures in a row, by link and container ID

    def report(self, entry: SandboxEntry, end: HeldEnd, error: ReportedError) -> None:
        """Report an error that lasts, or that has occurred twice in a row.

        Raises RatchetError if the record cannot be written.
        """
        failed = self._failed.setdefault(end.link, Counter())
        failed[entry.attachment.container_id] += 1
        if entry.pod is None or (failed[entry.attachment.container_id] < 2 and not isinstance(error, _LASTING)):
            return
        self.announcer.event(entry.pod, Reason.of(error), str(error), end.ifname)
        writer = RecordWriter(self.store)
        with self.journal.lock(end.link):
            writer.change(end.link, partial(self._with_error, entry, str(error), writer))

    def succeeded(self, entry: SandboxEntry, end: HeldEnd) -> None:
        """Forget the failures of an end that is ready or waits."""
        if end.link in self._failed:
            self._failed[end.link].pop(entry.attachment.container_id, None)

    def forget(self, link: str) -> None:
        """Forget a link of which this node no longer has an end."""
        self._failed.pop(link, None)

    @staticmethod
    def _with_error(entry: SandboxEntry, text: str, writer: RecordWriter, record: Link) -> Link:
        side = record.side_of(entry.attachment.container_id)
        return record if side is None else record_updates.with_error(record, side, text, writer.now())
