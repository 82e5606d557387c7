"""A cluster of two nodes for every test of the plugin, and a look afterwards that nothing was left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster, running

# Whose tests run on either host. The others have been tried on the agent in part, and run on the plugin alone so far.
BOTH = ("test_linking",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what can be on both hosts of the verbs, the daemonless plugin and the agent."""
    if "host" in metafunc.fixturenames:
        both = metafunc.module.__name__.rpartition(".")[2] in BOTH
        alone = metafunc.definition.get_closest_marker("daemonless") is not None
        metafunc.parametrize("host", ["daemonless", "agent"] if both and not alone else ["daemonless"])


@pytest.fixture
def cluster(host: str) -> Iterator[Cluster]:
    with running(agent={} if host == "agent" else None) as made:
        yield made
