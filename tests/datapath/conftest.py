"""Network namespaces for the datapath tests, with a leak check after each test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.namespaces import Bed, may_make_namespaces
from tests.support.wires import Wires


@pytest.fixture
def bed() -> Iterator[Bed]:
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    before, descriptors = _footprint(), _descriptors()
    with Bed() as testbed:
        yield testbed
    assert _footprint() == before, "the test left the machine other than it found it"
    # Fewer descriptors are no leak: the garbage collector may have closed those of an earlier test.
    assert _descriptors() <= descriptors, "the test left descriptors open"


@pytest.fixture
def wires(bed: Bed) -> Wires:
    return Wires(bed)


@pytest.fixture
def pods(bed: Bed) -> Bed:
    """Two pods on one node; the node is the host's own network namespace, which tests must not change."""
    bed.add("pod-a", "pod-b")
    return bed


@pytest.fixture
def nodes(bed: Bed) -> Bed:
    """Three nodes on one Ethernet segment, and one pod for each node."""
    bed.fabric(**{"node-1": "10.9.0.1/24", "node-2": "10.9.0.2/24", "node-3": "10.9.0.3/24"})
    bed.add("pod-a", "pod-b", "pod-c")
    return bed


def _footprint() -> tuple[object, ...]:
    namespace = Path("/proc/thread-self/ns/net").stat().st_ino
    return namespace, socket.if_nameindex()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
