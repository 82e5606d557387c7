"""The ends of this node at tunnels of the patch panel, and their peers, from the journal and the cached records."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import SIDES, Link, Side
from ratchet.core.oam import TunnelPeer, record_id, sandbox_id
from ratchet.node.journal import Journal
from ratchet.store.cached_store import CachedStore


class NodeLeases(Protocol):
    """The Leases of the cluster's nodes."""

    def is_silent(self, node: str) -> bool:
        """Whether a node's Lease is not renewed."""
        ...


class _Known(NamedTuple):
    """What was found for a tunnel the last time: most records have not changed since."""

    record: Link
    container_id: str
    peer: TunnelPeer


@dataclass(slots=True)
class TunnelPeers:
    """Finds the ends of this node at tunnels. For one thread."""

    journal: Journal
    store: CachedStore
    leases: NodeLeases
    _known: dict[str, _Known] = field(default_factory=dict)

    def read(self) -> dict[str, TunnelPeer]:
        """The ends by the names of their tunnels.

        An end whose record is not in the cache, or does not name it, is left out.
        """
        before, self._known = self._known, {}
        for entry in self.journal.entries():
            if entry.slot is None:
                continue
            for end in entry.ends:
                name, record = entry.slot.tunnel(end.index), self.store.links.cache.get(end.link)
                if record is not None and record.wiring is Wiring.PANEL:
                    found = self._find(before.get(name), record, entry.attachment.container_id)
                    if found is not None:
                        self._known[name] = found
        return {name: found.peer for name, found in self._known.items()}

    def _find(self, known: _Known | None, record: Link, container_id: str) -> _Known | None:
        if known is None or known.record is not record or known.container_id != container_id:
            known = _known_of(record, container_id)
        if known is None or known.peer.lease_expired is (expired := self.leases.is_silent(known.peer.node)):
            return known
        return known._replace(peer=replace(known.peer, lease_expired=expired))


def _known_of(record: Link, container_id: str) -> _Known | None:
    side = record.side_of(container_id) if record.kind is Kind.VXLAN else None
    far = record.sandbox(side.other) if side is not None else None
    if side is None or far is None:
        return None
    ids = sandbox_id(container_id), sandbox_id(far.container_id)
    linked = all(map(record.is_ready, Side))
    peer = TunnelPeer(record.name, record_id(record.uid), SIDES.index(side), *ids, node=far.node, linked=linked)
    return _Known(record, container_id, peer)
