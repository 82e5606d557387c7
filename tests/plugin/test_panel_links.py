"""Links in panel wiring: ADD, CHECK, DEL and GC, on one node and across nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import State
from ratchet.core.operations import RecordedOperation
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.support.cluster import CHAINED, LINK, PAIR, Cluster, panel_devices, recreated
from tests.support.kernels import skip_before_6_5
from tests.support.wired import has_carrier, wired_pair

ADDRESSES = {"r1": "10.1.0.1", "r2": "10.1.0.2"}


@contextmanager
def defaulting_to_direct(cluster: Cluster, node: Kubelet, host: str) -> Iterator[None]:
    """Give a node the default wiring direct within the block."""
    if host == "daemonless":
        node.config = {**node.config, "wiring": "direct"}
        yield
        return
    agent = cluster.bed.agents[node.host.name]
    before = agent.options
    agent.stop()
    try:
        agent.options = {**before, "wiring": "direct"}
        agent.start()
        yield
    finally:
        agent.stop()
        agent.options = before
        agent.start()


def in_result(sandbox: Sandbox, ifname: str) -> tuple[str, str]:
    """The MAC address and the namespace of an interface in the result of ADD."""
    assert sandbox.result is not None
    interface = next(one for one in sandbox.result["interfaces"] if one["name"] == ifname)
    return interface["mac"], interface["sandbox"]


def tunnel_on_one_node(ifname: str) -> str:
    """A line of a topology."""
    addresses = [f"{address.replace('.1.', f'.{ifname[-1]}.', 1)}/24" for address in ADDRESSES.values()]
    ends = [f"{name}:{ifname}" for name in ADDRESSES]
    return f"- {json.dumps({'endpoints': ends, 'wiring': 'panel', 'kind': 'vxlan', 'addresses': addresses})}"


def tunnel_ports(node: Kubelet) -> set[int]:
    """The UDP ports of the tunnels in a node's panel."""
    shown = json.loads(ip("-j", "-d", "-n", node.host.panel, "link", "show", "type", "vxlan"))
    return {one["linkinfo"]["info_data"]["port"] for one in shown}


def check(node: Kubelet, sandbox: Sandbox) -> Any:
    assert sandbox.result is not None
    return node.call("CHECK", sandbox, config={**CHAINED, "prevResult": sandbox.result})


@pytest.mark.executed
@pytest.mark.parametrize(("node_of_pair", "kind"), [("a", Kind.PATCH), ("b", Kind.VXLAN)])
def test_two_pods_are_linked_through_the_panel(cluster: Cluster, node_of_pair: str, kind: Kind) -> None:
    node = cluster.bed.kubelets[node_of_pair]
    primary, pair = wired_pair(cluster, node)
    record = cluster.bed.links()[LINK]
    assert (record.wiring, record.kind) == (Wiring.PANEL, kind)
    for sandbox, ifname, address in ((primary, "in1", "192.168.2.100"), (pair, "in2", "192.168.2.101")):
        shown = cluster.show(sandbox, ifname)
        assert (shown["linkinfo"]["info_kind"], shown["mtu"]) == ("veth", 1450), "the same on one node and across"
        wait_for("the carrier", lambda one=sandbox, name=ifname: has_carrier(cluster, one, name))  # type: ignore[misc]
        assert address in {one["local"] for one in shown["addr_info"]}
        assert in_result(sandbox, ifname) == (shown["address"], sandbox.path)
    assert cluster.pings(primary, "192.168.2.101")
    assert cluster.pings(pair, "192.168.2.100")
    assert check(cluster.a, primary).status == check(node, pair).status == 0
    assert len(panel_devices(cluster.a)) == 2, "two cables, or a cable and its tunnel"
    cluster.delete_all((cluster.a, primary), (node, pair))
    cluster.assert_nothing_left()


