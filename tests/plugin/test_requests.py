"""The requests of the daemonless plugin for one link. docs/architecture.md says what each of them is for."""

from __future__ import annotations

import re

import pytest

from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Kubelet
from ratchet.dev.testbed import wait_for
from tests.support.cluster import Cluster

pytestmark = pytest.mark.daemonless

# What a path stands for. The first pattern that matches counts.
KINDS = (
    (r"/namespaces/ratchet/configmaps\?watch=1&", "watch records"),
    (r"/namespaces/ratchet/configmaps\?.*%21ratchet\.schema", "earlier records"),
    (r"/namespaces/ratchet/configmaps\?labelSelector=ratchet\.vni", "records with a VNI"),
    (r"/namespaces/ratchet/configmaps(/[^/?]+)?$", "record"),
    (r"/namespaces/default/configmaps\?labelSelector=ratchet\.topology", "topologies"),
    (r"/namespaces/default/pods\?", "pods"),
    (r"/namespaces/default/pods/[^/?]+$", "pod"),
    (r"/nodes/[^/?]+$", "node"),
    (r"/leases\?labelSelector=ratchet\.lease%3Dnode", "node Leases"),
    (r"/leases\?", "Leases"),
    (r"/leases(/vni-[0-9]+)?$", "VNI Lease"),
)
SELECTION = ["GET pod", "GET node", "GET topologies", "GET pods", "GET node Leases", "GET earlier records"]


def requests(cluster: Cluster) -> list[str]:
    """The nodes' requests since the last call, each as its method and what its path stands for."""
    nodes = (cluster.a.host.address, cluster.b.host.address)
    sent = [one for one in cluster.faults.sent if one.remote in nodes]
    cluster.faults.sent.clear()
    return [f"{one.method} {_kind(one.path)}" for one in sent]


def _kind(path: str) -> str:
    return next((kind for pattern, kind in KINDS if re.search(pattern, path)), path)


def linked(cluster: Cluster, node_of_pair: Kubelet) -> tuple[list[str], list[str]]:
    """The requests of the primary's ADD until it waits, and of the pair's ADD and the rest of the primary's."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(node_of_pair)
    cluster.faults.sent.clear()
    waiting = cluster.start("ADD", cluster.a, primary)
    wait_for("the watch", lambda: any(sent.watches for sent in cluster.faults.sent))
    first = requests(cluster)
    assert node_of_pair.call("ADD", pair).status == 0
    assert cluster.end(waiting).status == 0
    second = requests(cluster)
    cluster.wait_until(State.LINKED)
    cluster.faults.sent.clear()
    assert cluster.a.call("DEL", primary).status == 0
    assert requests(cluster) == ["GET record", "PATCH record"]
    assert node_of_pair.call("DEL", pair).status == 0
    return first, second


def test_a_veth_takes_eighteen_requests_of_both_adds_and_four_of_both_dels(cluster: Cluster) -> None:
    first, second = linked(cluster, cluster.a)
    assert first == [*SELECTION, "GET record", "POST record", "GET watch records"]
    assert second == [*SELECTION, "GET record", "PATCH record", "GET record"]
    assert requests(cluster) == ["GET record", "DELETE record"]


def test_a_tunnel_takes_its_lease_and_one_more_write(cluster: Cluster) -> None:
    first, second = linked(cluster, cluster.b)
    assert first == [*SELECTION, "GET record", "POST record", "GET watch records"]
    claim = ["GET Leases", "GET records with a VNI", "POST VNI Lease"]
    assert second == [*SELECTION, "GET record", *claim, "PATCH record", "GET record", "PATCH record"]
    assert requests(cluster) == ["GET record", "DELETE record", "GET VNI Lease", "DELETE VNI Lease"]
