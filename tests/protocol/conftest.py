"""Fixtures of the protocol tests: the node's code runs on fakes, and searches report their size."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from tests.protocol.exploring import Report
from tests.protocol.scenes import isolated


@pytest.fixture(autouse=True)
def stage() -> Iterator[None]:
    """Run a test on fakes, without Python's garbage collector.

    A search keeps millions of small values. The collector would take longer to scan them than the search takes.
    """
    gc.disable()
    try:
        with isolated():
            yield
    finally:
        gc.enable()


@pytest.fixture
def print_report(record_property: Callable[[str, object], None]) -> Callable[[Report], None]:
    """Report the size of a search in the test's output (with -s, or on failure) and in the JUnit report."""

    def record(report: Report) -> None:
        record_property("states", report.states)
        print(report)

    return record
