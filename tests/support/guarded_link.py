"""A link between two nodes with a third host beside them, and the guard of its tunnel as a node has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ratchet.core.interface import VxlanWire
from ratchet.datapath import ensure, tunnel_guard
from tests.support.namespaces import Bed
from tests.support.packets import PORT
from tests.support.wires import Wires

ONE, TWO, THREE = "10.9.0.1", "10.9.0.2", "10.9.0.3"
ONE6, TWO6, THREE6 = "fd09::1", "fd09::2", "fd09::3"

FAMILIES = pytest.mark.parametrize(
    ("one", "two", "three"), [(ONE, TWO, THREE), (ONE6, TWO6, THREE6)], ids=["IPv4", "IPv6"]
)


def link_pods(bed: Bed, wires: Wires, one: str, two: str, **changes: Any) -> VxlanWire:
    """Link both pods, and return the wire of pod-a's end on node-1."""
    found = []
    for node, pod, number, local, remote in (("node-1", "pod-a", 0, one, two), ("node-2", "pod-b", 1, two, one)):
        with bed.inside(node):
            wire = replace(wires.tunnel(pod, number, local, remote), **changes)
            ensure(wire)
            found.append(wire)
    return found[0]


def drops(bed: Bed, node: str = "node-1") -> dict[tuple[int, int], int]:
    with bed.inside(node):
        return dict(tunnel_guard.read_drops())


def foreign_tunnel(bed: Bed, node: str, vni: int, local: str) -> None:
    """A VXLAN of another CNI in the node itself, which takes datagrams from anywhere."""
    bed.ip(node, *f"link add other type vxlan id {vni} dstport {PORT} local {local} dev eth0 nolearning".split())
    bed.ip(node, "link", "set", "other", "up")
