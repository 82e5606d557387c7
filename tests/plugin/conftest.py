"""A cluster of two nodes for every test of the plugin, and a look afterwards that nothing was left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster, running

# Whose tests are of a command that knows nothing of who serves the nodes.
OF_COMMANDS = ("test_gc",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test on both hosts of the verbs, the daemonless plugin and the agent."""
    if "host" in metafunc.fixturenames:
        once = metafunc.module.__name__.rpartition(".")[2] in OF_COMMANDS
        once = once or metafunc.definition.get_closest_marker("daemonless") is not None
        metafunc.parametrize("host", ["daemonless"] if once else ["daemonless", "agent"])


@pytest.fixture
def cluster(host: str, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    options = request.node.get_closest_marker("agent")
    with running(agent=(options.kwargs if options else {}) if host == "agent" else None) as made:
        yield made
