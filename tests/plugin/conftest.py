"""Clusters of two nodes, shared by a module. Tests run with the daemonless plugin and with agents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratchet.dev.fake_kubelet import spawn
from tests.support.cluster import Cluster, KeptClusters, running
from tests.support.forking import fork_or_spawn

# Modules whose tests do not depend on the host. They run once.
HOST_INDEPENDENT = ("test_gc",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize each test with both hosts, unless one host is enough for it."""
    if "host" in metafunc.fixturenames:
        single_host = metafunc.module.__name__.rpartition(".")[2] in HOST_INDEPENDENT
        single_host = single_host or metafunc.definition.get_closest_marker("daemonless") is not None
        metafunc.parametrize("host", ["daemonless"] if single_host else ["daemonless", "agent"])


@pytest.fixture(scope="module")
def kept() -> Iterator[KeptClusters]:
    clusters = KeptClusters()
    yield clusters
    clusters.close()


@pytest.fixture
def cluster(host: str, kept: KeptClusters, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    options = request.node.get_closest_marker("agent")
    agent = (options.kwargs if options else {}) if host == "agent" else None
    own = request.node.get_closest_marker("own_cluster")
    executed = request.node.get_closest_marker("executed") is not None
    with running(agent=agent) if own else kept.shared(agent=agent) as made:
        for node in (made.a, made.b):
            node.spawn = spawn if executed else fork_or_spawn
        yield made