@pytest.mark.parametrize(("wiring", "kind"), [("", Kind.PATCH), ("panel", Kind.PATCH), ("direct", Kind.VETH)])
@pytest.mark.parametrize("declared", ["ratchet.links", "topology"])
def test_a_link_declares_its_wiring_where_it_declares_the_rest(
    cluster: Cluster, declared: str, wiring: str, kind: Kind
) -> None:
    """Without a declared wiring, it is in panel wiring."""
    annotations: Mapping[str, str] = {}
    wirings = {"wiring": wiring} if wiring else {}
    if declared == "topology":
        cluster.bed.create_topology("lab", json.dumps([{"endpoints": ["r1:eth1", "r2:eth1"], **wirings}]))
    else:
        link = {"peer": "r2", "ifname": "eth1", "peer_ifname": "eth1", **wirings}
        annotations = {"ratchet.links": json.dumps([link])}
    one = cluster.pod("r1", {"ratchet": "true"}, cluster.a, **annotations)
    other = cluster.pod("r2", {"ratchet": "true"}, cluster.a)
    cluster.add_all((cluster.a, one), (cluster.a, other))
    (record,) = cluster.bed.links().values()
    assert (record.wiring, record.kind) == (wiring or Wiring.PANEL, kind)
    wait_for("the carrier", lambda: all(has_carrier(cluster, sandbox, "eth1") for sandbox in (one, other)))


@pytest.mark.parametrize("first", ["a", "b"])
def test_the_record_decides_between_nodes_of_different_defaults(cluster: Cluster, host: str, first: str) -> None:
    """The default of node b is direct. The pod that starts first creates the record."""
    with defaulting_to_direct(cluster, cluster.b, host):
        cluster.bed.create_topology("lab", '- endpoints: ["r1:eth1", "r2:eth1"]')
        nodes = cluster.bed.kubelets
        pods = {node: cluster.pod(name, {"ratchet": "true"}, nodes[node]) for name, node in (("r1", "a"), ("r2", "b"))}
        placed = [(nodes[node], pods[node]) for node in sorted(pods, key=lambda node: node != first)]
        running = cluster.start("ADD", *placed[0])
        wait_for("the record", lambda: len(cluster.bed.links()) == 1)
        cluster.add_all(placed[1])
        assert cluster.end(running).status == 0
        (record,) = cluster.bed.links().values()
        assert record.wiring is (Wiring.PANEL if first == "a" else Wiring.DIRECT)
        cluster.wait_until(State.LINKED, record.name)
        wait_for("the carrier", lambda: all(has_carrier(cluster, sandbox, "eth1") for sandbox in pods.values()))
        cluster.delete_all(*placed)


def test_a_survivor_keeps_its_interface_when_its_peer_restarts(cluster: Cluster) -> None:
    primary, pair = wired_pair(cluster, cluster.a)
    before = cluster.identity(primary, "in1")
    for _ in range(2):
        cluster.delete_all((cluster.a, pair))
        wait_for("no carrier", lambda: not has_carrier(cluster, primary, "in1"))
        assert cluster.identity(primary, "in1") == before
        pair = recreated(cluster, pair, PAIR, cluster.a)
        cluster.add_all((cluster.a, pair))
        cluster.wait_until(State.LINKED)
        assert cluster.pings(primary, "192.168.2.101")
        assert cluster.identity(primary, "in1") == before


def test_check_reports_a_patch_that_somebody_has_removed(cluster: Cluster) -> None:
    primary, _ = wired_pair(cluster, cluster.a)
    with cluster.lock_link(cluster.a):
        for device in panel_devices(cluster.a):
            ip("netns", "exec", cluster.a.host.panel, "tc", "qdisc", "del", "dev", device, "clsact")
        answer = check(cluster.a, primary)
    assert answer.status == 1
    assert "in1 leads to another interface than its peer" in answer.stdout


@pytest.mark.daemonless
def test_check_leaves_a_link_alone_on_which_an_operation_may_act(cluster: Cluster) -> None:
    """The agent, which would know, may be restarting."""
    primary, _ = wired_pair(cluster, cluster.a)
    for device in panel_devices(cluster.a):
        ip("netns", "exec", cluster.a.host.panel, "tc", "qdisc", "del", "dev", device, "clsact")
    now = datetime.now(UTC)
    for until, status in ((None, 0), (now + timedelta(hours=1), 0), (now - timedelta(hours=1), 1)):
        record = cluster.bed.links()[LINK]
        operation = RecordedOperation("1", "down", "alice", now - timedelta(hours=2), until)
        cluster.bed.store.links.update(record, replace(record, operation=operation))
        assert check(cluster.a, primary).status == status


