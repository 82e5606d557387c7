"""Links in panel wiring with agents: what happens to a survivor's interface, and its carrier."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from ratchet.core import oam
from ratchet.core.kinds import Wiring
from ratchet.core.model import State
from ratchet.core.oam import record_id, sandbox_id
from ratchet.datapath import netns
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import ip, remove_namespace
from ratchet.dev.testbed import wait_for
from tests.agent.pages import page
from tests.support.cluster import CHAINED, LINK, PAIR, PATIENT, Cluster, panel_devices, recreated
from tests.support.resync import touch
from tests.support.wired import WIRED, has_carrier, wired_pair


def identity(cluster: Cluster, sandbox: Sandbox) -> dict[str, Any]:
    """What an interface keeps. The link-local address comes and goes with the carrier."""
    found = cluster.identity(sandbox, "in1")
    return {**found, "addresses": {one for one in found["addresses"] if not one.startswith("fe80")}}


def test_a_survivor_keeps_its_interface_when_its_peer_moves_there_and_back(cluster: Cluster) -> None:
    primary, pair = wired_pair(cluster, cluster.a)
    before, node = identity(cluster, primary), cluster.a
    for target in (cluster.b, cluster.a, cluster.b):
        cluster.delete_all((node, pair))
        pair, node = recreated(cluster, pair, PAIR, target), target
        cluster.add_all((node, pair))
        cluster.wait_until(State.LINKED)
        assert cluster.pings(primary, "192.168.2.101")
        assert identity(cluster, primary) == before
    cluster.delete_all((cluster.a, primary), (node, pair))
    cluster.assert_nothing_left()


def test_the_interface_is_there_before_the_peer(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a, **WIRED)
    cluster.add_all((cluster.a, primary))
    before = identity(cluster, primary)
    assert (before["addresses"], has_carrier(cluster, primary, "in1")) == ({"192.168.2.100/24"}, False)
    assert primary.result is not None
    assert "in1" in {one["name"] for one in primary.result["interfaces"]}
    assert cluster.a.call("CHECK", primary, config={**CHAINED, "prevResult": primary.result}).status == 0
    pair = cluster.pair(cluster.b)
    cluster.add_all((cluster.b, pair))
    cluster.wait_until(State.LINKED)
    assert cluster.pings(primary, "192.168.2.101")
    assert identity(cluster, primary) == before


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_agents_that_restart_change_no_interface(cluster: Cluster, node_of_pair: str) -> None:
    primary, _ = wired_pair(cluster, cluster.bed.kubelets[node_of_pair])
    before = identity(cluster, primary)
    for agent in cluster.bed.agents.values():
        agent.kill()
    assert cluster.pings(primary, "192.168.2.101"), "traffic continues without agents"
    for agent in cluster.bed.agents.values():
        agent.start()
    touch(cluster.bed, LINK)
    assert cluster.pings(primary, "192.168.2.101")
    assert identity(cluster, primary) == before


def test_a_shut_end_takes_the_carrier_of_the_other(cluster: Cluster) -> None:
    primary, pair = wired_pair(cluster, cluster.a)
    for state, has in (("down", False), ("up", True), ("down", False), ("up", True)):
        ip("-n", primary.netns, "link", "set", "in1", state)
        wait_for(f"carrier {has}", lambda has=has: has_carrier(cluster, pair, "in2") is has)  # type: ignore[misc]
    assert cluster.pings(pair, "192.168.2.100")


def test_what_somebody_removes_in_the_panel_is_put_back(cluster: Cluster) -> None:
    primary, _ = wired_pair(cluster, cluster.b)
    before = identity(cluster, primary)
    for device in panel_devices(cluster.a):
        ip("netns", "exec", cluster.a.host.panel, "tc", "qdisc", "del", "dev", device, "clsact")
    assert not cluster.pings(primary, "192.168.2.101")
    touch(cluster.bed, LINK)
    wait_for("the patch", lambda: cluster.pings(primary, "192.168.2.101"))
    assert identity(cluster, primary) == before


def test_a_panel_that_was_deleted_without_an_agent_is_reported_once_and_its_links_come_back(cluster: Cluster) -> None:
    primary, _ = wired_pair(cluster, cluster.b)
    agent = cluster.bed.agents["a"]
    agent.stop()
    remove_namespace(cluster.a.host.panel)
    wait_for("the loss of the interface", lambda: "in1" not in cluster.interfaces(primary))
    agent.start()
    assert cluster.a.call("STATUS", config={**PATIENT, "cniVersion": "1.1.0"}).status == 0
    text = f"patch panel {agent.panel} was lost and another one was made: 1 pod gets new interfaces"
    lost = [("PanelLost", text)]
    wait_for("the Event", lambda: cluster.events_of_node(cluster.a) == lost)
    wait_for("the link", lambda: "in1" in cluster.interfaces(primary) and cluster.pings(primary, "192.168.2.101"))
    agent.stop()
    agent.start()
    touch(cluster.bed, LINK)
    assert cluster.events_of_node(cluster.a) == lost


def test_inspect_shows_a_waiting_cable_without_a_difference(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a, **WIRED)
    cluster.add_all((cluster.a, primary))
    record = cluster.bed.links()[LINK]
    assert record.wiring is Wiring.PANEL
    _, text = page(cluster.a, f"/links/{record.uid}")
    (end,) = json.loads(text)["ends"].values()
    assert (end["differences"], end["fault"], end["device"]["kind"], end["live"]["carrier"]) == ([], "", "cable", False)


def test_inspect_shows_that_frames_of_the_peers_panel_arrive(cluster: Cluster) -> None:
    primary, _ = wired_pair(cluster, cluster.b)
    uid = cluster.bed.links()[LINK].uid

    def proof() -> dict[str, float | None] | None:
        (end,) = json.loads(page(cluster.a, f"/links/{uid}")[1])["ends"].values()
        found: dict[str, float | None] | None = end["proof"]
        return found

    wait_for("a frame", lambda: (proof() or {}).get("verified") is not None)
    assert (proof() or {})["silent"] is None
    cluster.delete_all((cluster.a, primary))


def set_end(sandbox: Sandbox, ifname: str, state: str) -> None:
    ip("-n", sandbox.netns, "link", "set", ifname, state)


def wait_for_carrier(cluster: Cluster, sandbox: Sandbox, ifname: str, has: bool) -> None:
    wait_for(f"carrier of {ifname}: {has}", lambda: has_carrier(cluster, sandbox, ifname) is has)


def test_a_shut_end_takes_the_carrier_of_the_other_on_another_node(cluster: Cluster) -> None:
    primary, pair = wired_pair(cluster, cluster.b)
    for _ in range(2):
        set_end(primary, "in1", "down")
        wait_for_carrier(cluster, pair, "in2", False)
        touch(cluster.bed, LINK)  # a pass decides the same
        assert not has_carrier(cluster, pair, "in2")
        assert pair.result is not None
        assert cluster.b.call("CHECK", pair, config={**CHAINED, "prevResult": pair.result}).status == 0
        assert cluster.state() is State.LINKED
        _, text = page(cluster.b, f"/links/{cluster.bed.links()[LINK].uid}")
        (end,) = json.loads(text)["ends"].values()
        assert (end["device"]["far_up"], end["differences"]) == (False, [])
        set_end(primary, "in1", "up")
        wait_for_carrier(cluster, pair, "in2", True)
    assert cluster.pings(pair, "192.168.2.100")


@pytest.mark.parametrize("opens_first", ["in1", "in2"])
def test_two_ends_on_two_nodes_that_are_both_shut_get_carrier_once_both_are_open(
    cluster: Cluster, opens_first: str
) -> None:
    primary, pair = wired_pair(cluster, cluster.b)
    ends = [(primary, "in1"), (pair, "in2")]
    set_end(primary, "in1", "down")
    wait_for_carrier(cluster, pair, "in2", False)
    set_end(pair, "in2", "down")
    first, last = ends if opens_first == "in1" else ends[::-1]
    set_end(*first, "up")
    wait_for_carrier(cluster, *first, False)
    set_end(*last, "up")
    for end in ends:
        wait_for_carrier(cluster, *end, True)
    assert cluster.pings(pair, "192.168.2.100")


@pytest.mark.parametrize("killed", ["a", "b"])
def test_carrier_follows_a_shut_end_after_an_agent_was_killed(cluster: Cluster, killed: str) -> None:
    """`in1` is on node a. It is shut and opened while one of the agents is dead."""
    primary, pair = wired_pair(cluster, cluster.b)
    agent = cluster.bed.agents[killed]
    for state, has in (("down", False), ("up", True)):
        agent.kill()
        set_end(primary, "in1", state)
        agent.start()
        wait_for_carrier(cluster, pair, "in2", has)
    assert cluster.pings(pair, "192.168.2.100")


@pytest.mark.parametrize("restarted", ["a", "b", "ab"])
def test_an_agent_that_restarts_gives_no_carrier_while_the_peer_is_shut(cluster: Cluster, restarted: str) -> None:
    primary, pair = wired_pair(cluster, cluster.b)
    set_end(primary, "in1", "down")
    wait_for_carrier(cluster, pair, "in2", False)
    before = times_up(pair, "in2")
    for name in restarted:
        cluster.bed.agents[name].kill()
    for name in restarted:
        cluster.bed.agents[name].start()
    wait_for("a frame", lambda: verified_tunnels(cluster.b) == 1)
    touch(cluster.bed, LINK)
    assert (times_up(pair, "in2"), has_carrier(cluster, pair, "in2")) == (before, False)
    set_end(primary, "in1", "up")
    wait_for_carrier(cluster, pair, "in2", True)
    assert cluster.pings(pair, "192.168.2.100")


def times_up(sandbox: Sandbox, ifname: str) -> int:
    """How often an interface has got carrier."""
    return int(ip("netns", "exec", sandbox.netns, "cat", f"/sys/class/net/{ifname}/carrier_up_count"))


def verified_tunnels(node: Kubelet) -> int:
    proofs = json.loads(page(node, "/proofs")[1])["proofs"].values()
    return sum(end["verified"] is not None for ends in proofs for end in ends.values())


def test_an_oam_frame_that_a_pod_forges_changes_nothing(cluster: Cluster) -> None:
    """Not even one that has all that the record has."""
    primary, pair = wired_pair(cluster, cluster.b)
    record = cluster.bed.links()[LINK]
    assert record.primary.sandbox is not None
    sandbox = sandbox_id(record.primary.sandbox.container_id)
    forged = oam.OamFrame(record_id(record.uid), 0, sandbox, 2**63, 1, pod_up=False)
    send_oam(primary, "in1", oam.encode(forged))
    set_end(primary, "in1", "down")
    wait_for_carrier(cluster, pair, "in2", False)
    set_end(primary, "in1", "up")
    wait_for_carrier(cluster, pair, "in2", True)


def send_oam(sandbox: Sandbox, ifname: str, payload: bytes) -> None:
    with netns.open_netns(sandbox.path) as opened, netns.inside(opened):
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    with sender:
        sender.sendto(payload, (ifname, oam.ETHERTYPE, 0, 0, oam.DESTINATION))


def test_a_shut_end_takes_the_carrier_of_the_other_through_a_tunnel_within_a_node(cluster: Cluster) -> None:
    """Both ends are in one panel, and each hears the other one only."""
    addresses = "[192.168.2.100/24, 192.168.2.101/24]"
    link = f'{{endpoints: ["a:in1", "b:in2"], kind: vxlan, wiring: panel, addresses: {addresses}}}'
    cluster.bed.create_topology("lab", f"- {link}")
    primary, pair = (cluster.pod(name, {"ratchet": "true"}, cluster.a) for name in ("a", "b"))
    cluster.add_all((cluster.a, primary), (cluster.a, pair))
    cluster.wait_until(State.LINKED, "default.a.in1.b.in2")
    assert len(panel_devices(cluster.a)) == 4
    for near, far in (((primary, "in1"), (pair, "in2")), ((pair, "in2"), (primary, "in1"))):
        set_end(*near, "down")
        wait_for_carrier(cluster, *far, False)
        set_end(*near, "up")
        wait_for_carrier(cluster, *far, True)
        wait_for_carrier(cluster, *near, True)
    assert cluster.pings(pair, "192.168.2.100")
