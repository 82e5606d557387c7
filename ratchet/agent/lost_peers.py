"""Peers on lost nodes: their ends are recorded as not ready, so this node's ends lose the carrier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ratchet.agent.liveness import HeldEnds
from ratchet.core.model import Side
from ratchet.node.journal import Journal
from ratchet.node.record_writer import RecordWriter
from ratchet.store.cached_store import CachedStore


class NodeStates(Protocol):
    """The states of the cluster's nodes."""

    def is_lost(self, node: str) -> bool:
        """Whether a node is lost: its Lease is not renewed, and the node is not Ready."""
        ...


@dataclass(frozen=True, slots=True)
class LostPeers:
    """Marks the ends of peers whose nodes are lost."""

    journal: Journal
    store: CachedStore
    nodes: NodeStates
    # The container ID that was marked, by link and side.
    _marked: dict[tuple[str, Side], str] = field(default_factory=dict)

    def mark(self, link: str, held: HeldEnds) -> None:
        """Mark the peers of the held ends whose nodes are lost. Raises RatchetError.

        A peer is marked once while its node is lost: it may be alive after all, and record again that it is ready.
        """
        record = self.store.links.cache.get(link)
        for entry, _ in held:
            side = record.side_of(entry.attachment.container_id) if record else None
            if record is None or side is None:
                continue
            peer, key = record.sandbox(side.other), (link, side.other)
            if peer is None or not self.nodes.is_lost(peer.node):
                self._marked.pop(key, None)
            elif record.is_connected(side.other) and self._marked.get(key) != peer.container_id:
                with self.journal.lock(link):
                    RecordWriter(self.store).mark_lost(link, peer.container_id, f"node {peer.node} is lost")
                self._marked[key] = peer.container_id

    def forget(self, link: str) -> None:
        """Forget a link of which this node no longer has an end."""
        for side in Side:
            self._marked.pop((link, side), None)
