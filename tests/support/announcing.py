"""Announcements of agents of earlier versions in node Leases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from ratchet.core.heartbeat import NodeLease
from ratchet.core.schemas import CURRENT_SCHEMA
from ratchet.store.store import ApiStore

LEASE_LIST = "labelSelector=ratchet.lease"
"""In the path of a request that lists the node Leases."""
SECONDS = 40


def announce(store: ApiStore, node: str, schema: int) -> None:
    """Renew the Lease of a node whose agent reads and writes this schema."""
    store.nodes.renew_lease(NodeLease(node, "192.168.1.99", schema, schema), SECONDS, datetime.now(UTC))


@contextmanager
def earlier_agent(store: ApiStore, node: str = "c") -> Iterator[None]:
    """Within the block, there is the Lease of a node whose agent does not read panel records."""
    announce(store, node, CURRENT_SCHEMA)
    try:
        yield
    finally:
        for lease in store.nodes.list_leases():
            if lease.node == node:
                store.nodes.delete_lease(lease)
