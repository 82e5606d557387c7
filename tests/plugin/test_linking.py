"""ADD and DEL of the installed plugin, with two and more pods, real network namespaces and real pings."""

from __future__ import annotations

import json
import random

import pytest

from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from tests.support.cluster import CHAINED, LINK, PAIR, PRIMARY, Cluster
from tests.support.runtimes import containerd_pod_ips, crio_pod_ips


@pytest.mark.executed
def test_pods_on_two_nodes_are_linked_by_a_vxlan(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    shown = cluster.show(primary, "in1")
    tunnel = shown["linkinfo"]["info_data"]
    assert (shown["mtu"], shown["linkinfo"]["info_kind"], tunnel["id"], tunnel["port"]) == (1450, "vxlan", 11, 4789)
    assert (tunnel["remote"], tunnel["local"]) == ("192.168.1.33", "192.168.1.73")
    assert cluster.pings(primary, "192.168.2.101")
    assert cluster.pings(pair, "192.168.2.100")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


@pytest.mark.executed
def test_pods_on_one_node_are_linked_by_a_veth(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair(cluster.a)
    for sandbox, ifname, address in ((primary, "in1", "192.168.2.100"), (pair, "in2", "192.168.2.101")):
        shown = cluster.show(sandbox, ifname)
        assert shown["linkinfo"]["info_kind"] == "veth"
        assert shown["mtu"] == 1500
        assert {"LOWER_UP", "UP"} <= set(shown["flags"])
        inet = next(one for one in shown["addr_info"] if one["family"] == "inet")
        assert (inet["local"], inet["prefixlen"]) == (address, 24)
    assert cluster.pings(primary, "192.168.2.101")
    assert cluster.bed.store.vnis.list() == []
    cluster.delete_all((cluster.a, primary), (cluster.a, pair))
    cluster.assert_nothing_left()


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_interface_names_that_differ_in_case_are_two_links(cluster: Cluster, node_of_pair: str) -> None:
    node = cluster.bed.kubelets[node_of_pair]
    links = [
        {
            "peer": "pair-pod",
            "ifname": ifname,
            "peer_ifname": ifname,
            "addresses": [f"10.9.{number}.1/24", f"10.9.{number}.2/24"],
        }
        for number, ifname in enumerate(("Gi0-0-0-0", "gi0-0-0-0"))
    ]
    declared = {"ratchet.links": json.dumps(links)}
    primary = cluster.pod("primary-pod", {"ratchet": "true"}, cluster.a, **declared)
    pair = cluster.pod("pair-pod", PAIR, node)
    cluster.add_all((cluster.a, primary), (node, pair))
    for link in cluster.bed.links():
        cluster.wait_until(State.LINKED, link)
    assert len(cluster.bed.links()) == 2
    assert set(cluster.interfaces(primary)) >= {"Gi0-0-0-0", "gi0-0-0-0"}
    for address in ("10.9.0.2", "10.9.1.2"):
        assert cluster.pings(primary, address)
    cluster.delete_all((cluster.a, primary), (node, pair))
    cluster.assert_nothing_left()


@pytest.mark.executed
@pytest.mark.parametrize("first", ["primary", "pair"])
def test_pods_are_linked_in_either_start_order(cluster: Cluster, first: str) -> None:
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    early, late = ((cluster.a, primary), (cluster.b, pair))[:: 1 if first == "primary" else -1]
    waiting = cluster.start("ADD", *early)
    cluster.wait_until(State.PRIMARY_READY if first == "primary" else State.PENDING)
    assert waiting.poll() is None
    assert late[0].add(late[1]).status == 0
    assert cluster.end(waiting).status == 0
    cluster.wait_until(State.LINKED)
    record = cluster.bed.links()[LINK]
    states = [step.target for step in record.history]
    assert states[-3:] == [State.PRIMARY_READY, State.PAIR_READY, State.LINKED]


@pytest.mark.parametrize(("node_of_pair", "most"), [("a", {"PATCH": 1, "POST": 1}), ("b", {"PATCH": 2, "POST": 2})])
def test_a_link_costs_few_writes(cluster: Cluster, node_of_pair: str, most: dict[str, int]) -> None:
    """Count the writes: 2 for a vEth, 3 and one Lease for a VXLAN."""
    node = cluster.a if node_of_pair == "a" else cluster.b
    primary, pair = cluster.primary(cluster.a), cluster.pair(node)
    waiting = cluster.start("ADD", cluster.a, primary)
    cluster.wait_until(State.PRIMARY_READY)
    assert node.add(pair).status == 0
    assert cluster.end(waiting).status == 0
    cluster.wait_until(State.LINKED)
    methods = [sent.method for sent in cluster.writes()]
    assert {method: methods.count(method) for method in set(methods)} == most


def test_a_waiting_add_sends_few_requests(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    answer = cluster.a.add(primary, config={**CHAINED, "wait": 5})
    assert answer.json["code"] == 11
    sent = cluster.faults.of(cluster.a.host.address)
    assert sum("watch=1" in one.path for one in sent) <= 6
    assert len(sent) <= 25


def test_the_add_result_has_the_link_interface_and_only_the_ips_and_routes_of_the_previous_result(
    cluster: Cluster,
) -> None:
    eth0 = {"name": "eth0", "sandbox": "/run/netns/x"}
    previous = {
        "cniVersion": "1.0.0",
        "interfaces": [eth0],
        "ips": [{"address": "10.1.0.5/16", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
    }
    link = {
        "peer": "pair-pod",
        "ifname": "in1",
        "peer_ifname": "in2",
        "addresses": [["192.168.2.100/24", "fd00:9::1/64"], ["192.168.2.101/24", "fd00:9::2/64"]],
        "routes": [{"to": "10.50.0.0/16"}, None],
    }
    primary = cluster.pod("primary-pod", {"ratchet": "true"}, cluster.a, **{"ratchet.links": json.dumps([link])})
    pair = cluster.pod("pair-pod", {"ratchet": "true"}, cluster.b)
    waiting = cluster.start("ADD", cluster.b, pair)
    result = cluster.a.add(primary, config={**CHAINED, "prevResult": previous}).json
    assert cluster.end(waiting).status == 0
    assert [one["name"] for one in result["interfaces"]] == ["eth0", "in1"]
    assert result["interfaces"][1]["sandbox"] == primary.path
    assert result["interfaces"][1]["mac"] == cluster.show(primary, "in1")["address"]
    assert (result["ips"], result["routes"]) == (previous["ips"], previous["routes"])
    assert containerd_pod_ips(result) == crio_pod_ips(result) == ["10.1.0.5"]


def test_a_pod_with_ratchet_false_gets_the_previous_result(cluster: Cluster) -> None:
    previous = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/16"}], "dns": {"nameservers": ["10.0.0.1"]}}
    plain = cluster.pod("plain", {"ratchet": "false"}, cluster.a)
    assert cluster.a.add(plain, config={**CHAINED, "prevResult": previous}).json == previous
    assert cluster.interfaces(plain) == []
    assert cluster.a.delete(plain).status == 0
    cluster.assert_nothing_left()


def test_a_link_has_ipv4_and_ipv6_addresses_with_prefixes(cluster: Cluster) -> None:
    annotations = {"ratchet.local_ip": "10.4.4.0/31,fd00:9::1/126", "ratchet.pair_ip": "10.4.4.1/31,fd00:9::2/126"}
    primary = cluster.pod("primary-pod", PRIMARY, cluster.a, **annotations)
    pair = cluster.pair(cluster.b)
    cluster.add_all((cluster.a, primary), (cluster.b, pair))
    assert cluster.pings(primary, "fd00:9::2")
    assert cluster.pings(primary, "10.4.4.1")
    shown = {(one["local"], one["prefixlen"]) for one in cluster.show(primary, "in1")["addr_info"]}
    assert {("10.4.4.0", 31), ("fd00:9::1", 126)} <= shown


def test_a_labelled_pod_without_declarations_starts_at_once(cluster: Cluster) -> None:
    alone = cluster.pod("alone", {"ratchet": "true"}, cluster.a)
    assert cluster.a.add(alone).status == 0
    assert cluster.interfaces(alone) == []


def test_add_is_code_11_for_an_unscheduled_pod(cluster: Cluster) -> None:
    """Add a pod that has no node in the API. No node would find a record without a node."""
    unbound = cluster.sandbox(cluster.a, cluster.bed.create_pod("primary-pod", PRIMARY))
    answer = cluster.a.add(unbound)
    assert answer.json["code"] == 11
    assert "on no node" in answer.error
    cluster.assert_nothing_left()


@pytest.mark.timeout(600)
def test_a_ring_of_twenty_pods_is_linked_twice(cluster: Cluster) -> None:
    """Link each pod with two others, once as primary and once as pair. All start at once in random order."""
    nodes = [cluster.a, cluster.b]
    for _ in range(2):
        members: list[tuple[Kubelet, Sandbox]] = []
        for number in range(20):
            labels = {
                "ratchet": "true",
                "ratchet.primary": "true",
                "ratchet.local_ifname": "right",
                "ratchet.local_ip": f"10.77.{number}.1",
                "ratchet.pair_name": f"r{(number + 1) % 20}",
                "ratchet.pair_ifname": "left",
                "ratchet.pair_ip": f"10.77.{number}.2",
            }
            node = random.choice(nodes)
            members.append((node, cluster.pod(f"r{number}", labels, node)))
        cluster.add_all(*members)
        links = cluster.bed.links()
        assert len(links) == 20
        for name in links:
            cluster.wait_until(State.LINKED, name)
        vnis = [link.vni for link in links.values() if link.vni is not None]
        assert len(vnis) == len(set(vnis)) == len(cluster.bed.store.vnis.list())
        for number, (_, sandbox) in enumerate(members):
            assert cluster.pings(sandbox, f"10.77.{number}.2")
        cluster.delete_all(*members)
        cluster.assert_nothing_left()


def test_a_veth_is_restored_when_its_pair_is_recreated(cluster: Cluster) -> None:
    """Delete the pair and recreate it with a new UID on the same node. Its ADD creates both ends again."""
    primary, pair = cluster.linked_pair(cluster.a)
    assert cluster.a.delete(pair).status == 0
    cluster.wait_until(State.PRIMARY_READY)
    assert cluster.interfaces(primary) == []
    cluster.bed.delete_pod(pair.pod)
    again = cluster.pair(cluster.a)
    assert cluster.a.add(again).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(primary, "192.168.2.101")
    cluster.delete_all((cluster.a, primary), (cluster.a, again))
    cluster.assert_nothing_left()


def test_the_two_ends_of_a_veth_have_different_ifindexes(cluster: Cluster) -> None:
    """Also of two new pods. With one ifindex at both ends, the kernel reports a loss of carrier late."""
    primary, pair = cluster.linked_pair(cluster.a)
    for sandbox, ifname in ((primary, "in1"), (pair, "in2")):
        shown = cluster.show(sandbox, ifname)
        assert shown["ifindex"] != shown["link_index"]


def test_a_pair_recreated_on_its_node_keeps_the_tunnel_and_the_mac_address(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    index = cluster.show(primary, "in1")["ifindex"]
    assert cluster.pings(primary, "192.168.2.101")
    mac = cluster.show(pair, "in2")["address"]
    assert cluster.b.delete(pair).status == 0
    cluster.bed.delete_pod(pair.pod)
    again = cluster.pair(cluster.b)
    assert cluster.b.add(again).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.show(primary, "in1")["ifindex"] == index
    assert cluster.show(again, "in2")["address"] == mac, "the peer remembers it for a minute"
    assert cluster.pings(primary, "192.168.2.101")


@pytest.mark.agent(vni_range="11-11")
def test_vnis_are_reused(cluster: Cluster) -> None:
    for _ in range(2):
        primary, pair = cluster.linked_pair()
        assert cluster.bed.links()[LINK].vni == 11
        cluster.delete_all((cluster.a, primary), (cluster.b, pair))


@pytest.mark.agent(vni_range="11-11")
def test_add_is_code_11_if_the_vni_range_is_exhausted(cluster: Cluster) -> None:
    small = {**CHAINED, "vni_range": [11, 11], "wait": 3}
    primary, pair = cluster.linked_pair()
    other = cluster.pod("other", {**PRIMARY, "ratchet.pair_name": "other-pair"}, cluster.a)
    other_pair = cluster.pod("other-pair", PAIR, cluster.b)
    waiting = cluster.start("ADD", cluster.a, other, config=small)
    cluster.wait_until(State.PRIMARY_READY, "default.other.in1.other-pair.in2")
    answer = cluster.b.add(other_pair, config=small)
    assert answer.json["code"] == 11
    assert "all 1 of [11, 11] are in use" in answer.error
    assert cluster.end(waiting).json["code"] == 11
    for node, sandbox in ((cluster.a, primary), (cluster.b, pair), (cluster.a, other), (cluster.b, other_pair)):
        assert node.delete(sandbox).status == 0
    cluster.assert_nothing_left()


def test_the_record_has_labels_for_state_kind_and_vni(cluster: Cluster) -> None:
    cluster.linked_pair()
    record = cluster.bed.api.get(f"/api/v1/namespaces/ratchet/configmaps/{LINK}")
    labels, (lease,) = record["metadata"]["labels"], cluster.bed.store.vnis.list()
    assert (labels["ratchet.state"], labels["ratchet.kind"]) == ("linked", "vxlan")
    assert labels["ratchet.vni"] == str(lease.vni)
    assert json.dumps(record["data"]).count("192.168.1.73") >= 1
