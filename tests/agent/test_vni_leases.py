"""Lost VNIs: the Lease is deleted or has another holder, or a node cannot use the number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ratchet.core.model import Link, State
from ratchet.core.naming import vni_lease_name
from ratchet.core.state_machine import derive
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from ratchet.store.codec.leases import encode_vni_lease
from tests.support.cluster import LINK, Cluster

PAIR_IP = "192.168.2.101"
BACKUP_UID = "00000000-0000-4000-8000-000000000000"
OTHER = "default.x.in1.y.in2"


def delete_leases(cluster: Cluster) -> None:
    for lease in cluster.bed.store.vnis.list():
        cluster.bed.store.vnis.delete(lease)


def replace_holder(cluster: Cluster, vni: int, link: Link, holder: str) -> None:
    store = cluster.bed.store
    path = f"{store.vnis.path}/{vni_lease_name(vni)}"
    held = next(lease for lease in store.vnis.list() if lease.vni == vni)
    store.api.delete(path, uid=held.uid)
    store.api.create(store.vnis.path, encode_vni_lease(vni, replace(link, uid=holder)))


def restore_leases(cluster: Cluster) -> None:
    """Replace the Leases by ones from a backup, which name records with other UIDs as holders."""
    for link in cluster.bed.links().values():
        assert link.vni is not None
        replace_holder(cluster, link.vni, link, BACKUP_UID)


def restart_agents(cluster: Cluster) -> None:
    for agent in cluster.bed.agents.values():
        agent.stop()
    for agent in cluster.bed.agents.values():
        agent.start()


def every_vni_is_held(cluster: Cluster) -> bool:
    """Whether every record is linked and holds the Lease of its VNI, and there is no other Lease."""
    links = cluster.bed.links().values()
    holders = {lease.vni: lease.holder for lease in cluster.bed.store.vnis.list()}
    linked = all(derive(link) is State.LINKED for link in links)
    return linked and holders == {link.vni: link.uid for link in links} and len(holders) == len(links)


def another_pair(cluster: Cluster) -> list[tuple[Kubelet, Sandbox]]:
    labels = {
        "ratchet": "true",
        "ratchet.primary": "true",
        "ratchet.local_ifname": "in1",
        "ratchet.local_ip": "192.168.3.100",
        "ratchet.pair_name": "y",
        "ratchet.pair_ifname": "in2",
        "ratchet.pair_ip": "192.168.3.101",
    }
    x = cluster.pod("x", labels, cluster.a)
    y = cluster.pod("y", {"ratchet": "true", "ratchet.primary": "false"}, cluster.b)
    cluster.add_all((cluster.a, x), (cluster.b, y))
    return [(cluster.a, x), (cluster.b, y)]


@pytest.mark.parametrize("damage", [delete_leases, restore_leases])
def test_fault_33_deleted_or_restored_vni_leases_leave_vnis_unique(
    cluster: Cluster, damage: Callable[[Cluster], None]
) -> None:
    primary, pair = cluster.linked_pair()
    before = cluster.bed.links()[LINK].vni
    damage(cluster)
    restart_agents(cluster)
    others = another_pair(cluster)
    wait_for("a Lease for every number", lambda: every_vni_is_held(cluster), 30)
    links = cluster.bed.links()
    assert links[LINK].vni == before
    assert links[OTHER].vni != before
    assert cluster.pings(primary, PAIR_IP)
    assert cluster.pings(others[0][1], "192.168.3.101")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair), *others)


def test_fault_33_a_link_whose_vni_another_link_holds_is_renumbered(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    others = another_pair(cluster)
    cluster.wait_until(State.LINKED, OTHER)
    mine, other = (cluster.bed.links()[name] for name in (LINK, OTHER))
    assert mine.vni is not None
    assert other.vni is not None
    # Both records now have the VNI, as if the other one had claimed it while there was no Lease.
    replace_holder(cluster, mine.vni, other, other.uid)
    cluster.bed.store.links.update(cluster.bed.links()[OTHER], replace(cluster.bed.links()[OTHER], vni=mine.vni))
    cluster.bed.store.vnis.release(other.vni, other.uid)
    restart_agents(cluster)
    wait_for("numbers of their own", lambda: every_vni_is_held(cluster), 30)
    after = cluster.bed.links()
    assert after[OTHER].vni == mine.vni
    assert after[LINK].vni != mine.vni
    assert any(f"VNI {mine.vni} replaced by" in step.reason for step in after[LINK].history)
    wait_for("a ping", lambda: cluster.pings(primary, PAIR_IP))
    wait_for("a ping of the other", lambda: cluster.pings(others[0][1], "192.168.3.101"))
    logs = "".join(agent.log.read_text() for agent in cluster.bed.agents.values())
    assert f"VNI renumbered link={LINK} from={mine.vni} to={after[LINK].vni}" in logs
    cluster.delete_all((cluster.a, primary), (cluster.b, pair), *others)


@pytest.mark.parametrize("where", ["a", "b"])
def test_fault_34_a_link_avoids_vnis_of_foreign_devices_on_one_node(cluster: Cluster, where: str) -> None:
    """The end that is created first follows the other end to the new VNI."""
    node = cluster.a if where == "a" else cluster.b
    # Agents remember the VNIs that earlier tests released, so they may not try the lowest VNI first.
    foreign = [(f"calico{vni}", str(vni)) for vni in range(11, 15)]
    for name, vni in foreign:
        device = ["type", "vxlan", "id", vni, "dev", "eth0", "dstport", "4789"]
        ip("-n", node.host.netns, "link", "add", name, *device)
    primary, pair = cluster.linked_pair()
    try:
        wait_for("a Lease for the number", lambda: every_vni_is_held(cluster))
        record = cluster.bed.links()[LINK]
        assert record.vni not in range(11, 15)
        assert set(record.refused_vnis) <= set(range(11, 15))
        wait_for("a ping", lambda: cluster.pings(primary, PAIR_IP))
    finally:
        for name, _ in foreign:
            ip("-n", node.host.netns, "link", "del", name)
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
