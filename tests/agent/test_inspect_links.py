"""The agent's page `/links/<UID of the record>`, which shows the ends of a link on the node."""

from __future__ import annotations

import json
from typing import Any

from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Kubelet
from ratchet.dev.hosts import ip, netns_path, run_in
from tests.agent.pages import page
from tests.support.cluster import LINK, Cluster

Json = dict[str, Any]


def uid_of(cluster: Cluster) -> str:
    record = cluster.bed.store.links.get(LINK)
    assert record is not None
    return record.uid


def shown(cluster: Cluster, node: Kubelet) -> Json:
    status, text = page(node, f"/links/{uid_of(cluster)}")
    assert status == 200, text
    return dict(json.loads(text))


def test_each_agent_shows_its_end_of_a_vxlan_with_packet_counts(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    assert cluster.pings(primary, "192.168.2.101")
    for node, sandbox, side, ifname in ((cluster.a, primary, "primary", "in1"), (cluster.b, pair, "pair", "in2")):
        answer = shown(cluster, node)
        assert (answer["link"], answer["node"]) == (LINK, node.host.name)
        ((its_side, end),) = answer["ends"].items()
        assert (its_side, end["fault"], end["differences"]) == (side, "", [])
        device, seen = end["device"], cluster.show(sandbox, ifname)
        assert (device["ifname"], device["kind"], device["up"]) == (ifname, "vxlan", True)
        assert (device["mtu"], device["mac"]) == (seen["mtu"], seen["address"])
        assert end["live"]["carrier"]
        assert min(end["live"][way]["packets"] for way in ("rx", "tx")) > 0


def test_an_end_shows_its_txqlen_sysctls_and_routes(cluster: Cluster) -> None:
    sysctl = "net.ipv4.conf.IFNAME.rp_filter"
    link = {
        "peer": "pair-pod",
        "ifname": "in1",
        "peer_ifname": "in2",
        "addresses": ["192.168.2.100/24", "192.168.2.101/24"],
        "txqlen": 500,
        "sysctls": {sysctl: 2},
        "routes": [[{"to": "10.0.0.0/8", "via": "192.168.2.101"}], None],
    }
    primary = cluster.pod("primary-pod", {"ratchet": "true"}, cluster.a, **{"ratchet.links": json.dumps([link])})
    pair = cluster.pod("pair-pod", {"ratchet": "true"}, cluster.b)
    cluster.add_all((cluster.a, primary), (cluster.b, pair))
    cluster.wait_until(State.LINKED)
    assert cluster.pings(primary, "192.168.2.101")  # a tunnel gets its carrier after the record is linked
    (end,) = shown(cluster, cluster.a)["ends"].values()
    assert (end["fault"], end["differences"]) == ("", [])
    assert (end["device"]["txqlen"], end["device"]["sysctls"]) == (500, [[sysctl, 2]])
    assert end["device"]["routes"] == [{"to": "10.0.0.0/8", "via": "192.168.2.101", "metric": None}]


def test_both_ends_of_a_veth_are_shown_with_their_own_differences(cluster: Cluster) -> None:
    _, pair = cluster.linked_pair(cluster.a)
    with cluster.lock_link(cluster.a):
        ip("-n", pair.netns, "link", "set", "in2", "mtu", "1400")
        ends = shown(cluster, cluster.a)["ends"]
    assert ends["primary"]["differences"] == []
    assert ends["pair"]["differences"] == ["in2 has MTU 1400, wanted 1500"]
    assert ends["pair"]["device"]["mtu"] == 1400


def test_a_tunnel_that_sends_elsewhere_has_differences_and_no_list_of_entries(cluster: Cluster) -> None:
    primary, _ = cluster.linked_pair()
    assert cluster.pings(primary, "192.168.2.101")  # a tunnel gets its carrier after the record is linked
    any_mac = "00:00:00:00:00:00"
    with cluster.lock_link(cluster.a):
        run_in(primary.netns, "bridge", "fdb", "append", any_mac, "dev", "in1", "dst", "192.168.1.99", "vni", "12")
        (end,) = shown(cluster, cluster.a)["ends"].values()
    assert end["differences"] == [f"in1 sends {any_mac} to 192.168.1.99 port 4789 VNI 12"]
    assert end["device"]["entries"] is None


def test_an_end_that_waits_for_its_peer_has_no_differences(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    cluster.add_all((cluster.a, primary))
    cluster.wait_until(State.PRIMARY_READY)
    (end,) = shown(cluster, cluster.a)["ends"].values()
    assert end == {"device": None, "live": None, "differences": [], "fault": "", "proof": None}


def test_a_deleted_interface_is_a_difference(cluster: Cluster) -> None:
    primary, _ = cluster.linked_pair()
    with cluster.lock_link(cluster.a):
        ip("-n", primary.netns, "link", "del", "in1")
        (end,) = shown(cluster, cluster.a)["ends"].values()
    assert (end["device"], end["live"]) == (None, None)
    assert end["differences"] == ["in1 is not there"]


def test_a_removed_network_namespace_is_a_fault(cluster: Cluster) -> None:
    primary, _ = cluster.linked_pair()
    try:
        with cluster.lock_link(cluster.a):
            cluster.a.hosts.remove_namespace(primary.netns)
            (end,) = shown(cluster, cluster.a)["ends"].values()
    finally:
        cluster.a.call("DEL", primary)
    assert end["fault"].startswith(f"cannot open network namespace {netns_path(primary.netns)}: ")


def test_a_path_without_the_uid_of_a_link_of_the_node_gets_404(cluster: Cluster) -> None:
    cluster.linked_pair(cluster.a)
    other = uid_of(cluster)
    for path in ("/links/", f"/links/{LINK}", f"/links/{other[:-1]}", f"/links/{'0' * 8}{other[8:]}", "/links/%C3"):
        assert page(cluster.a, path)[0] == 404
    assert page(cluster.b, f"/links/{other}")[0] == 404  # the link has no end on that node
