"""The number of API requests that a mesh takes: writes of records, Leases and shared Events."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import combinations

import pytest

from ratchet.core.model import State
from ratchet.core.naming import record_name
from ratchet.dev.testbed import wait_for
from tests.support.cluster import Cluster, clean_cluster
from tests.support.faults import Sent

PODS = [f"r{number}" for number in range(6)]
PAIRS = list(combinations(PODS, 2))
TOPOLOGY = "\n".join(f"- endpoints: [{one}:to-{other}, {other}:to-{one}]" for one, other in PAIRS)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster for one test, so that the next test does not see its topology."""
    with clean_cluster() as made:
        yield made


def records_of(sent: Sent) -> bool:
    return "/namespaces/ratchet/configmaps" in sent.path and not sent.watches


def vnis_of(sent: Sent) -> bool:
    return "/namespaces/ratchet/leases" in sent.path and "node" not in sent.path and not sent.watches


def test_a_mesh_takes_at_most_four_requests_per_link(cluster: Cluster) -> None:
    """A vEth takes two writes, a VXLAN three and a Lease. Only a write that got 409 causes more requests.

    How often both nodes write at the same moment depends on the machine's load, so responses with 409 are subtracted.
    """
    cluster.bed.create_topology("mesh", TOPOLOGY)
    nodes = [cluster.a, cluster.b]
    on = {name: nodes[number % 2] for number, name in enumerate(PODS)}
    placed = [(on[name], cluster.pod(name, {"ratchet": "true"}, on[name])) for name in PODS]
    cluster.faults.sent.clear()
    for answer in cluster.add_all(*placed):
        assert not answer.error
    names = [record_name("default", (one, f"to-{other}"), (other, f"to-{one}")) for one, other in PAIRS]

    def linked() -> bool:
        return all(cluster.state(name) is State.LINKED for name in names)

    wait_for("the mesh", linked, 30)
    agents = {node.host.address for node in nodes}
    sent = [one for one in cluster.faults.sent if one.remote in agents]
    asked = [one for one in sent if records_of(one) or vnis_of(one)]
    refused = sum(one.status == 409 for one in asked)
    counts = Counter((one.method, one.status) for one in asked)
    tunnels = sum(on[one] is not on[other] for one, other in PAIRS)
    writes = 2 * (len(PAIRS) - tunnels) + 4 * tunnels
    assert counts["POST", 201] + counts["PATCH", 200] <= writes + refused, counts
    reads = [one.path for one in asked if one.method == "GET" and "limit=" not in one.path]
    assert len(reads) <= refused, reads
    assert writes + len(PODS) <= 4 * len(PAIRS), "with one Event for each pod"


def times_of_events(cluster: Cluster) -> dict[tuple[str, str], list[datetime]]:
    """The times of the Events of each pod and reason, in whole seconds."""
    times = defaultdict(list)
    for event in cluster.bed.api.list("/api/v1/namespaces/default/events")[0]:
        times[event["involvedObject"]["uid"], event["reason"]].append(datetime.fromisoformat(event["lastTimestamp"]))
    return times


def test_the_links_of_a_pod_share_events(cluster: Cluster) -> None:
    """There is one Event per pod, reason and second.

    The collections of two Events begin at least one second apart, and each Event has the time of its latest change. So
    `n` Events span more than `n - 2` seconds.
    """
    cluster.bed.create_topology("star", "\n".join(f"- endpoints: [hub:to-{one}, {one}:to-hub]" for one in PODS))
    placed = [(cluster.a, cluster.pod(name, {"ratchet": "true"}, cluster.a)) for name in [*PODS, "hub"]]
    for answer in cluster.add_all(*placed):
        assert not answer.error

    def messages() -> list[str]:
        items, _ = cluster.bed.api.list("/api/v1/namespaces/default/events")
        events = (one for one in items if one["involvedObject"]["name"] == "hub")
        return [one["message"] for one in events if one["reason"] == "Linked"]

    def interfaces() -> int:
        return sum(message.count(" is linked to ") for message in messages())

    wait_for("the Events", lambda: interfaces() >= len(PODS), 30)
    assert interfaces() == len(PODS), messages()
    for (uid, reason), times in times_of_events(cluster).items():
        span = (max(times) - min(times)).total_seconds()
        assert len(times) <= span + 2, (uid, reason, times)
