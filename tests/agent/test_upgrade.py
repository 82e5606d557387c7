"""Upgrades and rollbacks of agents while links are up.

The earlier version comes from this project's Git history. It reads and writes only records of schema 1.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from ratchet.core.intent import wanted_links
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link, State
from ratchet.core.naming import ordered_record_name, record_name
from ratchet.core.pod import Topology
from ratchet.core.schemas import CURRENT_SCHEMA, EARLIER_SCHEMA, READ_SCHEMA
from ratchet.core.state_machine import derive
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.testbed import wait_for
from ratchet.store.store import ApiStore
from tests.support.announcing import LEASE_LIST, announce
from tests.support.cluster import PATIENT, Cluster, clean_cluster, sent_by
from tests.support.faults import Gate, Rule, answering
from tests.support.resync import pinging, records_at, touch

EARLIER = "43f50c9"  # the last commit that writes schema 1 alone
BEFORE_PANEL = "3f57fd2"  # the last commit that reads schema 2 alone
FOLDER = Path(__file__).parents[2]
HEARTBEAT = {"heartbeat": 1, "node_lost_after": 3}


def package_of(commit: str, folder: Path) -> Path:
    """The folder with the `ratchet` package of an earlier version in it."""
    known = subprocess.run(["git", "cat-file", "-e", commit], cwd=FOLDER, check=False, capture_output=True)
    if known.returncode:
        pytest.skip(f"this checkout's history does not have {commit}")
    archive = subprocess.run(["git", "archive", commit, "ratchet"], cwd=FOLDER, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_of(EARLIER, tmp_path_factory.mktemp("earlier"))


@pytest.fixture(scope="module")
def before_panel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_of(BEFORE_PANEL, tmp_path_factory.mktemp("before-panel"))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with clean_cluster(PATIENT, agent=HEARTBEAT) as made:
        yield made


def run_version(cluster: Cluster, node: Kubelet, source: Path | None, **options: object) -> None:
    """Replace the agent of a node by one that runs from `source`; None is the current version."""
    agent = cluster.bed.agents[node.host.name]
    agent.stop()
    agent.source, agent.options = source, HEARTBEAT | options
    agent.start()


def wait_until_announcements_are_read(cluster: Cluster, *schemas: int) -> None:
    """Wait until the node Leases announce these schemas, and each agent has listed them. By default both the newest."""
    expected = sorted(schemas or (READ_SCHEMA, READ_SCHEMA))
    leases = cluster.bed.store.nodes.list_leases
    wait_for("announcements", lambda: sorted(one.schema for one in leases()) == expected)
    cluster.faults.sent.clear()
    for node in (cluster.a, cluster.b):
        lists = sent_by(node, "GET", path=LEASE_LIST)
        wait_for(f"the Leases, read on {node.host.name}", lambda lists=lists: any(map(lists, cluster.faults.sent)))  # type: ignore[misc]


class Pair:
    """Two linked pods. The pod whose name sorts last declares the link, and runs on node a."""

    def __init__(self, cluster: Cluster, number: int, node: Kubelet) -> None:
        self.cluster, self.number, self.node = cluster, number, node
        self.names = (f"z{number}", f"a{number}")
        labels = {
            "ratchet": "true",
            "ratchet.primary": "true",
            "ratchet.local_ifname": "in1",
            "ratchet.local_ip": f"10.9.{number}.1",
            "ratchet.pair_name": self.names[1],
            "ratchet.pair_ifname": "in2",
            "ratchet.pair_ip": f"10.9.{number}.2",
        }
        self.primary = cluster.pod(self.names[0], labels, cluster.a)
        self.pair = cluster.pod(self.names[1], {"ratchet": "true"}, node)
        cluster.add_all((cluster.a, self.primary), (node, self.pair))
        wait_for(f"the link of {self.names[0]}", lambda: self.is_linked)

    @property
    def endpoints(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.names[0], "in1"), (self.names[1], "in2")

    @property
    def earlier_name(self) -> str:
        return ordered_record_name("default", *self.endpoints)

    @property
    def current_name(self) -> str:
        return record_name("default", *self.endpoints)

    @property
    def records(self) -> list[Link]:
        """All records of the link, by the name of either version."""
        found = (self.cluster.bed.store.links.get(name) for name in {self.earlier_name, self.current_name})
        return [record for record in found if record is not None]

    @property
    def is_linked(self) -> bool:
        return [derive(record) for record in self.records] == [State.LINKED]

    @property
    def interfaces(self) -> list[tuple[int, str]]:
        """The ifindex and the MAC address of both ends."""
        ends = ((self.primary, "in1"), (self.pair, "in2"))
        shown = (self.cluster.show(sandbox, ifname) for sandbox, ifname in ends)
        return [(one["ifindex"], one["address"]) for one in shown]

    def restart_primary(self) -> Sandbox:
        assert self.cluster.a.delete(self.primary).status == 0
        self.primary = self.cluster.sandbox(self.cluster.a, self.primary.pod)
        assert self.cluster.a.add(self.primary).status == 0
        wait_for(f"the link of {self.names[0]} again", lambda: self.is_linked)
        return self.primary

    def pinging_pair(self) -> AbstractContextManager[None]:
        """Assert that the pair answers every ping of the primary within the block."""
        return pinging(self.primary, f"10.9.{self.number}.2")


def reconcile(cluster: Cluster, pair: Pair) -> None:
    """Make the agents reconcile a link, and wait until it is linked."""
    before = [record.resource_version for record in pair.records]
    for record in pair.records:
        assert touch(cluster.bed, record.name)
    wait_for("another version", lambda: [record.resource_version for record in pair.records] != before)
    wait_for("the link", lambda: pair.is_linked)


@pytest.mark.parametrize("nodes", ["aa", "ab"])
def test_links_stay_up_while_agents_are_upgraded_and_rolled_back(cluster: Cluster, earlier: Path, nodes: str) -> None:
    node = cluster.bed.kubelets[nodes[1]]
    for one in (cluster.a, cluster.b):
        run_version(cluster, one, earlier)
    old = Pair(cluster, 1, node)
    assert [record.name for record in old.records] == [old.earlier_name]
    interfaces = old.interfaces
    with old.pinging_pair():
        # A rolling upgrade. While one agent runs the earlier version, new records have schema 1.
        run_version(cluster, cluster.a, None)
        reconcile(cluster, old)
        mixed = Pair(cluster, 2, node)
        assert [(one.name, one.schema) for one in mixed.records] == [(mixed.earlier_name, EARLIER_SCHEMA)]
        run_version(cluster, cluster.b, None)
        reconcile(cluster, old)
        wait_until_announcements_are_read(cluster)
        new = Pair(cluster, 3, node)
        assert [one.name for one in new.records] == [new.current_name]
        assert [record.name for record in old.records] == [old.earlier_name], "a live record is never renamed"
        assert old.interfaces == interfaces
    # A restarted pod finds the record of its link.
    mixed.restart_primary()
    assert [record.name for record in mixed.records] == [mixed.earlier_name]
    assert cluster.pings(mixed.primary, "10.9.2.2")
    with old.pinging_pair(), mixed.pinging_pair(), new.pinging_pair():
        kept = [pair.interfaces for pair in (old, mixed, new)]
        for one in (cluster.a, cluster.b):
            run_version(cluster, one, earlier)
        reconcile(cluster, old)
        reconcile(cluster, mixed)
        touch(cluster.bed, new.current_name)
        assert [pair.interfaces for pair in (old, mixed, new)] == kept
    old.restart_primary()
    assert cluster.pings(old.primary, "10.9.1.2")
    for one in (cluster.a, cluster.b):
        run_version(cluster, one, None)
    for pair in (old, mixed, new):
        reconcile(cluster, pair)
        assert cluster.pings(pair.primary, f"10.9.{pair.number}.2")


# Panel wiring

TOPOLOGY = "- {endpoints: [z1:in1, a1:in2], addresses: [10.9.1.1, 10.9.1.2]}"


def wiring_of_a_new_link(cluster: Cluster) -> Wiring:
    """The wiring of a new link by the announcements of the agents, where the node's default is panel."""
    (link,) = wanted_links([], topologies=[Topology("default", "new", "- endpoints: [x:in1, y:in1]")]).links
    return ApiStore(cluster.bed.api, default_wiring=Wiring.PANEL).as_recorded(link).wiring


