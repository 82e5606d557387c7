"""What only somebody who stays can do: links whose peer comes late, goes, and comes again elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.testbed import wait_for
from tests.support.cluster import LINK, PAIR, PATIENT, PRIMARY, Cluster, recreated, running


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running(PATIENT, agent={}) as made:
        yield made


def has_carrier(cluster: Cluster, sandbox: Sandbox, ifname: str) -> bool:
    return "NO-CARRIER" not in cluster.show(sandbox, ifname)["flags"]


def end(cluster: Cluster, *pairs: tuple[Kubelet, Sandbox]) -> None:
    """The pods go, and nothing of them is left."""
    cluster.delete_all(*pairs)
    cluster.assert_nothing_left()


@pytest.mark.parametrize(("first", "alone"), [("primary", State.PRIMARY_READY), ("pair", None)])
def test_a_link_is_completed_when_the_other_pod_comes_late(cluster: Cluster, first: str, alone: State | None) -> None:
    """A pair that is up alone has no link that it could have joined, until a pod names it."""
    ours, theirs = (cluster.a, cluster.primary), (cluster.b, cluster.pair)
    (early_node, early), (late_node, late) = (ours, theirs) if first == "primary" else (theirs, ours)
    one = early(early_node)
    assert early_node.add(one).status == 0
    assert cluster.state() is alone
    other = late(late_node)
    assert late_node.add(other).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(other, "192.168.2.101" if first == "pair" else "192.168.2.100")
    end(cluster, (early_node, one), (late_node, other))


def test_pods_that_went_while_nobody_called_the_plugin_are_forgotten(cluster: Cluster) -> None:
    """Ratchet was uninstalled, its records with it, and is installed again."""
    primary, pair = cluster.linked_pair()
    for agent in cluster.bed.agents.values():
        agent.stop()
    for sandbox in (primary, pair):
        cluster.bed.hosts.remove_namespace(sandbox.netns)
        cluster.bed.delete_pod(sandbox.pod)
    records = cluster.bed.records
    record = cluster.bed.links()[LINK]
    records.links.delete(record)
    for lease in records.vnis.list():
        records.vnis.delete(lease)
    for agent in cluster.bed.agents.values():
        agent.start()
    cluster.assert_nothing_left()


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_both_pods_are_told_of_their_link(cluster: Cluster, node_of_pair: str) -> None:
    node = cluster.a if node_of_pair == "a" else cluster.b
    primary, pair = cluster.linked_pair(node)
    wait_for("an event on each", lambda: cluster.told("Linked") == {primary.pod.uid, pair.pod.uid})
    end(cluster, (cluster.a, primary), (node, pair))


def test_an_end_loses_its_carrier_with_its_peer_and_has_it_again_with_the_next(cluster: Cluster) -> None:
    """The interface itself stays: index, MAC and addresses are what they were."""
    primary, pair = cluster.linked_pair()
    wait_for("carrier", lambda: has_carrier(cluster, primary, "in1"))
    before = cluster.show(primary, "in1")
    assert cluster.b.delete(pair).status == 0
    wait_for("the loss of carrier", lambda: not has_carrier(cluster, primary, "in1"))
    again = recreated(cluster, pair, PAIR, cluster.b)
    assert cluster.b.add(again).status == 0
    cluster.wait_until(State.LINKED)
    wait_for("carrier", lambda: has_carrier(cluster, primary, "in1"))
    after = cluster.show(primary, "in1")
    assert [after[key] for key in ("ifindex", "address")] == [before[key] for key in ("ifindex", "address")]
    wait_for("a ping", lambda: cluster.pings(primary, "192.168.2.101"))
    end(cluster, (cluster.a, primary), (cluster.b, again))


def test_a_link_follows_a_pod_that_comes_again_on_the_other_node(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    assert cluster.b.delete(pair).status == 0
    moved = recreated(cluster, pair, PAIR, cluster.a)
    assert cluster.a.add(moved).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.show(primary, "in1")["linkinfo"]["info_kind"] == "veth"
    wait_for("a ping", lambda: cluster.pings(primary, "192.168.2.101"))
    end(cluster, (cluster.a, primary), (cluster.a, moved))


def test_fault_28_a_del_that_no_agent_hears_is_done_by_the_next_and_links_stay_up_meanwhile(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    for sandbox, ifname in ((primary, "in1"), (pair, "in2")):
        wait_for("carrier", lambda one=sandbox, at=ifname: has_carrier(cluster, one, at))  # type: ignore[misc]
    cluster.bed.agents["a"].kill()
    assert cluster.pings(primary, "192.168.2.101")
    down = cluster.a.call("ADD", cluster.pod("late", PRIMARY | {"ratchet.local_ifname": "in9"}, cluster.a))
    assert down.json["code"] == 11
    assert cluster.a.call("DEL", primary).status == 0
    assert cluster.state() is State.LINKED
    cluster.bed.agents["a"].start()
    wait_for("the DEL", lambda: cluster.state() is State.PENDING)
    assert cluster.interfaces(primary) == []
    cluster.bed.hosts.remove_namespace(primary.netns)
    end(cluster, (cluster.b, pair))
    assert LINK not in cluster.bed.links()


def test_a_topology_that_comes_after_its_pods_links_them(cluster: Cluster) -> None:
    """One apply makes them all, in whatever order the API server and the nodes come to them."""
    placed = [
        (node, cluster.pod(name, {"ratchet": "true"}, node)) for name, node in (("a", cluster.a), ("b", cluster.b))
    ]
    cluster.add_all(*placed)
    assert cluster.bed.links() == {}
    addresses = '["10.0.1.1/24", "10.0.1.2/24"]'
    cluster.bed.create_topology("lab", f'- {{endpoints: ["a:in1", "b:in2"], addresses: {addresses}}}')
    cluster.wait_until(State.LINKED, "default.a.in1.b.in2")
    wait_for("a ping", lambda: cluster.pings(placed[0][1], "10.0.1.2"))
    end(cluster, *placed)


def test_what_is_edited_of_a_running_pods_link_is_told_and_holds_from_its_next_start(cluster: Cluster) -> None:
    name, text = "default.a.in1.b.in2", '- {{endpoints: ["a:in1", "b:in2"], mtu: {}}}'
    cluster.bed.create_topology("lab", text.format(1400))
    asks = {"ratchet": "true"}
    a, b = (cluster.pod(one, asks, node) for one, node in (("a", cluster.a), ("b", cluster.b)))
    cluster.add_all((cluster.a, a), (cluster.b, b))
    cluster.wait_until(State.LINKED, name)
    cluster.bed.edit_topology("lab", text.format(1300))
    wait_for("an event", lambda: cluster.told("WantsRestart") == {a.pod.uid})
    assert cluster.show(a, "in1")["mtu"] == cluster.show(b, "in2")["mtu"] == 1400
    assert cluster.a.delete(a).status == 0
    again = recreated(cluster, a, asks, cluster.a)
    assert cluster.a.add(again).status == 0
    cluster.wait_until(State.LINKED, name)
    wait_for("the new MTU", lambda: [cluster.show(*one)["mtu"] for one in ((again, "in1"), (b, "in2"))] == [1300, 1300])
    assert cluster.bed.links()[name].observed_generation == 2
    end(cluster, (cluster.a, again), (cluster.b, b))


def test_what_turns_out_to_be_impossible_once_the_peer_is_there_is_told_at_the_pod(cluster: Cluster) -> None:
    cluster.bed.create_topology("lab", "- {endpoints: [a:in1, b:in2], mtu: [1451, null]}")
    a, b = (cluster.pod(name, {"ratchet": "true"}, node) for name, node in (("a", cluster.a), ("b", cluster.b)))
    assert cluster.a.add(a).status == 0
    assert cluster.b.add(b).status == 0
    wait_for("an event", lambda: a.pod.uid in cluster.told("InvalidIntent"))
    assert b.pod.uid not in cluster.told("InvalidIntent"), "its own end is as it should be"
    end(cluster, (cluster.a, a), (cluster.b, b))
