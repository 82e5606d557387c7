"""What an idle agent asks of the API does not grow with the links of others: no list of all Leases or all records."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from ratchet.core.naming import node_label, vni_lease_name
from ratchet.dev.testbed import RATCHET_NAMESPACE, wait_for
from ratchet.store.session import Json
from tests.support.cluster import LINK, Cluster, left_clean
from tests.support.faults import Sent

NODES = {node_label("a"), node_label("b")}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes whose agents resync as often as they can."""
    with left_clean(agent={"resync": 10}) as made:
        yield made


def lease(cluster: Cluster) -> Json:
    vni = cluster.bed.links()[LINK].vni
    assert vni is not None
    return cluster.bed.api.get(f"{cluster.bed.records.vnis.path}/{vni_lease_name(vni)}")


def labels(cluster: Cluster) -> set[str]:
    return NODES & set(lease(cluster)["metadata"]["labels"])


def selector_of(sent: Sent, collection: str) -> str | None:
    """The label selector of a list of a collection in Ratchet's namespace, "" for none; None for other requests."""
    url = urlsplit(sent.path)
    if sent.method != "GET" or sent.watches or not url.path.endswith(f"/namespaces/{RATCHET_NAMESPACE}/{collection}"):
        return None
    return parse_qs(url.query).get("labelSelector", [""])[0]


def resyncs(cluster: Cluster, times: int) -> list[Sent]:
    """What node a's agent requests until it has listed its Leases so many times."""
    cluster.faults.sent.clear()

    def lists() -> int:
        sent = cluster.faults.of(cluster.a.host.address)
        return sum(selector_of(one, "leases") == node_label("a") for one in sent)

    wait_for("resyncs", lambda: lists() >= times, 60)
    return cluster.faults.of(cluster.a.host.address)


def test_an_idle_agent_lists_its_own_leases_and_checks_none_of_them_alone(cluster: Cluster) -> None:
    cluster.linked_pair()
    assert labels(cluster) == NODES, "a Lease is labelled when it is created"
    sent = resyncs(cluster, 2)
    listed = {selector for one in sent if (selector := selector_of(one, "leases")) is not None}
    assert listed <= {node_label("a"), "ratchet.lease=node"}
    assert not [one.path for one in sent if "/leases/vni-" in one.path]
    assert not [one.path for one in sent if selector_of(one, "configmaps") is not None]


def test_a_malformed_record_is_logged_when_it_is_written_and_no_more(cluster: Cluster) -> None:
    records, agent = cluster.bed.records.links.path, cluster.bed.agents["a"]
    metadata = {"name": "broken", "labels": {node_label("a"): ""}}
    cluster.bed.make(records, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}})
    wait_for("the log", lambda: "record is malformed record=broken" in agent.log.read_text())
    resyncs(cluster, 1)
    assert agent.log.read_text().count("record is malformed record=broken") == 1
    broken = cluster.bed.api.get(f"{records}/broken")
    cluster.bed.api.delete(f"{records}/broken", uid=broken["metadata"]["uid"])


def test_a_lease_that_an_earlier_version_created_is_labelled_once(cluster: Cluster) -> None:
    cluster.linked_pair()
    path = f"{cluster.bed.records.vnis.path}/{lease(cluster)['metadata']['name']}"
    cluster.bed.api.patch(path, {"metadata": {"labels": dict.fromkeys(NODES) | {"other": "kept"}}})
    wait_for("the labels", lambda: labels(cluster) == NODES, 30)
    assert lease(cluster)["metadata"]["labels"]["other"] == "kept"
    # The other node's agent may be about to read the Lease, too.
    resyncs(cluster, 1)
    assert not [one.path for one in resyncs(cluster, 1) if "/leases/vni-" in one.path]
