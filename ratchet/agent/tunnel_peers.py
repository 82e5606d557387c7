"""The ends of this node at tunnels of the patch panel, and their peers, from the journal and the cached records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import SIDES, Link
from ratchet.core.oam import TunnelPeer, record_id, sandbox_id
from ratchet.node.journal import Journal
from ratchet.store.cached_store import CachedStore


class NodeLeases(Protocol):
    """The Leases of the cluster's nodes."""

    def is_silent(self, node: str) -> bool:
        """Whether a node's Lease is not renewed."""
        ...


@dataclass(frozen=True, slots=True)
class TunnelPeers:
    """Finds the ends of this node at tunnels."""

    journal: Journal
    store: CachedStore
    leases: NodeLeases

    def read(self) -> dict[str, TunnelPeer]:
        """The ends by the names of their tunnels.

        An end whose record is not in the cache, or does not name it, is left out.
        """
        found = {}
        for entry in self.journal.entries():
            if entry.slot is None:
                continue
            for end in entry.ends:
                record = self.store.links.cache.get(end.link)
                if record is not None and record.wiring is Wiring.PANEL and record.kind is Kind.VXLAN:
                    peer = self._peer_of(record, entry.attachment.container_id)
                    if peer is not None:
                        found[entry.slot.tunnel(end.index)] = peer
        return found

    def _peer_of(self, record: Link, container_id: str) -> TunnelPeer | None:
        side = record.side_of(container_id)
        far = record.sandbox(side.other) if side is not None else None
        if side is None or far is None:
            return None
        return TunnelPeer(
            record.name,
            record_id(record.uid),
            SIDES.index(side),
            own=sandbox_id(container_id),
            far=sandbox_id(far.container_id),
            lease_expired=self.leases.is_silent(far.node),
        )