def test_many_cables_of_a_pod_go_with_one_del(cluster: Cluster) -> None:
    links = "\n".join(f'- {{endpoints: ["hub:e{n}", "leaf:e{n}"], wiring: panel}}' for n in range(20))
    cluster.bed.create_topology("star", links)
    hub, leaf = (cluster.pod(name, {"ratchet": "true"}, cluster.a) for name in ("hub", "leaf"))
    cluster.add_all((cluster.a, hub), (cluster.a, leaf))
    assert len(panel_devices(cluster.a)) == 40
    cluster.delete_all((cluster.a, hub))
    assert len(panel_devices(cluster.a)) == 20
    wait_for("no carrier", lambda: not any(has_carrier(cluster, leaf, f"e{n}") for n in range(20)))
    cluster.delete_all((cluster.a, leaf))
    cluster.assert_nothing_left()


def test_what_a_dead_namespace_left_in_the_panel_is_swept_by_gc(cluster: Cluster) -> None:
    """The pod's namespace is gone without DEL, as after a crash of the runtime."""
    primary, pair = wired_pair(cluster, cluster.b)
    with cluster.lock_link(cluster.a):
        cluster.bed.hosts.remove_namespace(primary.netns)
        wait_for("the end of the cable", lambda: len(panel_devices(cluster.a)) == 1)
        config = {**CHAINED, "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
        cluster.a.call("GC", config={**config, "name": "another"})
        assert panel_devices(cluster.a) == []
    cluster.delete_all((cluster.b, pair))
    assert cluster.a.call("DEL", primary).status == 0
    cluster.forget_pods(primary)
    cluster.assert_nothing_left()


@pytest.mark.parametrize(("first", "links"), [("r1", 1), ("r2", 1), ("r1", 2)])
def test_a_tunnel_on_one_node_is_two_tunnels_in_the_panel(cluster: Cluster, first: str, links: int) -> None:
    """Each end has a tunnel with its own UDP port. DEL of either end takes the carrier of the other one.

    DEL of a pod with several links removes its tunnels by one request.
    """
    skip_before_6_5()
    names = [f"eth{number}" for number in range(1, links + 1)]
    cluster.bed.create_topology("lab", "\n".join(map(tunnel_on_one_node, names)))
    pods = {name: cluster.pod(name, {"ratchet": "true"}, cluster.a) for name in ADDRESSES}
    cluster.add_all(*((cluster.a, pod) for pod in pods.values()))
    records = cluster.bed.links()
    for name, record in records.items():
        cluster.wait_until(State.LINKED, name)
        assert (record.wiring, record.kind) == (Wiring.PANEL, Kind.VXLAN)
    assert tunnel_ports(cluster.a) == {4790, 4791}
    second = next(name for name in pods if name != first)
    for name, other in ((first, second), (second, first)):
        assert cluster.show(pods[name], "eth1")["mtu"] == 1450
        wait_for("a full-size ping", partial(cluster.carries, pods[name], ADDRESSES[other], 1450))
        assert check(cluster.a, pods[name]).status == 0
    before = [cluster.identity(pods[second], ifname) for ifname in names]
    cluster.delete_all((cluster.a, pods[first]))
    wait_for("no carrier", lambda: not any(has_carrier(cluster, pods[second], ifname) for ifname in names))
    replacement = recreated(cluster, pods[first], {"ratchet": "true"}, cluster.a)
    cluster.add_all((cluster.a, replacement))
    for name in records:
        cluster.wait_until(State.LINKED, name)
    assert all(has_carrier(cluster, pods[second], ifname) for ifname in names)
    assert cluster.pings(pods[second], ADDRESSES[first])
    assert [cluster.identity(pods[second], ifname) for ifname in names] == before
    cluster.delete_all((cluster.a, replacement), (cluster.a, pods[second]))
    cluster.assert_nothing_left()
