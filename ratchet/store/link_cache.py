"""The cache of the records that a node is concerned with."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from itertools import count

from ratchet.core.model import Link
from ratchet.core.naming import node_label
from ratchet.errors import MalformedRecordError
from ratchet.store.links import LinkChange
from ratchet.store.listwatch import SyncState
from ratchet.store.notifier import KeyedNotifier

log = logging.getLogger(__name__)

DELETED_KEPT = 4096
# Records in which no sandbox of this node has joined: they are only expected on it. Users of other nodes can create any
# number of them, so the limit on this node's links does not bound them.
EXPECTED_MOST = 1024


class LinkCache:
    """The records as last read, watched or written; safe between threads.

    No record is replaced by an older version of it. `changed` is called with the name of each record that changes.

    Of the records in which no sandbox of `node` has joined, EXPECTED_MOST are kept (None: all). The others are unknown,
    not absent: each question about them goes to the API.
    """

    def __init__(self, changed: Callable[[str], None] = lambda _: None, node: str | None = None) -> None:
        self._node = node
        self._expected: set[str] = set()
        # Whether all records of the node are kept, except those that were dropped; whether its last list had all.
        self.is_complete = self._lists_all = True
        self.notifier = KeyedNotifier()
        self.changed = changed
        self.state = SyncState()
        self._lock = threading.Lock()
        self._links: dict[str, Link] = {}
        # The version at which a record was deleted. A watch that lags may report an older version: it is ignored.
        self._deleted: OrderedDict[str, str] = OrderedDict()
        # The version at which a record was dropped. An older version is ignored too.
        self._dropped: dict[str, str] = {}
        # The version at which a record was logged as malformed.
        self._malformed: dict[str, str] = {}

    def get(self, name: str) -> Link | None:
        return self._links.get(name)

    def has(self, name: str, version: str) -> bool:
        """Whether the cache has a record at this version or a later one. The watch reports our own writes too."""
        cached = self._links.get(name)
        return cached is not None and not is_newer(version, cached.resource_version)

    def expects_none(self, name: str) -> bool:
        """Whether the record is most likely absent: the cache is synced and complete, and does not have it."""
        known = name in self._links or name in self._dropped or name in self._malformed
        return self.state.is_synced and self.is_complete and not known

    def names(self) -> list[str]:
        """The names of the cached records, and of those that were dropped and not read again since."""
        with self._lock:
            return [*self._links, *(name for name in self._dropped if name not in self._links)]

    def all(self) -> list[Link]:
        """All cached records."""
        with self._lock:
            return list(self._links.values())

    def of_node(self, node: str) -> list[Link]:
        """The records of the links that have an end on a node."""
        return [link for link in self.all() if node in link.nodes]

    def replace(self, links: Collection[Link], version: str) -> list[LinkChange]:
        """Hold these records as of `version`, and no others. Returns nothing, because `changed` is called.

        If the list is not complete, a record that it lacks may exist: it is dropped.
        """
        self.is_complete = self._lists_all
        listed = {link.name for link in links}
        for name in self.names():
            if name in listed:
                continue
            if self.is_complete:
                self.delete(name, version)
            else:
                self.drop(name)
                self._notify(name)
        for link in links:
            self.put(link)
        return []

    def listing(self) -> Callable[[Link], bool]:
        """A filter for one list of the node's records: whether to keep a record. It notes if the list is incomplete."""
        expected = count(1)
        self._lists_all = True

        def keeps(link: Link) -> bool:
            keep = self._node is None or self._node in link.nodes or next(expected) <= EXPECTED_MOST
            self._lists_all &= keep
            return keep

        return keeps

    def apply(self, change: LinkChange) -> bool:
        """Apply a change that a watch reported. Returns False, because `changed` is called."""
        if change.error is not None:
            self.log_malformed(change.error)
        elif change.link is None:
            self.delete(change.name, change.version)
        else:
            self.put(change.link)
        return False

    def put(self, link: Link) -> None:
        """Hold a record, unless a later version is cached.

        A record that is not kept wakes the calls that wait for it, and queues no link: the worker would read it from
        the API and put it again.
        """
        with self._lock:
            cached = self._links.get(link.name)
            if cached is not None and not is_newer(link.resource_version, cached.resource_version):
                return
            if not is_newer(link.resource_version, self._deleted.get(link.name, "")):
                return
            dropped = self._dropped.get(link.name, "")
            if is_newer(dropped, link.resource_version) and not is_newer(link.resource_version, dropped):
                return
            self._dropped.pop(link.name, None)
            self._malformed.pop(link.name, None)
            kept = self._keep(link)
        if kept or cached is not None:
            self._notify(link.name)
        else:
            self.notifier.notify(link.name)

    def mark_existing(self, link: Link) -> None:
        """Note that a record exists in the API, even if `put` has refused it.

        The watch reports a record that loses the node's label as deleted, at a version that still exists. `put` refuses
        that version. Without this note `expects_none` is true, and each create of the record fails with a conflict.
        """
        with self._lock:
            if link.name not in self._links:
                self._dropped[link.name] = link.resource_version

    def drop(self, name: str) -> None:
        """Drop a record that may be out of date, and ignore older versions of it.

        Subscribers are not notified, because the record may be unchanged.
        """
        with self._lock:
            if (cached := self._remove(name)) is not None:
                self._dropped[name] = cached.resource_version

    def drop_missing(self, name: str) -> None:
        """Drop a record that the API does not have. One that was dropped before is forgotten.

        The record may have been created again meanwhile, and the watch may have reported it before the API's response
        arrived. So `names` still has a record that was cached, and it is read once more.
        """
        with self._lock:
            if (cached := self._remove(name)) is not None:
                self._dropped[name] = cached.resource_version
            else:
                self._dropped.pop(name, None)

    def log_malformed(self, error: MalformedRecordError) -> None:
        """Log a malformed record, once for each version. The version in the cache stays."""
        with self._lock:
            logged = self._malformed.get(error.record) == error.version
            self._malformed[error.record] = error.version
        if not logged:
            log.error('record is malformed record=%s version=%s cause="%s"', error.record, error.version, error)

    def keep_watched(self, node: str) -> None:
        """Forget the records that a node's watch does not report. They were read for a call."""
        with self._lock:
            for name, link in list(self._links.items()):
                if node not in link.nodes and node_label(node) not in link.expected_on:
                    self._remove(name)

    def delete(self, name: str, version: str) -> None:
        """Remove a record that was deleted, or that no longer concerns this node, at `version`."""
        with self._lock:
            cached = self._links.get(name)
            if cached is not None and is_newer(cached.resource_version, version):
                return
            self._remove(name)
            self._dropped.pop(name, None)
            self._malformed.pop(name, None)
            self._deleted[name] = version
            self._deleted.move_to_end(name)
            while len(self._deleted) > DELETED_KEPT:
                self._deleted.popitem(last=False)
        self._notify(name)

    def _keep(self, link: Link) -> bool:
        self._expected.discard(link.name)
        if self._node is not None and self._node not in link.nodes:
            if len(self._expected) >= EXPECTED_MOST:
                self._links.pop(link.name, None)
                self.is_complete = False
                return False
            self._expected.add(link.name)
        self._links[link.name] = link
        return True

    def _remove(self, name: str) -> Link | None:
        self._expected.discard(name)
        return self._links.pop(name, None)

    def _notify(self, name: str) -> None:
        self.notifier.notify(name)
        self.changed(name)


def is_newer(version: str, than: str) -> bool:
    """Whether one resourceVersion of an object is later than another (kubernetes.io, "Resource versions")."""
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than
