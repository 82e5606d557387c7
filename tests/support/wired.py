"""Pods that are linked in panel wiring, and what is seen of links in both wirings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.support.cluster import Cluster

WIRED = {"ratchet.wiring": "panel"}


def wired_pair(cluster: Cluster, node_of_pair: Kubelet) -> tuple[Sandbox, Sandbox]:
    """The two pods of 2017, linked in panel wiring and with carrier: the primary on `a`.

    Across nodes, the end that is ready first gets its carrier after the record is linked, from its agent.
    """
    primary, pair = cluster.primary(cluster.a, **WIRED), cluster.pair(node_of_pair)
    cluster.add_all((cluster.a, primary), (node_of_pair, pair))
    cluster.wait_until(State.LINKED)
    ends = (primary, "in1"), (pair, "in2")
    wait_for("the carrier of both ends", lambda: all(has_carrier(cluster, *end) for end in ends))
    return primary, pair


def tunnels_of(cluster: Cluster, node: Kubelet, ends: Sequence[tuple[Sandbox, str]]) -> list[dict[str, Any]]:
    """What `ip` shows of the VXLANs of ends on a node, in their pods or in the node's panel, in any order."""
    inside = [cluster.show(*end)["linkinfo"] for end in ends]
    panel = json.loads(ip("-j", "-d", "-n", node.host.panel, "link", "show", "type", "vxlan"))
    found = [*inside, *(one["linkinfo"] for one in panel)]
    return [one["info_data"] for one in found if one["info_kind"] == "vxlan"]


def assert_not_connected(cluster: Cluster, sandbox: Sandbox) -> None:
    """Assert that the interfaces of a pod, whose links wait for their peers, have no carrier."""
    for ifname in cluster.interfaces(sandbox):
        assert not has_carrier(cluster, sandbox, ifname)


def has_carrier(cluster: Cluster, sandbox: Sandbox, ifname: str) -> bool:
    return "LOWER_UP" in cluster.show(sandbox, ifname)["flags"]
