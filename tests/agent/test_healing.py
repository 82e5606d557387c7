"""What only somebody who stays can do: links whose peer comes late, goes, and comes again elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ratchet.core.model import State
from ratchet.dev.bed import Bed, wait_for
from ratchet.install import find_shim
from tests.support.cluster import LINK, PAIR, PATIENT, PRIMARY, Cluster, recreated
from tests.support.faults import Faults
from tests.support.namespaces import may_make_namespaces


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    if find_shim() is None:
        pytest.skip("there is no shim for this machine: it has no C compiler")
    faults = Faults()
    with Bed(middlewares=[faults.middleware]) as bed:
        yield Cluster(bed, faults, PATIENT, agent={})


def has_carrier(shown: dict[str, Any]) -> bool:
    return "NO-CARRIER" not in shown["flags"]


def test_a_link_is_completed_when_its_peer_comes_late(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    assert cluster.a.add(primary).status == 0
    assert cluster.state() is State.PRIMARY_READY
    pair = cluster.pair(cluster.b)
    assert cluster.b.add(pair).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(primary, "192.168.2.101")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_a_pod_that_is_up_takes_the_link_that_names_it_later(cluster: Cluster) -> None:
    pair = cluster.pair(cluster.b)
    assert cluster.b.add(pair).status == 0
    primary = cluster.primary(cluster.a)
    assert cluster.a.add(primary).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(primary, "192.168.2.101")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_an_end_loses_its_carrier_with_its_peer_and_has_it_again_with_the_next(cluster: Cluster) -> None:
    """The interface itself stays: index, MAC and addresses are what they were."""
    primary, pair = cluster.linked_pair()
    wait_for("carrier", lambda: has_carrier(cluster.show(primary, "in1")))
    before = cluster.show(primary, "in1")
    assert cluster.b.delete(pair).status == 0
    wait_for("the loss of carrier", lambda: not has_carrier(cluster.show(primary, "in1")))
    again = recreated(cluster, pair, PAIR, cluster.b)
    assert cluster.b.add(again).status == 0
    cluster.wait_until(State.LINKED)
    wait_for("carrier", lambda: has_carrier(cluster.show(primary, "in1")))
    after = cluster.show(primary, "in1")
    assert [after[key] for key in ("ifindex", "address")] == [before[key] for key in ("ifindex", "address")]
    wait_for("a ping", lambda: cluster.pings(primary, "192.168.2.101"))
    cluster.delete_all((cluster.a, primary), (cluster.b, again))
    cluster.assert_nothing_left()


def test_a_link_follows_a_pod_that_comes_again_on_the_other_node(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    assert cluster.b.delete(pair).status == 0
    moved = recreated(cluster, pair, PAIR, cluster.a)
    assert cluster.a.add(moved).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.show(primary, "in1")["linkinfo"]["info_kind"] == "veth"
    wait_for("a ping", lambda: cluster.pings(primary, "192.168.2.101"))
    cluster.delete_all((cluster.a, primary), (cluster.a, moved))
    cluster.assert_nothing_left()


def test_fault_28_a_del_that_no_agent_hears_is_done_by_the_next_and_links_stay_up_meanwhile(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    for sandbox, ifname in ((primary, "in1"), (pair, "in2")):
        wait_for("carrier", lambda one=sandbox, at=ifname: has_carrier(cluster.show(one, at)))  # type: ignore[misc]
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
    cluster.delete_all((cluster.b, pair))
    cluster.assert_nothing_left()
    assert LINK not in cluster.bed.links()
