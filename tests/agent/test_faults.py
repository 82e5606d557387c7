"""Faults that the node agent has to survive, each test named after its row in docs/faults.md."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratchet.core.model import PodRef, State
from ratchet.dev.bed import wait_for
from ratchet.dev.kubelet import Kubelet, Sandbox
from tests.support.cluster import (
    LINK,
    PRIMARY,
    Cluster,
    end_pods,
    left_clean,
    sent_by,
)
from tests.support.faults import Gate, Rule

KUBELETS_UID = "00000000-0000-4000-8000-000000000000"
TO_PRIMARY, TO_PAIR = "192.168.2.100", "192.168.2.101"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with left_clean() as made:
        yield made


def node_named(cluster: Cluster, name: str) -> Kubelet:
    return cluster.a if name == "a" else cluster.b


def buried(node: Kubelet, sandbox: Sandbox) -> bool:
    return any((node.state_dir / "deleted").glob(f"{sandbox.container_id}*"))


def wait_for_ping(cluster: Cluster, sandbox: Sandbox, address: str) -> None:
    wait_for(f"a ping from {sandbox.pod.name}", lambda: cluster.pings(sandbox, address), 15)


def look_at_everything(node: Kubelet) -> None:
    """Have the agent look at all its links and pods now, as it does every half a minute: GC in which all are valid."""
    noted = [path.name.split("+") for path in (node.state_dir / "sandboxes").iterdir() if path.name[0] != "."]
    valid = [{"containerID": container, "ifname": ifname} for container, ifname, _ in noted]
    config = {**node.config, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    assert node.call("GC", config=config).status == 0


# 2, 5, 6: calls that overlap, come late, come twice


@pytest.mark.parametrize("at", ["claim", "note", "noted"])
def test_fault_02_del_runs_while_add_runs_and_add_ends_after(cluster: Cluster, at: str) -> None:
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    assert cluster.b.add(pair).status == 0
    cluster.wait_until(State.PENDING)
    gate = Gate()
    record = sent_by(cluster.a, "PATCH", path=f"/configmaps/{LINK}")
    where = {
        "claim": Rule(sent_by(cluster.a, "POST", path="/leases"), before=gate),
        "note": Rule(record, before=gate),
        "noted": Rule(record, after=gate),
    }
    cluster.faults.add(where[at])
    adding = cluster.start("ADD", cluster.a, primary)
    assert gate.reached.wait(20)
    # ADD holds the link's lock by now, for which DEL waits once it has said that it has come.
    deleting = cluster.start("DEL", cluster.a, primary)
    wait_for("the tombstone", lambda: buried(cluster.a, primary))
    gate.opened.set()
    answer = cluster.end(adding)
    assert answer.json["code"] == 11
    assert cluster.end(deleting).status == 0
    assert cluster.interfaces(primary) == []
    look_at_everything(cluster.a)
    assert cluster.bed.links()[LINK].primary.sandbox is None
    assert not list((cluster.a.state_dir / "sandboxes").iterdir())


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_fault_05_a_late_del_of_the_old_sandbox_harms_nothing(cluster: Cluster, node_of_pair: str) -> None:
    old, _ = cluster.linked_pair(node_named(cluster, node_of_pair))
    new = cluster.sandbox(cluster.a, old.pod)
    assert cluster.a.add(new).status == 0
    cluster.wait_until(State.LINKED)
    before = cluster.show(new, "in1")
    assert cluster.a.call("DEL", old).status == 0
    look_at_everything(cluster.a)
    assert cluster.state() is State.LINKED
    assert cluster.interfaces(old) == []
    assert cluster.show(new, "in1")["ifindex"] == before["ifindex"]
    wait_for_ping(cluster, new, TO_PAIR)


def test_fault_05_a_late_del_spares_a_newer_sandbox_in_the_same_namespace(cluster: Cluster) -> None:
    old, _ = cluster.linked_pair()
    new = Sandbox(old.pod, "f" * 64, old.netns)
    assert cluster.a.add(new).status == 0
    assert cluster.a.call("DEL", old).status == 0
    look_at_everything(cluster.a)
    assert cluster.state() is State.LINKED
    wait_for_ping(cluster, new, TO_PAIR)
    end_pods(cluster, (cluster.a, new))


def test_fault_06_add_twice_without_del_is_refused(cluster: Cluster) -> None:
    primary, _ = cluster.linked_pair()
    again = cluster.a.call("ADD", primary)
    assert again.status == 1
    assert "it has been added before" in again.error
    assert "DEL" in again.json["details"]
    assert list(cluster.bed.links()) == [LINK]
    assert cluster.interfaces(primary) == ["in1"]
    assert cluster.pings(primary, TO_PAIR)


def test_fault_06_two_adds_at_once_make_one_link(cluster: Cluster) -> None:
    """Whichever comes second is refused; what the first has made is not taken back with it."""
    pair = cluster.pair(cluster.b)
    assert cluster.b.add(pair).status == 0
    primary = cluster.primary(cluster.a)
    answers = cluster.call_all("ADD", [(cluster.a, primary)] * 4)
    assert sorted(answer.status for answer in answers) == [0, 1, 1, 1], [answer.stdout for answer in answers]
    for refused in (answer for answer in answers if answer.status):
        assert refused.json["code"] == (107 if "it has been added before" in refused.error else 11)
        assert "added before" in refused.error or "another ADD of it still runs" in refused.error
    cluster.wait_until(State.LINKED)
    assert cluster.interfaces(primary) == ["in1"]
    wait_for_ping(cluster, primary, TO_PAIR)


# 8: who the pod is


def test_fault_08_a_static_pod_is_known_by_its_mirror(cluster: Cluster) -> None:
    """The kubelet calls a static pod by a UID of its own; the mirror in the API has another, and an annotation.

    The link is looked after as any other: when its peer comes again, it is linked again.
    """
    mirror = cluster.pod("primary-pod", PRIMARY, cluster.a, **{"kubernetes.io/config.mirror": KUBELETS_UID})
    static = Sandbox(PodRef("default", "primary-pod", KUBELETS_UID), mirror.container_id, mirror.netns)
    pair = cluster.pair(cluster.b)
    cluster.add_all((cluster.a, static), (cluster.b, pair))
    cluster.wait_until(State.LINKED)
    end_pods(cluster, (cluster.b, pair))
    cluster.wait_until(State.PRIMARY_READY)
    again = cluster.pair(cluster.a)
    assert cluster.a.add(again).status == 0
    cluster.wait_until(State.LINKED)
    wait_for_ping(cluster, again, TO_PRIMARY)
    assert cluster.a.call("CHECK", static).status == 0
    end_pods(cluster, (cluster.a, static))


def test_fault_08_a_pod_that_only_has_the_name_of_a_static_one_is_refused(cluster: Cluster) -> None:
    mirror = cluster.pod("primary-pod", PRIMARY, cluster.a, **{"kubernetes.io/config.mirror": "another"})
    static = Sandbox(PodRef("default", "primary-pod", KUBELETS_UID), mirror.container_id, mirror.netns)
    answer = cluster.a.call("ADD", static)
    assert answer.json["code"] == 11
    assert "has been replaced" in answer.error
    assert cluster.bed.links() == {}


# 15: what a watch told long ago


def frozen(cluster: Cluster, node: Kubelet) -> None:
    """Have a node's watches tell nothing more; its requests are answered as ever."""
    cluster.faults.frozen.add(node.host.address)


