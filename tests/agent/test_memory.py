"""An agent under the memory limit of the manifests, beside tenants that write as much as the API accepts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ratchet.core.model import State
from ratchet.dev.agents import spawn
from ratchet.dev.fake_kubelet import CniResponse, Sandbox
from ratchet.dev.testbed import wait_for
from tests.support.cgroups import LimitedHost, MemoryGroup, NoMemoryGroupError, memory_group
from tests.support.cluster import PAIR, PATIENT, PRIMARY, Cluster, running
from tests.support.hostile import hostile_pods, hostile_topologies
from tests.support.large_links import expected_records

LIMIT = 256 << 20  # manifests/base/agent.yaml
TENANTS = 8
RECORDS = 2500
SETTINGS = (
    "annotation_bytes_per_namespace",
    "declaration_memory",
    "topology_bytes_per_namespace",
    "topology_links_per_namespace",
)
WAIT = 180.0  # seconds, on a busy machine


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    try:
        with memory_group(LIMIT) as made:
            yield made
    except NoMemoryGroupError as cause:
        pytest.skip(f"this machine has no memory cgroup for a test: {cause}")


@contextmanager
def in_namespace(cluster: Cluster, name: str) -> Iterator[None]:
    """Create pods in another namespace within the block."""
    before, cluster.bed.namespace = cluster.bed.namespace, name
    try:
        yield
    finally:
        cluster.bed.namespace = before


def start_in(cluster: Cluster, group: MemoryGroup) -> None:
    """Start node a's agent again, in the group."""
    agent = cluster.bed.agents["a"]
    agent.kill()
    agent.host = LimitedHost(agent.host.name, agent.host.netns, agent.host.addresses, group)
    agent.spawn = spawn  # a forked agent would be in the group of this process
    agent.start()
    assert str(agent.pid) in group.processes.read_text().split()


def follow(cluster: Cluster, tenant: str) -> Sandbox:
    """Start a pod in a new namespace, so that node a's agent follows it. Returns its sandbox."""
    api = cluster.bed.api
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": tenant}})
    with in_namespace(cluster, tenant):
        started = cluster.pod("started", {"ratchet": "true"}, cluster.a)
        cluster.add_all((cluster.a, started))
        return started


def write(cluster: Cluster, number: int, tenant: str) -> None:
    base, api = f"/api/v1/namespaces/{tenant}", cluster.bed.api
    for topology in hostile_topologies(number):
        api.create(f"{base}/configmaps", topology)
    for pod in hostile_pods(number):
        api.create(f"{base}/pods", pod)


def link_honest_pods(cluster: Cluster, name: str) -> str:
    """Link two pods across the nodes. Returns the link."""
    primary = cluster.pod(name, {**PRIMARY, "ratchet.pair_name": f"{name}-pair"}, cluster.a)
    pair = cluster.pod(f"{name}-pair", PAIR, cluster.b)
    cluster.add_all((cluster.a, primary), (cluster.b, pair))
    link = f"default.{name}.in1.{name}-pair.in2"
    cluster.wait_until(State.LINKED, link, WAIT)
    return link


def is_refused(cluster: Cluster, tenant: str) -> bool:
    """Whether the youngest list of links of a namespace is refused, with an error that names a limit."""
    with in_namespace(cluster, tenant):
        greedy = cluster.pod("greedy", {"ratchet": "true"}, cluster.a, **{"ratchet.links": _LIST})
        try:
            answer: CniResponse = cluster.a.call("ADD", greedy)
            return answer.status != 0 and answer.json["code"] == 101 and any(one in answer.stdout for one in SETTINGS)
        finally:
            cluster.delete_all((cluster.a, greedy))


_LIST = "- {peer: x, ifname: x, peer_ifname: x}\n" + "#" * 100_000


def resident_peak(cluster: Cluster) -> float:
    """The most resident memory of node a's agent in MiB (proc_pid_status(5), VmHWM)."""
    lines = Path(f"/proc/{cluster.bed.agents['a'].pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def test_hostile_tenants_do_not_take_an_agent_over_its_memory_limit(group: MemoryGroup) -> None:
    """The agent learns of what they write while it runs, and all at once at its next start."""
    with running(PATIENT, agent={}) as cluster:
        cluster.bed.api = cluster.bed.api.patient(WAIT)  # the API server is busy
        start_in(cluster, group)
        tenants = [f"tenant-{number}" for number in range(TENANTS)]
        for number, tenant in enumerate(tenants):
            follow(cluster, tenant)
            write(cluster, number, tenant)
        links = [link_honest_pods(cluster, "early")]
        print(f"watched: {resident_peak(cluster):.0f} MiB resident, group {group.peak:.0f} MiB")
        agent = cluster.bed.agents["a"]
        agent.kill()
        agent.start()
        links.append(link_honest_pods(cluster, "late"))
        wait_for("the refusal", lambda: is_refused(cluster, "tenant-0"), WAIT)
        print(f"listed: {resident_peak(cluster):.0f} MiB resident, group {group.peak:.0f} MiB")
        assert [cluster.state(link) for link in links] == [State.LINKED] * len(links)
        assert agent.running
    assert group.oom_kills == 0


def test_records_of_links_to_other_nodes_do_not_take_an_agent_over_its_memory_limit(group: MemoryGroup) -> None:
    """Pods of other nodes declare links to pods of this node that never start. No limit of this node counts them."""
    with running(PATIENT, agent={}) as cluster:
        cluster.bed.api = cluster.bed.api.patient(WAIT)  # the API server is busy
        start_in(cluster, group)
        links = [link_honest_pods(cluster, "early")]
        for record in expected_records(RECORDS, "a"):
            cluster.bed.api.create("/api/v1/namespaces/ratchet/configmaps", record)
        links.append(link_honest_pods(cluster, "watched"))
        print(f"watched: {resident_peak(cluster):.0f} MiB resident, group {group.peak:.0f} MiB")
        agent = cluster.bed.agents["a"]
        agent.kill()
        agent.start()
        links.append(link_honest_pods(cluster, "late"))
        print(f"listed: {resident_peak(cluster):.0f} MiB resident, group {group.peak:.0f} MiB")
        assert [cluster.state(link) for link in links] == [State.LINKED] * len(links)
        assert agent.running
    assert group.oom_kills == 0
