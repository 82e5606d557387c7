"""Pods that are linked in panel wiring."""

from __future__ import annotations

from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
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


def has_carrier(cluster: Cluster, sandbox: Sandbox, ifname: str) -> bool:
    return "LOWER_UP" in cluster.show(sandbox, ifname)["flags"]
