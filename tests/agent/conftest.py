"""A cluster of two nodes with an agent each, for as long as every test leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.cluster import PATIENT, Cluster, running


class Kept:
    """A cluster that is made when it is asked for, and made anew after it was discarded."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._cluster: Cluster | None = None

    def get(self) -> Cluster:
        if self._cluster is None:
            self._cluster = self._stack.enter_context(running(PATIENT, agent={}))
        return self._cluster

    def discard(self) -> None:
        self._cluster = None
        self._stack.close()


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.discard()


@pytest.fixture
def cluster(kept: Kept) -> Iterator[Cluster]:
    """The nodes, on which nothing may be left once all pods have gone, however the test ends."""
    made = kept.get()
    try:
        try:
            yield made
        finally:
            made.end_everything()
            made.assert_nothing_left()
    except BaseException:
        kept.discard()
        raise
