"""A cluster of two nodes with one agent each, shared by a module until a test leaves something behind."""

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
    with kept.shared(PATIENT, agent={}) as made:
        yield made
