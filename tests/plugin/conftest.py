"""Two nodes for each test, kept for a module, on both hosts of the commands: the daemonless plugin and the agent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster, KeptClusters, running

# Tests of commands that do not depend on what serves the nodes.
OF_COMMANDS = ("test_gc",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test on both hosts of the commands, the daemonless plugin and the agent."""
    if "host" in metafunc.fixturenames:
        once = metafunc.module.__name__.rpartition(".")[2] in OF_COMMANDS
        once = once or metafunc.definition.get_closest_marker("daemonless") is not None
        metafunc.parametrize("host", ["daemonless"] if once else ["daemonless", "agent"])


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
    with running(agent=agent) if own else kept.lent(agent=agent) as made:
        yield made
