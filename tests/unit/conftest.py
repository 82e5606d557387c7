"""Fixtures of several unit tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest

from ratchet.install import bundle
from tests.support.manual_clock import Clock
from tests.support.memory import AgentNode, MemoryApi

FILES_OF_A_FOLDER = 2
DEPTH = 3  # packages/ratchet/node is one folder, with all below it


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


@pytest.fixture(scope="session", autouse=True)
def bundle_files() -> Iterator[None]:
    """Look for the files of a bundle once: that takes a third of the CPU of a bundle, and tests make dozens."""
    find = bundle._files
    with patch.object(bundle, "_files", cache(lambda launcher: tuple(find(launcher)))):
        yield


@pytest.fixture(autouse=True)
def small_bundles(request: pytest.FixtureRequest) -> Iterator[None]:
    """Bundles have a few files of each folder only, unless the test is marked `runs_bundle`: they have 2,400 files."""
    if request.node.get_closest_marker("runs_bundle"):
        yield
        return
    find = bundle._files

    def few(launcher: Path) -> Iterator[tuple[Path, Path]]:
        folders = Counter[tuple[str, ...]]()
        for path, source in find(launcher):
            folder = path.parent.parts[:DEPTH]
            folders[folder] += 1
            if folders[folder] <= FILES_OF_A_FOLDER:
                yield path, source

    with patch.object(bundle, "_files", few):
        yield
