"""Node Leases as an agent reads them: from the API server's memory, and never older than its own renewal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.core.heartbeat import NodeLease
from ratchet.dev.api import EmbeddedApi
from ratchet.errors import ApiUnavailableError
from ratchet.store.apiserver import connect
from ratchet.store.nodes import NodeStore
from tests.support.links import NOW


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[NodeStore]:
    with EmbeddedApi() as server:
        api = connect(str(server.write_kubeconfig(tmp_path / "kubeconfig")), patience=0.5)
        api.create("/api/v1/namespaces", {"metadata": {"name": "ratchet"}})
        yield NodeStore(api, "ratchet")


def test_the_answer_has_what_was_renewed_before(nodes: NodeStore) -> None:
    for node in ("a", "b"):
        nodes.renew_lease(NodeLease(node, "10.0.0.1"), 40, NOW)
    before = {one.node: one.version for one in nodes.list_leases_since(nodes.renew_lease(NodeLease("a", ""), 40, NOW))}
    nodes.renew_lease(NodeLease("b", "10.0.0.2"), 40, NOW)
    version = nodes.renew_lease(NodeLease("a", "10.0.0.1"), 40, NOW)
    leases = {one.node: one for one in nodes.list_leases_since(version)}
    assert set(leases) == {"a", "b"}
    assert leases["a"].version == version
    assert leases["b"].version != before["b"]
    assert leases == {one.node: one for one in nodes.list_leases()}


def test_a_server_with_an_older_memory_is_unavailable(nodes: NodeStore) -> None:
    version = nodes.renew_lease(NodeLease("a", "10.0.0.1"), 40, NOW)
    with pytest.raises(ApiUnavailableError):
        nodes.list_leases_since(str(int(version) + 1000))
