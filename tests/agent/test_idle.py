"""API requests of an idle agent: it does not list all Leases or all records."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from ratchet.core.naming import node_label, vni_lease_name
from ratchet.dev.testbed import RATCHET_NAMESPACE, wait_for
from ratchet.store.session import Json
from tests.support.cluster import LINK, Cluster, clean_cluster
from tests.support.faults import Sent

NODES = {node_label("a"), node_label("b")}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes whose agents resync every 10 s, the shortest interval."""
    with clean_cluster(agent={"resync": 10}) as made:
        yield made


def lease(cluster: Cluster) -> Json:
    vni = cluster.bed.links()[LINK].vni
    assert vni is not None
    return cluster.bed.api.get(f"{cluster.bed.store.vnis.path}/{vni_lease_name(vni)}")


def labels(cluster: Cluster) -> set[str]:
    return NODES & set(lease(cluster)["metadata"]["labels"])


def selector_of(sent: Sent, collection: str) -> str | None:
    """The label selector of a list request in Ratchet's namespace, or ""; None for other requests."""
    url = urlsplit(sent.path)
    if sent.method != "GET" or sent.watches or not url.path.endswith(f"/namespaces/{RATCHET_NAMESPACE}/{collection}"):
        return None
    return parse_qs(url.query).get("labelSelector", [""])[0]


def resyncs(cluster: Cluster, times: int) -> list[Sent]:
    """The requests of node a's agent until it has listed its Leases so many times."""
    cluster.faults.sent.clear()

    def lists() -> int:
        sent = cluster.faults.of(cluster.a.host.address)
        return sum(selector_of(one, "leases") == node_label("a") for one in sent)

    wait_for("resyncs", lambda: lists() >= times, 60)
    return cluster.faults.of(cluster.a.host.address)


def test_an_idle_agent_lists_the_leases_of_its_node_and_nothing_else(cluster: Cluster) -> None:
    pods = cluster.linked_pair()
    assert labels(cluster) == NODES, "a Lease is labelled when it is created"
    wait_for("the Events", lambda: cluster.pods_with_event("Linked") == {one.pod.uid for one in pods})
    sent = resyncs(cluster, 2)
    listed = {selector for one in sent if (selector := selector_of(one, "leases")) is not None}
    assert listed <= {node_label("a"), "ratchet.lease=node"}
    others = [one.path for one in sent if not one.watches and selector_of(one, "leases") is None]
    own_lease = f"/apis/coordination.k8s.io/v1/namespaces/{RATCHET_NAMESPACE}/leases/node-a"
    assert set(others) == {own_lease, "/api/v1/nodes/a"}


def test_a_malformed_record_is_logged_once(cluster: Cluster) -> None:
    path, agent = cluster.bed.store.links.path, cluster.bed.agents["a"]
    metadata = {"name": "broken", "labels": {node_label("a"): ""}}
    cluster.bed.make(path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}})
    wait_for("the log", lambda: "record is malformed record=broken" in agent.log.read_text())
    resyncs(cluster, 1)
    assert agent.log.read_text().count("record is malformed record=broken") == 1
    broken = cluster.bed.api.get(f"{path}/broken")
    cluster.bed.api.delete(f"{path}/broken", uid=broken["metadata"]["uid"])


def test_a_lease_that_an_earlier_version_created_is_labelled_once(cluster: Cluster) -> None:
    cluster.linked_pair()
    path = f"{cluster.bed.store.vnis.path}/{lease(cluster)['metadata']['name']}"
    cluster.bed.api.patch(path, {"metadata": {"labels": dict.fromkeys(NODES) | {"other": "kept"}}})
    wait_for("the labels", lambda: labels(cluster) == NODES, 30)
    assert lease(cluster)["metadata"]["labels"]["other"] == "kept"
    # In the first resync, the agent may still read the Lease that the other agent has labelled.
    resyncs(cluster, 1)
    assert not [one.path for one in resyncs(cluster, 1) if "/leases/vni-" in one.path]
