"""A cluster of two nodes with an agent each, kept for a module as long as every test leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import PATIENT, Cluster, KeptClusters


@pytest.fixture(scope="module")
def kept() -> Iterator[KeptClusters]:
    clusters = KeptClusters()
    yield clusters
    clusters.close()


@pytest.fixture
def cluster(kept: KeptClusters) -> Iterator[Cluster]:
    with kept.lent(PATIENT, agent={}) as made:
        yield made
