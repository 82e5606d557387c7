"""Resync: queues all links and pods of the node, from time to time and after changes of the node."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ratchet.agent.informers import Informers
from ratchet.agent.queue import ReconcileQueue
from ratchet.node.journal import Journal
from ratchet.node.verified import VerifiedEnds
from ratchet.store.apiserver import ApiServer
from ratchet.store.cached_store import CachedStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resync:
    """Queues the links and pods of one node. Thread-safe, except for `run`."""

    node: str
    api: ApiServer
    journal: Journal
    store: CachedStore
    informers: Informers
    queue: ReconcileQueue
    verified: VerifiedEnds

    def run(self) -> None:
        """Reload the journal, update the followed namespaces, and queue all pods. It sends no API request.

        A fault is logged, so that the periodic work continues.
        """
        try:
            self.journal.reload()
            self.store.links.cache.keep_watched(self.node)
            asking = {entry.pod.namespace for entry in self.journal.entries() if entry.asks and entry.pod}
            self.informers.keep_namespaces(asking)
            self.enqueue_pods()
        except Exception:
            log.exception("resync failed")

    def links(self) -> set[str]:
        """The names of the node's links: those that a sandbox holds, and those whose records name the node."""
        held = {end.link for entry in self.journal.entries() for end in entry.ends}
        return held | set(self.store.links.cache.names())

    def enqueue_all(self) -> None:
        """Queue all links and pods, and have all ends observed again."""
        self.verified.expire_all()
        for link in self.links():
            self.queue.enqueue_link(link)
        self.enqueue_pods()

    def enqueue_pods(self) -> None:
        """Queue all pods that ask for links, and follow their namespaces."""
        for entry in self.journal.entries():
            if entry.asks and entry.pod:
                self.informers.namespace_cache(entry.pod.namespace)
                self.queue.enqueue_pod(entry.pod.namespace, entry.pod.name)

    def node_changed(self, node: str) -> None:
        """Queue the links that have an end on another node, which is lost or back."""
        for link in self.store.links.cache.all():
            if node in link.nodes:
                self.queue.enqueue_link(link.name)

    def underlay_changed(self) -> None:
        """Queue everything after a change of the node's underlay. Raises RatchetError.

        The API may be reached from the changed address, so its connections are opened again.
        """
        self.api.reconnect()
        self.enqueue_all()
