"""Pods that are linked in panel wiring."""

from __future__ import annotations

from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from tests.support.cluster import Cluster

WIRED = {"ratchet.wiring": "panel"}


def wired_pair(cluster: Cluster, node_of_pair: Kubelet) -> tuple[Sandbox, Sandbox]:
    """The two pods of 2017, linked in panel wiring: the primary on `a`."""
    primary, pair = cluster.primary(cluster.a, **WIRED), cluster.pair(node_of_pair)
    cluster.add_all((cluster.a, primary), (node_of_pair, pair))
    cluster.wait_until(State.LINKED)
    return primary, pair


def has_carrier(cluster: Cluster, sandbox: Sandbox, ifname: str) -> bool:
    return "LOWER_UP" in cluster.show(sandbox, ifname)["flags"]
