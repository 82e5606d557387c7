"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.manual_clock import Clock
from tests.support.memory import AgentNode, MemoryApi


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
def node(tmp_path: Path, api: MemoryApi) -> Iterator[AgentNode]:
    """Node a, whose agent runs on stores in memory."""
    with AgentNode(tmp_path, api).running() as made:
        yield made


@pytest.fixture
def clock() -> Clock:
    return Clock()
