"""Admits new links to a node, so that the memory of an agent for their records is bounded."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ratchet.core.limits import node_violation
from ratchet.node.entries import SandboxEntry
from ratchet.node.entry_index import EntryIndex


class LinkAdmission:
    """Admits the new links of entries before they are in the index, `most` of them at most. Thread-safe.

    Without an index, as in the daemonless plugin, there is no limit: nothing stays in memory.
    A link of which another sandbox of the node has the other end is not new: both ends share its record.
    """

    def __init__(self, index: EntryIndex | None, most: int) -> None:
        self._index = index
        self._most = most
        self._lock = threading.Lock()
        # Links that are admitted and not in the index yet, each with its namespace.
        self._admitted: dict[str, str] = {}

    @contextmanager
    def admitted(self, entry: SandboxEntry) -> Iterator[None]:
        """Admit an entry for the block, which puts it into the index. Raises InvalidIntentError."""
        new = self._admit(entry, self._index) if self._index is not None else []
        try:
            yield
        finally:
            with self._lock:
                for link in new:
                    self._admitted.pop(link, None)

    def _admit(self, entry: SandboxEntry, index: EntryIndex) -> list[str]:
        """The links of an entry that are new. An entry that asks for no links is of an ADD that is being undone."""
        if entry.pod is None or not entry.asks or not entry.ends:
            return []
        with self._lock:
            links = {end.link for end in entry.ends}
            new = [link for link in links if link not in self._admitted and not index.has_link(link)]
            if (growth := len(new) - _replaced(index.get(entry.attachment), links)) > 0:
                pending = Counter(namespace for link, namespace in self._admitted.items() if not index.has_link(link))
                violation = node_violation(entry.pod, self._most, index.link_counts() + pending, growth)
                if violation is not None:
                    raise violation
            self._admitted |= dict.fromkeys(new, entry.pod.namespace)
            return new


def _replaced(before: SandboxEntry | None, links: set[str]) -> int:
    """The number of links of an earlier entry that are not among these, as after a link got another record."""
    return sum(end.link not in links for end in before.ends) if before is not None else 0