def linked_by_topology(cluster: Cluster) -> tuple[Sandbox, Link]:
    """Link a pod of each node. Node a creates the record. Returns the sandbox of z1 and the record."""
    cluster.bed.create_topology("lab", TOPOLOGY)
    pods = [cluster.pod(name, {"ratchet": "true"}, node) for name, node in (("z1", cluster.a), ("a1", cluster.b))]
    first = cluster.start("ADD", cluster.a, pods[0])
    wait_for("the record", lambda: len(cluster.bed.links()) == 1)
    cluster.add_all((cluster.b, pods[1]))
    assert cluster.end(first).status == 0
    wait_for("the link", lambda: [derive(one) for one in cluster.bed.links().values()] == [State.LINKED])
    (record,) = cluster.bed.links().values()
    return pods[0], record


def test_no_panel_record_is_created_while_an_agent_cannot_read_it(cluster: Cluster, before_panel: Path) -> None:
    """Panel is node a's default. Node b runs a version that reads schema 2 alone, then the current one, and back."""
    run_version(cluster, cluster.b, before_panel)
    run_version(cluster, cluster.a, None, wiring="panel")
    wait_until_announcements_are_read(cluster, READ_SCHEMA, CURRENT_SCHEMA)
    sandbox, record = linked_by_topology(cluster)
    assert (record.wiring, record.schema) == (Wiring.DIRECT, CURRENT_SCHEMA)
    postponed = f"panel wiring postponed, because not all agents read its records link={record.name}"
    assert cluster.bed.agents["a"].log.read_text().count(postponed) == 1
    assert wiring_of_a_new_link(cluster) is Wiring.DIRECT
    with pinging(sandbox, "10.9.1.2"):
        run_version(cluster, cluster.b, None, wiring="panel")
        wait_until_announcements_are_read(cluster)
        assert wiring_of_a_new_link(cluster) is Wiring.PANEL
        assert touch(cluster.bed, record.name)
        wait_for("the link", lambda: [derive(one) for one in cluster.bed.links().values()] == [State.LINKED])
        run_version(cluster, cluster.b, before_panel)
        wait_until_announcements_are_read(cluster, READ_SCHEMA, CURRENT_SCHEMA)
        assert wiring_of_a_new_link(cluster) is Wiring.DIRECT
    assert [one.wiring for one in cluster.bed.links().values()] == [Wiring.DIRECT]
    assert "it needs a version that reads" not in cluster.bed.agents["b"].log.read_text()