def thawed(cluster: Cluster) -> None:
    cluster.faults.frozen.clear()


def reads_of_record(cluster: Cluster, node: Kubelet) -> int:
    matches = sent_by(node, "GET", path=f"/configmaps/{LINK}")
    return sum(matches(sent) and sent.status > 0 for sent in cluster.faults.sent)


@pytest.mark.parametrize("node_of_new", ["a", "b"])
def test_fault_15_a_stale_watch_destroys_nothing_when_a_peer_comes_again(cluster: Cluster, node_of_new: str) -> None:
    """The node of the primary hears nothing of it that its pair was deleted and has come again, here or there."""
    primary, pair = cluster.linked_pair()
    before = cluster.show(primary, "in1")
    frozen(cluster, cluster.a)
    end_pods(cluster, (cluster.b, pair))
    look_at_everything(cluster.a)
    node = node_named(cluster, node_of_new)
    again = cluster.pair(node)
    assert node.add(again).status == 0
    look_at_everything(cluster.a)
    assert cluster.interfaces(primary) == ["in1"]
    if node_of_new == "b":
        cluster.wait_until(State.LINKED)
        assert cluster.show(primary, "in1")["ifindex"] == before["ifindex"]
    thawed(cluster)
    cluster.wait_until(State.LINKED)
    wait_for_ping(cluster, primary, TO_PAIR)
    wait_for_ping(cluster, again, TO_PRIMARY)


def test_fault_15_a_link_is_not_given_up_for_a_pod_that_only_memory_misses(cluster: Cluster) -> None:
    """The pair's node has heard that the primary is deleted, and not that it was created again."""
    primary, pair = cluster.linked_pair()
    before = cluster.show(pair, "in2")
    reads = reads_of_record(cluster, cluster.b)
    cluster.bed.delete_pod(primary.pod)
    # It has looked whether the link is to be given up, and the primary's sandbox was still there.
    wait_for("a look at the record", lambda: reads_of_record(cluster, cluster.b) > reads)
    frozen(cluster, cluster.b)
    again = cluster.primary(cluster.a)
    assert cluster.a.call("DEL", primary).status == 0
    cluster.bed.hosts.remove_namespace(primary.netns)
    reads = reads_of_record(cluster, cluster.b)
    look_at_everything(cluster.b)
    wait_for("another look", lambda: reads_of_record(cluster, cluster.b) > reads)
    assert cluster.a.add(again).status == 0
    thawed(cluster)
    cluster.wait_until(State.LINKED)
    assert cluster.show(pair, "in2")["ifindex"] == before["ifindex"]
    wait_for_ping(cluster, pair, TO_PRIMARY)


def test_fault_15_a_stale_watch_does_not_bring_a_link_back(cluster: Cluster) -> None:
    """Both pods go; what the frozen node is told later of their link makes nothing anew."""
    primary, pair = cluster.linked_pair()
    frozen(cluster, cluster.a)
    end_pods(cluster, (cluster.b, pair), (cluster.a, primary))
    cluster.assert_nothing_left()
    thawed(cluster)
    look_at_everything(cluster.a)
    plain = cluster.pod("plain", {}, cluster.a)
    assert cluster.a.add(plain).status == 0
    cluster.wait_until(None)
