"""An interface that its pod has set down: agents repair everything else and leave it down."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.agent.pages import page
from tests.support.cluster import LINK, PATIENT, Cluster, running
from tests.support.resync import touch


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running(PATIENT, agent={}) as made:
        yield made


def node_of_pair(cluster: Cluster, kind: str) -> Kubelet:
    return cluster.a if kind == "veth" else cluster.b


def is_up(cluster: Cluster, sandbox: Sandbox, ifname: str) -> bool:
    return "UP" in cluster.show(sandbox, ifname)["flags"]


def has_mtu(cluster: Cluster, sandbox: Sandbox, ifname: str, mtu: int) -> bool:
    return bool(cluster.show(sandbox, ifname)["mtu"] == mtu)


def shut(sandbox: Sandbox, ifname: str) -> None:
    """Set the interface down, and change what the agent restores at its next look."""
    for command in ("down", "mtu 1280"):
        ip("-n", sandbox.netns, "link", "set", ifname, *command.split())


@pytest.mark.parametrize("kind", ["veth", "vxlan"])
def test_an_agent_leaves_a_shut_interface_down_and_repairs_the_rest(cluster: Cluster, kind: str) -> None:
    primary, pair = cluster.linked_pair(node_of_pair(cluster, kind))
    before = cluster.show(primary, "in1")
    shut(primary, "in1")
    assert touch(cluster.bed, LINK)
    wait_for("the MTU", lambda: has_mtu(cluster, primary, "in1", before["mtu"]))
    assert not is_up(cluster, primary, "in1")
    assert cluster.state() is State.LINKED
    ip("-n", primary.netns, "link", "set", "in1", "up")
    assert cluster.pings(primary, "192.168.2.101")
    assert cluster.pings(pair, "192.168.2.100")
    assert cluster.show(primary, "in1")["ifindex"] == before["ifindex"]


@pytest.mark.parametrize("kind", ["veth", "vxlan"])
def test_an_agent_that_starts_leaves_a_shut_interface_down(cluster: Cluster, kind: str) -> None:
    primary, _ = cluster.linked_pair(node_of_pair(cluster, kind))
    mtu = cluster.show(primary, "in1")["mtu"]
    cluster.bed.agents["a"].stop()
    shut(primary, "in1")
    cluster.bed.agents["a"].start()
    wait_for("the MTU", lambda: has_mtu(cluster, primary, "in1", mtu))
    assert not is_up(cluster, primary, "in1")


def test_an_interface_that_was_never_brought_up_is_brought_up(cluster: Cluster) -> None:
    """Without the alias, it is as a process leaves it that is killed before it brings the interface up."""
    primary, _ = cluster.linked_pair()
    ip("-n", primary.netns, "link", "set", "in1", "alias", "")
    ip("-n", primary.netns, "link", "set", "in1", "down")
    assert touch(cluster.bed, LINK)
    wait_for("the interface", lambda: is_up(cluster, primary, "in1"))


def test_inspect_shows_a_shut_interface_without_a_difference(cluster: Cluster) -> None:
    primary, _ = cluster.linked_pair()
    ip("-n", primary.netns, "link", "set", "in1", "down")
    status, text = page(cluster.a, f"/links/{cluster.bed.links()[LINK].uid}")
    (end,) = json.loads(text)["ends"].values()
    assert status == 200
    assert (end["fault"], end["differences"]) == ("", [])
    assert (end["device"]["up"], end["device"]["brought_up"]) == (False, True)
