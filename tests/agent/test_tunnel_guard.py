"""The agent keeps the guard of the tunnel port: at start, after damage, after a change of a VTEP, and when off."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ratchet.agent import periodic
from ratchet.core.tunnel_guard import GuardedTunnel
from ratchet.datapath import open_netns, tunnel_guard
from ratchet.datapath.netns import inside
from ratchet.dev.fake_kubelet import Kubelet
from ratchet.dev.hosts import netns_path
from ratchet.dev.testbed import wait_for
from tests.agent.pages import page
from tests.agent.test_underlay import replace_address
from tests.support.cluster import PATIENT, Cluster, running
from tests.support.guard import drop_guard, guard_of, peers_of

A, B = "192.168.1.73", "192.168.1.33"
# A check is due after OBSERVE_SECONDS.
CHECKED = periodic.OBSERVE_SECONDS + 30.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running(PATIENT, agent={"heartbeat": 1, "node_lost_after": 10}) as made:
        yield made


def _vnis(node: Kubelet) -> set[int]:
    return {one.vni for one in guard_of(node).tunnels}


def _admit(node: Kubelet, *tunnels: GuardedTunnel) -> None:
    with open_netns(netns_path(node.host.netns)) as netns, inside(netns):
        for tunnel in tunnels:
            assert tunnel_guard.admit(tunnel)


def test_a_link_is_guarded_from_its_add_to_its_del(cluster: Cluster) -> None:
    assert guard_of(cluster.a).layout, "the agent makes the table at its start"
    primary, pair = cluster.linked_pair()
    assert (peers_of(cluster.a), peers_of(cluster.b)) == ({B}, {A})
    assert cluster.pings(primary, "192.168.2.101")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    assert (_vnis(cluster.a), _vnis(cluster.b)) == (set(), set())
    assert (peers_of(cluster.a), peers_of(cluster.b)) == (set(), set())
    cluster.assert_nothing_left()


def test_the_guard_follows_the_address_of_the_peers_node(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    replace_address(cluster.a, "192.168.1.73/24", "192.168.1.74/24")
    wait_for("the new address of the peer", lambda: peers_of(cluster.b) == {"192.168.1.74"})
    wait_for("the link", lambda: cluster.pings(pair, "192.168.2.100"))
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_an_agent_makes_the_table_at_its_start_from_the_tunnels_of_its_node(cluster: Cluster) -> None:
    """It lacks the table, as after an upgrade, and has tunnels that are gone on the other node.

    One of these has the owner of the link's tunnel, as if the link had been renumbered.
    """
    primary, pair = cluster.linked_pair()
    (vni,) = _vnis(cluster.a)
    (owner,) = {one.owner for one in guard_of(cluster.b).tunnels}
    for name in ("a", "b"):
        cluster.bed.agents[name].kill()
    drop_guard(cluster.a)
    gone = GuardedTunnel(4789, 7777, "192.168.1.99", "9/9", "gone")
    _admit(cluster.b, gone, replace(gone, vni=7778, owner=owner))
    for name in ("a", "b"):
        cluster.bed.agents[name].start()
    assert (_vnis(cluster.a), _vnis(cluster.b)) == ({vni}, {vni})
    assert (peers_of(cluster.a), peers_of(cluster.b)) == ({B}, {A})
    assert cluster.pings(primary, "192.168.2.101")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_an_agent_repairs_the_table_and_reports_dropped_datagrams(cluster: Cluster) -> None:
    """On one node the table is gone, as after `nft flush ruleset`. The other has an address that is no peer."""
    primary, pair = cluster.linked_pair()
    (vni,) = _vnis(cluster.a)
    _forge(cluster.b, A, vni)
    drop_guard(cluster.b)
    wait_for("the Event", lambda: cluster.pods_with_event("DatagramsDropped") == {primary.pod.uid}, CHECKED)
    assert 'ratchet_guard_dropped_total{reason="source"} 1.0' in page(cluster.a, "/metrics")[1]
    assert "ratchet_guard_active 1.0" in page(cluster.a, "/metrics")[1]
    wait_for("the table", lambda: peers_of(cluster.b) == {A}, CHECKED)
    assert _vnis(cluster.b) == {vni}
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def _forge(node: Kubelet, target: str, vni: int) -> None:
    """Send a tunnel datagram from another address of a node than its VTEP."""
    frame = struct.pack(">II", 0x08000000, vni << 8) + b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + bytes(46)
    with open_netns(netns_path(node.host.netns)) as netns, inside(netns):
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with opened:
        opened.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT: any source
        opened.bind(("192.168.1.66", 0))
        opened.sendto(frame, (target, 4789))


def test_an_agent_without_the_guard_removes_the_table(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    agent = cluster.bed.agents["a"]
    agent.kill()
    agent.options = {**agent.options, "guard": False}
    agent.start()
    wait_for("no table", lambda: guard_of(cluster.a).layout == ())
    assert cluster.pings(primary, "192.168.2.101")
    wait_for("readiness without a note", lambda: page(cluster.a, "/readyz") == (200, "ok\n"))
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()
