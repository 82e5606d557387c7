"""Links that agents complete or restore: the peer starts late, is deleted, or moves to another node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest

from ratchet.core.kinds import Wiring
from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.support.cluster import LINK, PAIR, PATIENT, PRIMARY, Cluster, recreated, running
from tests.support.wired import tunnels_of


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running(PATIENT, agent={}) as made:
        yield made


def has_carrier(cluster: Cluster, sandbox: Sandbox, ifname: str) -> bool:
    return "NO-CARRIER" not in cluster.show(sandbox, ifname)["flags"]


def delete_pods(cluster: Cluster, *pairs: tuple[Kubelet, Sandbox]) -> None:
    """Call DEL, delete the pods, and check that nothing is left."""
    cluster.delete_all(*pairs)
    cluster.assert_nothing_left()


@pytest.mark.parametrize(("first", "alone"), [("primary", State.PRIMARY_READY), ("pair", None)])
def test_a_link_is_completed_when_the_other_pod_comes_late(cluster: Cluster, first: str, alone: State | None) -> None:
    """A pair that starts alone has no record, because no pod declares the link yet."""
    ours, theirs = (cluster.a, cluster.primary), (cluster.b, cluster.pair)
    (early_node, early), (late_node, late) = (ours, theirs) if first == "primary" else (theirs, ours)
    one = early(early_node)
    assert early_node.add(one).status == 0
    assert cluster.state() is alone
    other = late(late_node)
    assert late_node.add(other).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(other, "192.168.2.101" if first == "pair" else "192.168.2.100")
    delete_pods(cluster, (early_node, one), (late_node, other))


def test_agents_clean_up_pods_that_were_deleted_while_no_agent_ran(cluster: Cluster) -> None:
    """Ratchet was uninstalled with its records, and is installed again."""
    primary, pair = cluster.linked_pair()
    for agent in cluster.bed.agents.values():
        agent.stop()
    for sandbox in (primary, pair):
        cluster.bed.hosts.remove_namespace(sandbox.netns)
        cluster.bed.delete_pod(sandbox.pod)
    store = cluster.bed.store
    record = cluster.bed.links()[LINK]
    store.links.delete(record)
    for lease in store.vnis.list():
        store.vnis.delete(lease)
    for agent in cluster.bed.agents.values():
        agent.start()
    cluster.assert_nothing_left()


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_both_pods_of_a_link_get_the_event_linked(cluster: Cluster, node_of_pair: str) -> None:
    node = cluster.a if node_of_pair == "a" else cluster.b
    primary, pair = cluster.linked_pair(node)
    wait_for("an event on each", lambda: cluster.pods_with_event("Linked") == {primary.pod.uid, pair.pod.uid})
    delete_pods(cluster, (cluster.a, primary), (node, pair))


def test_an_end_has_carrier_only_while_its_peer_exists(cluster: Cluster) -> None:
    """The interface itself stays: it keeps its ifindex, its MAC address and its IP addresses."""
    primary, pair = cluster.linked_pair()
    wait_for("carrier", lambda: has_carrier(cluster, primary, "in1"))
    before = cluster.identity(primary, "in1")
    assert cluster.b.delete(pair).status == 0
    wait_for("the loss of carrier", lambda: not has_carrier(cluster, primary, "in1"))
    assert cluster.identity(primary, "in1") == before
    again = recreated(cluster, pair, PAIR, cluster.b)
    assert cluster.b.add(again).status == 0
    cluster.wait_until(State.LINKED)
    wait_for("carrier", lambda: has_carrier(cluster, primary, "in1"))
    assert cluster.identity(primary, "in1") == before
    wait_for("a ping", lambda: cluster.pings(primary, "192.168.2.101"))
    delete_pods(cluster, (cluster.a, primary), (cluster.b, again))


def test_a_vxlan_becomes_a_veth_when_the_peer_moves_to_the_same_node(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    assert cluster.b.delete(pair).status == 0
    moved = recreated(cluster, pair, PAIR, cluster.a)
    assert cluster.a.add(moved).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.show(primary, "in1")["linkinfo"]["info_kind"] == "veth"
    wait_for("a ping", lambda: cluster.pings(primary, "192.168.2.101"))
    delete_pods(cluster, (cluster.a, primary), (cluster.a, moved))


def test_fault_28_links_stay_up_and_del_is_spooled_while_the_agent_is_down(cluster: Cluster) -> None:
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
    delete_pods(cluster, (cluster.b, pair))
    assert LINK not in cluster.bed.links()


def test_a_topology_links_pods_that_started_before_it(cluster: Cluster) -> None:
    """Pods and a topology of one `kubectl apply` may be created and started in any order."""
    placed = [
        (node, cluster.pod(name, {"ratchet": "true"}, node)) for name, node in (("a", cluster.a), ("b", cluster.b))
    ]
    cluster.add_all(*placed)
    assert cluster.bed.links() == {}
    addresses = '["10.0.1.1/24", "10.0.1.2/24"]'
    cluster.bed.create_topology("lab", f'- {{endpoints: ["a:in1", "b:in2"], addresses: {addresses}}}')
    cluster.wait_until(State.LINKED, "default.a.in1.b.in2")
    wait_for("a ping", lambda: cluster.pings(placed[0][1], "10.0.1.2"))
    delete_pods(cluster, *placed)


def test_two_running_replicas_with_one_name_get_an_event(cluster: Cluster) -> None:
    """Neither asks for a peer with `ratchet.primary`, so both start."""
    labels = {"ratchet": "true", "ratchet.pod_name": "pair-pod"}
    replicas = [cluster.pod(f"replica-{number}", labels, cluster.b) for number in (1, 2)]
    primary = cluster.primary(cluster.a)
    for one in replicas:
        path = f"{cluster.bed.pods_path}/{one.pod.name}/status"
        cluster.bed.api.patch(path, {"status": {"phase": "Running"}})
    cluster.add_all((cluster.a, primary), *((cluster.b, one) for one in replicas))
    cluster.wait_until(State.LINKED)
    assert sorted(map(len, map(cluster.interfaces, replicas))) == [0, 1], "only one has the link"
    wait_for("an Event on both", lambda: cluster.pods_with_event("NameTaken") == {one.pod.uid for one in replicas})
    delete_pods(cluster, (cluster.a, primary), *((cluster.b, one) for one in replicas))


def test_an_edited_link_wants_a_restart_and_changes_at_the_restart(cluster: Cluster) -> None:
    name, text = "default.a.in1.b.in2", '- {{endpoints: ["a:in1", "b:in2"], mtu: {}, on_edit: restart}}'
    cluster.bed.create_topology("lab", text.format(1400))
    asks = {"ratchet": "true"}
    a, b = (cluster.pod(one, asks, node) for one, node in (("a", cluster.a), ("b", cluster.b)))
    cluster.add_all((cluster.a, a), (cluster.b, b))
    cluster.wait_until(State.LINKED, name)
    cluster.bed.edit_topology("lab", text.format(1300))
    wait_for("an event", lambda: cluster.pods_with_event("WantsRestart") == {a.pod.uid})
    assert cluster.show(a, "in1")["mtu"] == cluster.show(b, "in2")["mtu"] == 1400
    assert cluster.a.delete(a).status == 0
    again = recreated(cluster, a, asks, cluster.a)
    assert cluster.a.add(again).status == 0
    cluster.wait_until(State.LINKED, name)
    wait_for("the new MTU", lambda: [cluster.show(*one)["mtu"] for one in ((again, "in1"), (b, "in2"))] == [1300, 1300])
    assert cluster.bed.links()[name].observed_generation == 2
    delete_pods(cluster, (cluster.a, again), (cluster.b, b))


def test_an_mtu_above_that_of_the_tunnel_is_an_invalid_intent_event_of_its_pod(cluster: Cluster) -> None:
    """In direct wiring. A tunnel in panel wiring sends such packets in fragments."""
    cluster.bed.create_topology("lab", "- {endpoints: [a:in1, b:in2], mtu: [1451, null], wiring: direct}")
    a, b = (cluster.pod(name, {"ratchet": "true"}, node) for name, node in (("a", cluster.a), ("b", cluster.b)))
    assert cluster.a.add(a).status == 0
    assert cluster.b.add(b).status == 0
    wait_for("an event", lambda: a.pod.uid in cluster.pods_with_event("InvalidIntent"))
    assert b.pod.uid not in cluster.pods_with_event("InvalidIntent"), "its own end is as it should be"
    delete_pods(cluster, (cluster.a, a), (cluster.b, b))


def has_interface(cluster: Cluster, sandbox: Sandbox, ifname: str) -> bool:
    return ifname in cluster.interfaces(sandbox)


@pytest.fixture
def with_many_ports() -> Iterator[Cluster]:
    with running(PATIENT, agent={"vxlan_ports": "4789-5010"}) as made:
        yield made


@pytest.mark.parametrize("wiring", Wiring)
def test_a_tunnel_keeps_its_port_after_the_range_has_become_smaller(with_many_ports: Cluster, wiring: Wiring) -> None:
    """Also an end that somebody removes is created again on that port. A new sandbox is rejected."""
    cluster = with_many_ports
    link = {"peer": "pair-pod", "ifname": "in1", "peer_ifname": "in2", "vxlan_port": 5005, "wiring": wiring}
    asks = {"ratchet": "true"}
    hub = cluster.pod("primary-pod", asks, cluster.a, **{"ratchet.links": json.dumps([link])})
    pair = cluster.pod("pair-pod", asks, cluster.b)
    cluster.add_all((cluster.a, hub), (cluster.b, pair))
    cluster.wait_until(State.LINKED)
    ends = ((cluster.a, hub, "in1"), (cluster.b, pair, "in2"))
    for node, sandbox, ifname in ends:
        agent = cluster.bed.agents[node.host.name]
        agent.stop()
        agent.options = {}
        ip("-n", sandbox.netns, "link", "del", ifname)
        agent.start()
    for node, sandbox, ifname in ends:
        wait_for(f"{ifname}, created again", partial(has_interface, cluster, sandbox, ifname))
        assert [one["port"] for one in tunnels_of(cluster, node, [(sandbox, ifname)])] == [5005]
    assert cluster.state() is State.LINKED
    assert cluster.b.delete(pair).status == 0
    again = recreated(cluster, pair, asks, cluster.b)
    refused = cluster.b.add(again)
    assert (refused.json["code"], refused.error) == (
        101,
        "cannot link pod default/pair-pod: vxlan_port: 5005 is not in vxlan_ports, 4789-4799",
    )
    delete_pods(cluster, (cluster.a, hub), (cluster.b, again))
