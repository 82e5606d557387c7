"""A cluster of two nodes for every test of the plugin, and a look afterwards that nothing was left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratchet.dev.bed import Bed
from ratchet.install import find_shim
from tests.support.cluster import Cluster
from tests.support.faults import Faults
from tests.support.namespaces import may_make_namespaces


@pytest.fixture(params=["daemonless", "agent"])
def host(request: pytest.FixtureRequest) -> str:
    """What serves the calls of the runtime."""
    if request.param == "agent" and find_shim() is None:
        pytest.skip("there is no shim for this machine: it has no C compiler")
    return str(request.param)


@pytest.fixture
def cluster(host: str) -> Iterator[Cluster]:
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    faults = Faults()
    with Bed(middlewares=[faults.middleware]) as bed:
        made = Cluster(bed, faults, agent={} if host == "agent" else None)
        try:
            yield made
        finally:
            faults.clear()
            made.stop_what_runs()