# The switch of new records to schema 2


EARLIER_NODE = "c"


class Switch:
    """A third node, whose Lease announces schema 1 until `upgrade`. Only one of two agents learns of it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._announce(EARLIER_SCHEMA)
        self._wait_until_read(cluster.a, cluster.b)

    def upgrade(self, ahead: Kubelet, behind: Kubelet) -> None:
        """Announce schema 2. `ahead` reads it, while `behind` gets 403 for its lists until `faults.clear`."""
        lists = sent_by(behind, "GET", path=LEASE_LIST)
        self.cluster.faults.add(Rule(lists, before=answering(403, "Forbidden"), times=10**9))
        self._announce(CURRENT_SCHEMA)
        self._wait_until_read(ahead)

    def wait_until_all_know(self) -> None:
        self.cluster.faults.clear()
        self._wait_until_read(self.cluster.a, self.cluster.b)

    def _announce(self, schema: int) -> None:
        announce(self.cluster.bed.store, EARLIER_NODE, schema)

    def _wait_until_read(self, *nodes: Kubelet) -> None:
        """Wait until each node lists the Leases from now on and sends a heartbeat after that."""
        start = len(self.cluster.faults.sent)

        def has_read(node: Kubelet) -> bool:
            lists, renews = sent_by(node, "GET", path=LEASE_LIST), sent_by(node, "PATCH", path="/leases/node-")
            sent = self.cluster.faults.sent[start:]
            listed = next((index for index, one in enumerate(sent) if lists(one) and one.status == 200), len(sent))
            return any(map(renews, sent[listed:]))

        wait_for("a read of the Leases", lambda: all(map(has_read, nodes)))


@pytest.mark.parametrize("earlier_records", [True, False], ids=["earlier records", "no earlier records"])
@pytest.mark.parametrize("ahead", ["a", "b"], ids=["primary ahead", "pair ahead"])
def test_two_nodes_that_create_records_of_both_schemas_end_with_one_record(
    cluster: Cluster, ahead: str, earlier_records: bool
) -> None:
    """Only node `ahead` knows that all agents read schema 2, and both nodes create a record of the link."""
    switch = Switch(cluster)
    if earlier_records:
        Pair(cluster, 1, cluster.b)
    nodes = (cluster.a, cluster.b)
    switch.upgrade(*(nodes if ahead == "a" else nodes[::-1]))
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    start = len(cluster.faults.sent)
    gates = [Gate(), Gate()]
    for node, gate in zip(nodes, gates, strict=True):
        cluster.faults.add(Rule(sent_by(node, "POST", path="/configmaps"), before=gate))
    calls = [cluster.start("ADD", cluster.a, primary), cluster.start("ADD", cluster.b, pair)]
    for gate in gates:  # both nodes decide to create a record before one exists
        assert gate.reached.wait(10)
    for gate in gates:
        gate.opened.set()
    assert [cluster.end(call).status for call in calls] == [0, 0]
    created = [one for one in cluster.faults.sent[start:] if one.method == "POST" and "/configmaps" in one.path]
    assert {(one.remote, one.status) for one in created} == {(node.host.address, 201) for node in nodes}
    switch.wait_until_all_know()
    assert_one_record(cluster, primary)


@pytest.mark.parametrize("ahead", ["a", "b"], ids=["primary ahead", "pair ahead"])
def test_a_node_that_writes_schema_2_finds_a_record_of_schema_1(cluster: Cluster, ahead: str) -> None:
    """Node `ahead` switched to schema 2 when there was no record of schema 1."""
    switch = Switch(cluster)
    nodes = (cluster.a, cluster.b)
    switch.upgrade(*(nodes if ahead == "a" else nodes[::-1]))
    pods = [(cluster.a, cluster.primary(cluster.a)), (cluster.b, cluster.pair(cluster.b))]
    for node, sandbox in pods[::-1] if ahead == "a" else pods:
        assert node.add(sandbox).status == 0
    assert_one_record(cluster, pods[0][1])


def assert_one_record(cluster: Cluster, primary: Sandbox) -> None:
    """Assert that the primary's link gets a single, linked record, and that no link has a second VNI."""
    wait_for("one record, linked", lambda: states_of(cluster, primary) == [State.LINKED])
    assert len(cluster.bed.store.vnis.list()) == len(cluster.bed.links())
    assert cluster.pings(primary, "192.168.2.101")


def states_of(cluster: Cluster, primary: Sandbox) -> list[State]:
    """The states of all records of the primary's link, whatever their names."""
    return [derive(record) for record in records_at(cluster.bed, primary.pod.name, "in1")]
