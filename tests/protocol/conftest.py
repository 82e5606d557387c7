"""The stage for every test here: the node's code without its surroundings."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from tests.protocol.exploring import Report
from tests.protocol.scenes import isolated


@pytest.fixture(autouse=True)
def stage() -> Iterator[None]:
    """Searches keep millions of small values that are no garbage: looking through them takes longer than the search."""
    gc.disable()
    try:
        with isolated():
            yield
    finally:
        gc.enable()


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Callable[[Report], None]:
    """How far a search went: in the test's output (-s, or where it fails) and in the JUnit report."""

    def record(report: Report) -> None:
        record_property("states", report.states)
        print(report)

    return record
