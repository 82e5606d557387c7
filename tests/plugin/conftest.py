"""A cluster of two nodes for every test of the plugin, and a look afterwards that nothing was left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratchet.dev.bed import Bed
from ratchet.install import find_shim
from tests.support.cluster import Cluster
from tests.support.faults import Faults
from tests.support.namespaces import may_make_namespaces

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
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    if host == "agent" and find_shim() is None:
        pytest.skip("there is no shim for this machine: it has no C compiler")
    faults = Faults()
    with Bed(middlewares=[faults.middleware]) as bed:
        made = Cluster(bed, faults, agent={} if host == "agent" else None)
        try:
            yield made
        finally:
            faults.clear()
            made.stop_what_runs()
