"""Network namespaces for the datapath tests, with a leak check after each test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.datapath.guard_rules import table_messages
from ratchet.datapath.nftables import Nftables
from ratchet.datapath.rtnetlink import RefusedError
from tests.support.guarded_link import ONE, ONE6, THREE, THREE6, TWO, TWO6
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


@pytest.fixture
def has_nftables(bed: Bed) -> None:
    """Skip if the kernel has no nftables, which the table itself shows."""
    bed.add("probe")
    with bed.inside("probe"), Nftables() as channel:
        try:
            channel.transact(table_messages())
        except RefusedError as error:
            pytest.skip(f"this kernel has no nftables for the guard: {error.strerror}")


@pytest.fixture
def underlay(bed: Bed) -> Bed:
    """Two nodes and a third host on one Ethernet, with addresses of both families, and two pods."""
    bed.fabric(**{"node-1": f"{ONE}/24", "node-2": f"{TWO}/24", "node-3": f"{THREE}/24"})
    for node, address in (("node-1", ONE6), ("node-2", TWO6), ("node-3", THREE6)):
        bed.ip(node, "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
    bed.add("pod-a", "pod-b")
    return bed


def _footprint() -> tuple[object, ...]:
    namespace = Path("/proc/thread-self/ns/net").stat().st_ino
    return namespace, socket.if_nameindex()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
