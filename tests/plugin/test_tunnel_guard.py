"""The plugin guards the tunnel port on both hosts: from ADD to DEL, in GC, and until `ratchet uninstall`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ratchet.core.tunnel_guard import GuardedTunnel
from ratchet.datapath import open_netns, tunnel_guard
from ratchet.datapath.netns import inside
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import command_in, netns_path
from tests.support.cluster import CHAINED, PAIR, Cluster
from tests.support.guard import drop_guard, guard_of, peers_of, turn_local_bypass_on

A, B = "192.168.1.73", "192.168.1.33"


def test_a_link_is_guarded_from_add_to_del(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    assert (peers_of(cluster.a), peers_of(cluster.b)) == ({B}, {A})
    assert cluster.pings(primary, "192.168.2.101")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    assert (peers_of(cluster.a), peers_of(cluster.b)) == (set(), set())
    assert (guard_of(cluster.a).tunnels, guard_of(cluster.b).tunnels) == ((), ())
    cluster.assert_nothing_left()


def test_check_accepts_the_local_bypass_of_an_earlier_version(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    turn_local_bypass_on(netns_path(primary.netns), "in1")
    assert cluster.a.call("CHECK", primary).status == 0
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def _link_more(cluster: Cluster, number: int) -> tuple[tuple[Kubelet, Sandbox], tuple[Kubelet, Sandbox]]:
    """Another link between the nodes, of two pods with this number."""
    names = {"ratchet.pair_name": f"pair-{number}", "ratchet.pair_ifname": "in2", "ratchet.local_ifname": "in1"}
    primary = cluster.pod(f"primary-{number}", {**PAIR, **names, "ratchet.primary": "true"}, cluster.a)
    ends = (cluster.a, primary), (cluster.b, cluster.pod(f"pair-{number}", PAIR, cluster.b))
    cluster.add_all(*ends)
    return ends


def _links(node: Kubelet) -> set[str]:
    """The links in a node's table. The first pod of each name is a pair."""
    return {one.link.split(".")[1] for one in guard_of(node).tunnels}


@pytest.mark.daemonless
def test_a_lost_table_is_made_again_with_all_tunnels_of_the_node(cluster: Cluster, host: str) -> None:
    """Except those that were made with the guard off."""
    first = _link_more(cluster, 1)
    cluster.b.config = {**CHAINED, "guard": False}
    second = _link_more(cluster, 2)
    cluster.b.config = dict(CHAINED)
    before = set(guard_of(cluster.a).tunnels)
    for node in (cluster.a, cluster.b):
        drop_guard(node)
    third = _link_more(cluster, 3)
    assert (_links(cluster.a), _links(cluster.b)) == ({"pair-1", "pair-2", "pair-3"}, {"pair-1", "pair-3"})
    assert set(guard_of(cluster.a).tunnels) > before
    assert (peers_of(cluster.a), peers_of(cluster.b)) == ({B}, {A})
    cluster.delete_all(*first, *second, *third)
    assert (guard_of(cluster.a).tunnels, guard_of(cluster.b).tunnels) == ((), ())
    cluster.assert_nothing_left()


@pytest.mark.daemonless
def test_status_makes_a_lost_table_again(cluster: Cluster, host: str) -> None:
    """Runtimes call STATUS between pod starts."""
    config = {**CHAINED, "cniVersion": "1.1.0"}
    primary, pair = cluster.linked_pair()
    before = guard_of(cluster.a)
    drop_guard(cluster.a)
    answer = cluster.a.call("STATUS", config=config)
    assert (answer.status, guard_of(cluster.a)) == (0, before)
    assert "tunnel guard was missing" in answer.stderr
    assert "tunnel guard was missing" not in cluster.a.call("STATUS", config=config).stderr
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()
    drop_guard(cluster.a)
    assert cluster.a.call("STATUS", config=config).status == 0
    assert guard_of(cluster.a).layout == (), "without tunnels no table is made"


def test_gc_removes_tunnels_that_are_gone(cluster: Cluster, host: str) -> None:
    """Without an agent it removes the table too, once no tunnel is left. An agent keeps the table."""
    primary, pair = cluster.linked_pair()
    kept = guard_of(cluster.a).tunnels
    config = {**CHAINED, "cniVersion": "1.1.0"}

    def collect() -> None:
        valid = [{"containerID": one.container_id, "ifname": "eth0"} for one in (primary, pair)]
        assert cluster.a.call("GC", config={**config, "cni.dev/valid-attachments": valid}).status == 0

    with open_netns(netns_path(cluster.a.host.netns)) as netns, inside(netns):
        assert tunnel_guard.admit(GuardedTunnel(4789, 7777, "192.168.1.99", "9/9", "gone"))
    collect()
    assert guard_of(cluster.a).tunnels == kept
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    collect()
    assert (guard_of(cluster.a).layout == ()) is (host == "daemonless")
    cluster.assert_nothing_left()


@pytest.mark.daemonless
def test_uninstall_removes_the_table(cluster: Cluster, host: str, tmp_path: Path) -> None:
    primary, pair = cluster.linked_pair()
    command = (sys.executable, "-m", "ratchet.cli.main", "uninstall", "--bin-dir", str(tmp_path))
    process = subprocess.run(
        command_in(cluster.a.host.netns, *command), capture_output=True, text=True, timeout=60, check=True
    )
    assert process.stdout == "removed the nftables table inet ratchet\n"
    assert guard_of(cluster.a).layout == ()
    assert cluster.pings(primary, "192.168.2.101")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()
