"""The records as an agent reads and writes them: through its cache.

The cache may be older than the API and is never newer. A write that was decided on an old version is rejected because
of its resourceVersion. Then the cache drops the record, and the next question goes to the API.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import replace

from ratchet.core.model import Link, Side
from ratchet.core.naming import in_order, node_label
from ratchet.errors import ConflictError
from ratchet.store.caches import Caches
from ratchet.store.links import LinkStore, Lookup


class CachedLinks:
    """Records that are looked up in a cache. What is read and written goes into the cache."""

    def __init__(self, links: LinkStore, caches: Caches) -> None:
        self.cache = caches.links
        self._links = links
        self._caches = caches

    # Read

    def get(self, name: str) -> Link | None:
        """The record in the API; None if there is none."""
        link = self._links.get(name)
        if link is None:
            self.cache.drop_missing(name)
        else:
            self.cache.put(link)
            self.cache.mark_existing(link)
        return link

    def lookup(self, name: str) -> Lookup:
        """The record from the cache. If the cache does not have it, the record from the API."""
        cached = self.cache.get(name)
        return Lookup(cached, certain=False) if cached is not None else Lookup(self.get(name), certain=True)

    def lookup_cached(self, name: str) -> Lookup:
        """The record, or its absence, from the cache.

        The API is asked only if the cache is not synced. Use this before a create: if the record exists, the create
        fails.
        """
        return Lookup(None, certain=False) if self.cache.expects_none(name) else self.lookup(name)

    def known(self, name: str) -> Link | None:
        """The record if the cache has it. Sends no request."""
        return self.cache.get(name)

    def has_changed(self, record: Link) -> bool:
        """Whether the cache has another version of a record, or none."""
        cached = self.cache.get(record.name)
        return cached is None or cached.resource_version != record.resource_version

    def is_created_by_peer(self, wanted: Link, side: Side, node: str) -> bool:
        """Whether the peer's node is expected to create the missing record. `node` is the node of `side`.

        If two pods start together on two nodes, the node of the lesser endpoint creates the record.
        """
        if not self.cache.expects_none(wanted.name):
            return False
        own, peer = ((end.name, end.ifname) for end in (wanted.end(side), wanted.end(side.other)))
        nodes = self._nodes_of(wanted, side.other)
        return bool(nodes) and node not in nodes and in_order(own, peer)[0] == peer

    def has_earlier(self) -> bool:
        """Whether there are records of schema 1 in the API."""
        return self._links.has_earlier()

    def watch_names(
        self,
        namespace: str,  # noqa: ARG002  # without a cache, the records of the pod are watched
        pod: str,  # noqa: ARG002
        names: Collection[str],
        version: str,  # noqa: ARG002
        until: float,
    ) -> Iterator[set[str] | None]:
        """Those of the `names` whose records change in the cache, until `until` (monotonic seconds).

        None: any of them may have changed.
        """
        with self.cache.notifier.subscribed(names) as wait:
            yield None  # changes before the subscription
            while time.monotonic() < until:
                with self._caches.waiting():
                    notified = wait(until)
                if notified:
                    yield notified

    # Write

    def create(self, link: Link) -> Link:
        """Create the record, with the labels of the nodes on which its pods are. Raises ConflictError."""
        absent = [side for side in Side if link.sandbox(side) is None]
        nodes = {node for side in absent for node in self._nodes_of(link, side)} - link.nodes
        try:
            created = self._links.create(replace(link, expected_on=tuple(sorted(map(node_label, nodes)))))
        except ConflictError:
            self.get(link.name)  # the next try decides on the record that another node has created
            raise
        self.cache.put(created)
        return created

    def update(self, before: Link, after: Link) -> Link:
        """Update the record, and return the link as stored.

        Raises ConflictError if `before` is not the newest one.
        """
        try:
            updated = self._links.update(before, after)
        except ConflictError:
            self.cache.drop(before.name)
            raise
        self.cache.put(updated)
        return updated

    def leave_newer(self, name: str, container_id: str) -> None:
        """Remove a sandbox from a record of a newer version, which is never cached. Raises ConflictError."""
        self._links.leave_newer(name, container_id)

    def delete(self, link: Link) -> None:
        """Delete the record on condition of its version, then release its VNI. Raises ConflictError."""
        try:
            self._links.delete(link)
        except ConflictError:
            self.cache.drop(link.name)
            raise
        self.cache.delete(link.name, link.resource_version)

    def _nodes_of(self, link: Link, side: Side) -> set[str]:
        """The nodes of the running pods with the name of an end, as far as is cached."""
        pods = self._caches.namespace_cache(link.namespace).called(link.end(side).name)
        return {pod.node for pod in pods if pod.node and not pod.deleting and not pod.finished}
