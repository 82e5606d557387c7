"""Faults that a pair-wise plugin has to survive, each test named after its row in docs/faults.md."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ratchet.core.model import MIRROR_ANNOTATION, PodRef, State
from ratchet.datapath.messages import GROUP
from ratchet.dev.fake_kubelet import Sandbox
from ratchet.dev.hosts import ip, netns_path, run_in
from ratchet.dev.testbed import wait_for
from ratchet.gc import RemovalResult, collect_garbage
from tests.support.cluster import (
    CHAINED,
    LINK,
    PAIR,
    PRIMARY,
    Cluster,
    collected,
    end_pods,
    lists_topologies,
    recreated,
    sent_by,
)
from tests.support.faults import Gate, Rule, answering, doing, dropping

pytestmark = pytest.mark.own_cluster  # what a fault leaves must not reach the next test

OLD_POD = "00000000-0000-4000-8000-000000000000"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_fault_01_add_is_killed_at_every_request(cluster: Cluster, node_of_pair: str, when: str) -> None:
    """SIGKILL of the ADD that completes a link at each of its requests, unseen by the API or just applied by it."""
    node = cluster.a if node_of_pair == "a" else cluster.b
    request = 0
    while True:
        request += 1
        primary, pair = cluster.primary(cluster.a), cluster.pair(node)
        waiting = cluster.start("ADD", node, pair)
        cluster.wait_until(State.PENDING)
        # Sent to stand still first, so that on one node the rule meets the other's requests and not these.
        cluster.faults.clear()
        victim = cluster.start("ADD", cluster.a, primary)
        rule = Rule(sent_by(cluster.a), first=request)
        setattr(rule, when, doing(victim.kill))
        cluster.faults.add(rule)
        killed = victim.wait(60) != 0
        cluster.faults.clear()
        waiting.kill()
        waiting.wait()
        end_pods(cluster, (cluster.a, primary), (node, pair))
        collected(cluster)  # a VNI that was claimed, and whose number was never written, is left to it
        cluster.assert_nothing_left()
        if not killed:
            break
    assert request >= 2


@pytest.mark.parametrize("at", ["claim", "note", "noted"])
def test_fault_02_del_runs_while_add_runs_and_add_ends_after(cluster: Cluster, at: str) -> None:
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    waiting = cluster.start("ADD", cluster.b, pair)
    cluster.wait_until(State.PENDING)
    gate = Gate()
    where = {
        "claim": Rule(sent_by(cluster.a, "POST"), before=gate),
        "note": Rule(sent_by(cluster.a, "PATCH"), before=gate),
        "noted": Rule(sent_by(cluster.a, "PATCH"), after=gate),
    }
    cluster.faults.add(where[at])
    adding = cluster.start("ADD", cluster.a, primary)
    assert gate.reached.wait(20)
    # ADD holds the link's lock by now, for which DEL waits once it has said that it has come.
    deleting = cluster.start("DEL", cluster.a, primary)
    wait_for("the tombstone", lambda: any((cluster.a.state_dir / "deleted").glob(f"{primary.container_id}*")))
    gate.opened.set()
    answer = cluster.end(adding)
    assert answer.json["code"] == 11
    assert cluster.end(deleting).status == 0
    assert cluster.interfaces(primary) == []
    assert not cluster.bed.links()[LINK].primary.sandbox
    waiting.kill()
    waiting.wait()
    end_pods(cluster, (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_03_del_three_times_with_ever_less(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    assert cluster.a.call("DEL", primary).status == 0
    bare = Sandbox(primary.pod, primary.container_id, primary.netns)
    for _ in range(2):
        answer = cluster.a.call("DEL", bare, CNI_NETNS="")
        assert (answer.status, answer.stdout) == (0, "")
    assert cluster.state() is State.PENDING
    end_pods(cluster, (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_04_del_never_comes(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    cluster.bed.delete_pod(primary.pod)
    removed = collected(cluster)
    assert len(removed) == 1
    assert removed[0].startswith(f"end of {LINK}: primary default/primary-pod: the pod with UID")
    assert cluster.state() is State.PENDING
    cluster.bed.delete_pod(pair.pod)
    assert collected(cluster)[0].startswith(f"record {LINK}: pair default/pair-pod")
    assert cluster.bed.links() == {}
    assert cluster.bed.records.vnis.list() == []


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_fault_05_a_late_del_of_the_old_sandbox_harms_nothing(cluster: Cluster, node_of_pair: str) -> None:
    pair_node = cluster.a if node_of_pair == "a" else cluster.b
    old, pair = cluster.linked_pair(pair_node)
    new = cluster.sandbox(cluster.a, old.pod)
    assert cluster.a.add(new).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.a.call("DEL", old).status == 0
    assert cluster.state() is State.LINKED
    assert cluster.interfaces(old) == []
    assert cluster.pings(new, "192.168.2.101")
    end_pods(cluster, (cluster.a, new), (pair_node, pair))
    cluster.assert_nothing_left()


def test_fault_05_a_late_del_spares_a_newer_sandbox_in_the_same_namespace(cluster: Cluster) -> None:
    old, pair = cluster.linked_pair()
    new = Sandbox(old.pod, "f" * 64, old.netns)
    assert cluster.a.add(new).status == 0
    assert cluster.a.call("DEL", old).status == 0
    assert cluster.pings(new, "192.168.2.101")
    assert cluster.state() is State.LINKED
    end_pods(cluster, (cluster.a, new), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_06_add_twice_without_del_is_refused(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    again = cluster.a.call("ADD", primary)
    assert again.status == 1
    assert "it has been added before" in again.error
    assert len(cluster.bed.links()) == 1
    assert cluster.pings(primary, "192.168.2.101")
    end_pods(cluster, (cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_06_add_after_del_of_the_same_container_is_a_new_one(cluster: Cluster) -> None:
    """The specification lets a container id come again once it was deleted (cnitool makes it from the namespace)."""
    primary, pair = cluster.linked_pair()
    assert cluster.a.call("DEL", primary).status == 0
    assert cluster.a.add(primary).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(primary, "192.168.2.101")
    end_pods(cluster, (cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_06_an_add_that_still_runs_harms_none_that_came_after_its_del(cluster: Cluster) -> None:
    pair = cluster.pair(cluster.b, **{"ratchet.primary": "false"})
    noted = cluster.b.state_dir / "sandboxes"
    first = cluster.start("ADD", cluster.b, pair)
    wait_for("the first ADD to wait to be named", lambda: any(noted.glob(f"{pair.container_id}*")))
    assert cluster.b.call("DEL", pair).status == 0
    assert not any(noted.glob(f"{pair.container_id}*"))
    second = cluster.start("ADD", cluster.b, pair)
    wait_for("the second ADD to wait to be named", lambda: any(noted.glob(f"{pair.container_id}*")))
    primary = cluster.primary(cluster.a)
    assert cluster.a.add(primary).status == 0
    assert cluster.end(first).json["code"] == 11
    assert cluster.end(second).status == 0
    cluster.wait_until(State.LINKED)
    assert any(noted.glob(f"{pair.container_id}*"))
    assert cluster.pings(primary, "192.168.2.101")
    end_pods(cluster, (cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_07_a_pod_that_comes_again_under_a_new_uid(cluster: Cluster) -> None:
    """The old pod's sandbox was never deleted; the new pod's takes its place, and its peer's end leads to it."""
    old, pair = cluster.linked_pair(cluster.a)
    new = recreated(cluster, old, PRIMARY, cluster.a)
    assert cluster.a.add(new).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.bed.links()[LINK].primary.sandbox.pod.uid == new.pod.uid  # type: ignore[union-attr]
    assert cluster.interfaces(old) == []
    assert cluster.pings(new, "192.168.2.101")
    end_pods(cluster, (cluster.a, old), (cluster.a, new), (cluster.a, pair))
    cluster.assert_nothing_left()


def test_fault_08_a_static_pod_is_known_by_its_mirror(cluster: Cluster) -> None:
    """The kubelet calls a static pod by a UID of its own; the mirror in the API has another, and an annotation."""
    mirror = cluster.pod("static", {"ratchet": "true"}, cluster.a, **{"kubernetes.io/config.mirror": OLD_POD})
    static = Sandbox(PodRef("default", "static", OLD_POD), mirror.container_id, mirror.netns)
    assert cluster.a.add(static).status == 0
    end_pods(cluster, (cluster.a, static))
    cluster.assert_nothing_left()


def test_fault_09_the_pod_is_gone_before_add(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    cluster.bed.delete_pod(primary.pod)
    answer = cluster.a.call("ADD", primary)
    assert answer.json["code"] == 11
    assert answer.error.startswith("cannot find pod default/primary-pod")
    assert cluster.interfaces(primary) == []
    cluster.assert_nothing_left()


def test_fault_09_another_pod_has_its_name_by_now(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    stranger = Sandbox(PodRef("default", "primary-pod", OLD_POD), primary.container_id, primary.netns)
    answer = cluster.a.call("ADD", stranger)
    assert answer.json["code"] == 11
    assert "has been replaced" in answer.error
    cluster.assert_nothing_left()


def test_fault_10_the_api_is_down_at_add(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    cluster.faults.add(Rule(sent_by(cluster.a), before=dropping, times=10_000))
    answer = cluster.a.call("ADD", primary)
    assert answer.json["code"] == 11
    assert "cannot reach the Kubernetes API" in answer.error
    cluster.faults.clear()
    cluster.assert_nothing_left()


def test_fault_11_the_api_is_down_at_del(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    cluster.faults.add(Rule(sent_by(cluster.a), before=dropping, times=10_000))
    end_pods(cluster, (cluster.a, primary))
    assert cluster.state() is State.LINKED
    cluster.faults.clear()
    if cluster.bed.agents:  # which keeps it in mind, and says it once there is an API again
        cluster.wait_until(State.PENDING, seconds=30)
    else:
        assert any("primary-pod" in line for line in collected(cluster))
    end_pods(cluster, (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_11_the_api_is_down_at_del_while_a_worker_reconciles_the_link(cluster: Cluster) -> None:
    """After the peer's DEL, an agent's worker needs the API and holds the link's lock, for which this DEL waits."""
    primary, pair = cluster.linked_pair()
    of_the_record = cluster.faults.add(Rule(sent_by(cluster.a, path=LINK), before=dropping, times=10_000))
    cluster.faults.add(Rule(sent_by(cluster.a), before=dropping, times=10_000))
    end_pods(cluster, (cluster.b, pair))
    if cluster.bed.agents:
        wait_for("a request of the worker", lambda: of_the_record.taken > 0)
    end_pods(cluster, (cluster.a, primary))
    cluster.faults.clear()
    if not cluster.bed.agents:
        collected(cluster)
    cluster.wait_until(None)
    cluster.assert_nothing_left()


def test_fault_12_a_storm_of_conflicts(cluster: Cluster) -> None:
    """Time and again, another writer is quicker than either side by a hair."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    touches: list[object] = []

    def touch() -> None:
        annotation = {"metadata": {"annotations": {"storm": str(len(touches))}}}
        touches.append(cluster.bed.api.patch(f"/api/v1/namespaces/ratchet/configmaps/{LINK}", annotation))

    for node in (cluster.a, cluster.b):
        cluster.faults.add(Rule(sent_by(node, "PATCH"), before=doing(touch), times=8))
    cluster.add_all((cluster.a, primary), (cluster.b, pair))
    cluster.wait_until(State.LINKED)
    assert len(touches) > 8  # of both: who is left alone with the record has no more to write than once
    assert sum(sent.status == 409 for sent in cluster.faults.sent) >= len(touches)
    assert cluster.pings(primary, "192.168.2.101")


@pytest.mark.parametrize("lost", range(1, 3))
def test_fault_13_a_write_is_applied_and_its_reply_lost(cluster: Cluster, lost: int) -> None:
    """Each of the writes of the ADD that makes the link a pair: the Lease, and all the rest in one."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    waiting = cluster.start("ADD", cluster.b, pair)
    cluster.wait_until(State.PENDING)
    rule = cluster.faults.add(Rule(sent_by(cluster.a, "POST", "PATCH"), after=dropping, first=lost))
    assert cluster.a.add(primary).status == 0
    assert rule.seen > lost
    assert cluster.end(waiting).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(primary, "192.168.2.101")
    assert [lease.vni for lease in cluster.bed.records.vnis.list()] == [cluster.bed.links()[LINK].vni]


def test_fault_13_a_deletion_is_applied_and_its_reply_lost(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    end_pods(cluster, (cluster.a, primary))
    cluster.faults.add(Rule(sent_by(cluster.b, "DELETE"), after=dropping))
    end_pods(cluster, (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_14_a_busy_api_says_when_to_come_again(cluster: Cluster) -> None:
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    busy = answering(429, "TooManyRequests", **{"Retry-After": "2"})
    cluster.faults.add(Rule(sent_by(cluster.a, "PATCH"), before=busy))
    waiting = cluster.start("ADD", cluster.b, pair)
    began = time.monotonic()
    assert cluster.a.add(primary).status == 0
    assert time.monotonic() - began >= 2
    assert cluster.end(waiting).status == 0


def test_fault_14_a_slow_api_is_given_up_on(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    gate = Gate()
    cluster.faults.add(Rule(sent_by(cluster.a), before=gate, times=10_000))
    try:
        answer = cluster.a.call("ADD", primary)
    finally:
        gate.opened.set()
    assert answer.json["code"] == 11


def test_fault_16_gc_spares_an_add_that_is_under_way(cluster: Cluster) -> None:
    """Garbage collection runs over and over while a link is made, and while it stands."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    adding = [cluster.start("ADD", node, one) for node, one in ((cluster.a, primary), (cluster.b, pair))]
    removed = []
    while any(process.poll() is None for process in adding):
        removed += collected(cluster)
    for process in adding:
        assert cluster.end(process).status == 0
    assert removed == []
    cluster.wait_until(State.LINKED)
    assert collected(cluster) == []


def test_fault_16_gc_loses_to_a_pod_that_comes_between_its_lists(cluster: Cluster) -> None:
    """The record of a pod that is gone is listed; before it is written, the pod has come again and joined."""
    old, pair = cluster.linked_pair()
    new = recreated(cluster, old, PRIMARY, cluster.a)
    listed = cluster.bed.records.links.list

    def links_and_then_add() -> object:
        result = listed()
        assert cluster.a.add(new).status == 0
        return result

    records = cluster.bed.records
    records.links.list = links_and_then_add  # type: ignore[method-assign, assignment]
    found = list(collect_garbage(records, now=lambda: datetime.now(UTC), grace=timedelta(0)))
    assert [removal.result for removal in found] == [RemovalResult.CHANGED]
    cluster.wait_until(State.LINKED)
    assert cluster.pings(new, "192.168.2.101")
    end_pods(cluster, (cluster.a, old), (cluster.a, new), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_17_three_collections_at_once(cluster: Cluster) -> None:
    kept = cluster.linked_pair()
    for number in range(4):
        other = cluster.pod(f"p{number}", {**PRIMARY, "ratchet.pair_name": f"q{number}"}, cluster.a)
        peer = cluster.pod(f"q{number}", PAIR, cluster.b)
        cluster.add_all((cluster.a, other), (cluster.b, peer))
        cluster.forget_pods(other, peer)
    with ThreadPoolExecutor() as at_once:
        removed = [line for lines in at_once.map(lambda _: collected(cluster), range(3)) for line in lines]
    assert len(removed) >= 4
    assert list(cluster.bed.links()) == [LINK]
    assert [lease.vni for lease in cluster.bed.records.vnis.list()] == [cluster.bed.links()[LINK].vni]
    assert cluster.pings(kept[0], "192.168.2.101")
    assert collected(cluster) == []


@pytest.mark.agent(vni_range="11-11")  # else it would take one that has been free for longer
def test_fault_24_a_stale_tunnel_in_a_leaked_namespace(cluster: Cluster) -> None:
    """The pod is gone, its namespace is not, and the tunnel in it still claims the VNI on its node."""
    old, pair = cluster.linked_pair()
    end_of_pair = (cluster.b, pair)
    agent = cluster.bed.agents.get("a")
    if agent:  # which would remember the sandbox, and take down what is left of it
        agent.stop()
    cluster.bed.delete_pod(old.pod)
    cluster.a.forget(old)
    end_pods(cluster, end_of_pair)
    assert any(line.startswith("record") for line in collected(cluster))
    if agent:
        agent.start()
    assert cluster.interfaces(old) == ["in1"]
    primary, pair = cluster.linked_pair()
    assert cluster.bed.links()[LINK].vni == 11
    assert cluster.interfaces(old) == []
    assert cluster.pings(primary, "192.168.2.101")


def test_fault_34_a_vni_in_use_by_a_foreign_device_of_the_node(cluster: Cluster) -> None:
    """The first free number is that of another network's VXLAN device on every node: the link gets another number."""
    foreign = ["vxlan.calico", "type", "vxlan", "id", "11", "dev", "eth0", "dstport", "4789"]
    for node in (cluster.a, cluster.b):
        ip("-n", node.host.netns, "link", "add", *foreign)
    primary, pair = cluster.linked_pair()
    record = cluster.bed.links()[LINK]
    assert record.vni not in (None, 11)
    assert record.refused_vnis == (11,)
    assert any("VNI 11 replaced by" in step.reason for step in record.history)
    wait_for("the Lease of the new number alone", lambda: vni_holders(cluster) == {record.vni: record.uid})
    assert cluster.pings(primary, "192.168.2.101")
    for node in (cluster.a, cluster.b):
        ip("-n", node.host.netns, "link", "del", "vxlan.calico")
    end_pods(cluster, (cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def vni_holders(cluster: Cluster) -> dict[int, str]:
    return {lease.vni: lease.holder for lease in cluster.bed.records.vnis.list()}


def test_fault_25_a_veth_dies_with_the_namespace_of_its_peer(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair(cluster.a)
    cluster.bed.hosts.remove_namespace(pair.netns)
    wait_for("the end of the veth", lambda: cluster.interfaces(primary) == [])
    assert cluster.a.call("DEL", pair).status == 0
    assert cluster.state() is State.PRIMARY_READY
    again = recreated(cluster, pair, PAIR, cluster.a)
    assert cluster.a.add(again).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(primary, "192.168.2.101")


def test_fault_26_a_link_that_is_half_made_is_finished(cluster: Cluster) -> None:
    """Killed between building and noting; then its interface is made half of what it was, and ADD comes again."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.a)
    waiting = cluster.start("ADD", cluster.a, pair)
    cluster.wait_until(State.PENDING)
    victim: list[subprocess.Popen[str]] = []
    cluster.faults.clear()
    cluster.faults.add(Rule(sent_by(cluster.a, "PATCH"), before=doing(lambda: victim[0].kill())))
    waiting.kill()
    waiting.wait()
    victim.append(cluster.start("ADD", cluster.a, primary))
    assert victim[0].wait(30) != 0
    cluster.faults.clear()
    assert cluster.interfaces(primary) == ["in1"]
    run_in(primary.netns, "ip", "addr", "flush", "dev", "in1")
    run_in(primary.netns, "ip", "link", "set", "in1", "mtu", "1280", "down")
    again = Sandbox(primary.pod, "e" * 64, primary.netns)
    assert cluster.a.add(again, config={**CHAINED, "wait": 10}).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.show(again, "in1")["mtu"] == 1500
    assert cluster.pings(again, "192.168.2.101")


# 32: unknown is not absent


ASKS = {"ratchet": "true"}
DRAWN = "default.a.in1.b.in2"
LAB = '- {endpoints: ["a:in1", "b:in2"], addresses: ["10.0.1.1/24", "10.0.1.2/24"]}'
FORBIDDEN = answering(403, "Forbidden")


def drawn_pair(cluster: Cluster) -> tuple[Sandbox, Sandbox]:
    """Two pods that a topology links; the primary on `a`, the pair on `b`."""
    cluster.bed.create_topology("lab", LAB)
    return cluster.pod("a", ASKS, cluster.a), cluster.pod("b", ASKS, cluster.b)


def test_fault_32_add_is_code_11_while_topologies_are_forbidden_and_links_the_pod_afterwards(cluster: Cluster) -> None:
    """The pod does not start without its links; the agent is not restarted for what follows."""
    a, b = drawn_pair(cluster)
    plain = cluster.pod("plain", {}, cluster.a)
    rule = cluster.faults.add(Rule(lists_topologies(cluster.a, cluster.b), before=FORBIDDEN, times=10**9))
    for _ in range(2):
        refused = cluster.a.call("ADD", a, config={**CHAINED, "wait": 0.5})
        assert refused.json["code"] == 11, refused
        assert refused.error == "cannot read the topologies of namespace default: forbidden"
        assert "`topologies: off`" in refused.json["details"]
        assert "ClusterRole ratchet-topologies" in refused.json["details"]
        assert cluster.interfaces(a) == []
    assert rule.taken > 1
    assert cluster.a.add(plain).status == 0, "a pod that asks for no links is not affected"
    agents = [agent.pid for agent in cluster.bed.agents.values()]
    cluster.faults.clear()
    cluster.add_all((cluster.a, a), (cluster.b, b))
    cluster.wait_until(State.LINKED, DRAWN)
    assert cluster.pings(a, "10.0.1.2")
    assert [agent.pid for agent in cluster.bed.agents.values()] == agents
    cluster.delete_all((cluster.a, a), (cluster.b, b), (cluster.a, plain))
    cluster.assert_nothing_left()


def test_fault_32_add_waits_for_topologies_that_are_forbidden_for_moments(cluster: Cluster) -> None:
    """As RBAC has it after an API server has restarted."""
    a, b = drawn_pair(cluster)
    rules = [
        cluster.faults.add(Rule(lists_topologies(node, watches=False), before=FORBIDDEN, times=2))
        for node in (cluster.a, cluster.b)
    ]
    cluster.add_all((cluster.a, a), (cluster.b, b))
    assert [rule.taken for rule in rules] == [2, 2]
    cluster.wait_until(State.LINKED, DRAWN)
    cluster.delete_all((cluster.a, a), (cluster.b, b))
    cluster.assert_nothing_left()


def test_fault_32_status_is_50_while_topologies_are_forbidden(cluster: Cluster) -> None:
    latest = {**CHAINED, "cniVersion": "1.1.0"}
    assert cluster.a.call("STATUS", config=latest).status == 0
    cluster.faults.add(Rule(lists_topologies(cluster.a), before=FORBIDDEN, times=10**9))
    answer = cluster.a.call("STATUS", config=latest)
    assert answer.json["code"] == 50
    assert answer.error == "cannot serve ADD: cannot list topologies (topologies: on): forbidden"
    assert "`topologies: off`" in answer.json["details"]


@pytest.mark.agent(topologies="off")
def test_fault_32_topologies_that_are_off_are_never_listed(cluster: Cluster) -> None:
    rule = cluster.faults.add(Rule(lists_topologies(cluster.a, cluster.b), before=FORBIDDEN, times=10**9))
    for node in (cluster.a, cluster.b):
        node.config["topologies"] = "off"
    cluster.bed.create_topology("lab", LAB)
    primary, pair = cluster.linked_pair()
    a = cluster.pod("a", ASKS, cluster.a)
    assert cluster.a.add(a).status == 0
    assert cluster.interfaces(a) == []
    assert cluster.a.call("STATUS", config={**cluster.a.config, "cniVersion": "1.1.0"}).status == 0
    assert rule.taken == 0
    cluster.delete_all((cluster.a, primary), (cluster.b, pair), (cluster.a, a))
    cluster.assert_nothing_left()


def test_fault_32_a_topology_that_does_not_parse_blocks_only_the_pods_that_it_may_concern(cluster: Cluster) -> None:
    cluster.bed.create_topology("lab", "- endpoints: [router-a:in1, router-b:in2")
    a, other = cluster.pod("router-a", ASKS, cluster.a), cluster.pod("other", ASKS, cluster.a)
    answer = cluster.a.call("ADD", a)
    assert answer.json["code"] == 101
    assert answer.error.startswith("cannot link pod default/router-a: topology default/lab: line 2")
    assert cluster.a.add(other).status == 0
    cluster.delete_all((cluster.a, a), (cluster.a, other))
    cluster.assert_nothing_left()


# 35 to 37: an interface is its namespace's, its record's and its attachment's


def put_stranger(cluster: Cluster, sandbox: Sandbox, *interfaces: str) -> None:
    """Another pod's namespace at the path of a sandbox, whose own is gone; its interfaces have Ratchet's mark."""
    ip("netns", "del", sandbox.netns)
    ip("netns", "add", sandbox.netns)
    for ifname in interfaces:
        ip(
            "-n",
            sandbox.netns,
            "link",
            "add",
            ifname,
            "group",
            str(GROUP),
            "type",
            "veth",
            "peer",
            "name",
            f"{ifname}-p",
        )


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_fault_35_a_late_del_does_not_touch_the_namespace_that_has_the_path_now(
    cluster: Cluster, node_of_pair: str
) -> None:
    node = cluster.bed.kubelets[node_of_pair]
    primary, pair = cluster.linked_pair(node)
    with cluster.keep_others_from(cluster.a):
        put_stranger(cluster, primary, "in1")
        deleting = cluster.start("DEL", cluster.a, primary)
    assert cluster.end(deleting).status == 0
    assert cluster.interfaces(primary) == ["in1-p", "in1"]
    ip("-n", primary.netns, "link", "del", "in1")
    end_pods(cluster, (cluster.a, primary), (node, pair))
    cluster.assert_nothing_left()


def test_fault_35_nothing_is_made_in_the_namespace_that_has_the_path_now(cluster: Cluster) -> None:
    """The pair comes again, and the far half of its vEth would be made at the primary's path."""
    primary, pair = cluster.linked_pair(cluster.a)
    put_stranger(cluster, primary)
    end_pods(cluster, (cluster.a, pair))
    again = recreated(cluster, pair, PAIR, cluster.a)
    answer = cluster.a.call("ADD", again, config={**CHAINED, "wait": 2})
    assert answer.json.get("code") == 11, answer
    assert cluster.interfaces(primary) == []
    end_pods(cluster, (cluster.a, primary), (cluster.a, again))
    cluster.assert_nothing_left()


def test_fault_36_the_record_names_a_namespace_that_is_not_the_peers(cluster: Cluster) -> None:
    """A write to the record does not lead anybody into a pod that asks for no links."""
    primary, pair = cluster.linked_pair(cluster.a)
    victim = cluster.pod("victim", {}, cluster.a)
    end_pods(cluster, (cluster.a, pair))
    path = f"{cluster.bed.records.links.path}/{LINK}"
    data = cluster.bed.api.get(path)["data"]
    key = next(key for key, value in data.items() if value == netns_path(primary.netns))
    cluster.bed.api.patch(path, {"data": {key: netns_path(victim.netns)}})
    again = recreated(cluster, pair, PAIR, cluster.a)
    assert cluster.a.add(again).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(again, "192.168.2.100")
    assert cluster.interfaces(victim) == []
    end_pods(cluster, (cluster.a, primary), (cluster.a, again), (cluster.a, victim))
    cluster.assert_nothing_left()


@pytest.mark.parametrize("first", ["eth0", "net1"])
def test_fault_37_the_del_of_one_attachment_leaves_the_links_of_the_other(cluster: Cluster, first: str) -> None:
    """As Multus does: the same sandbox is attached twice, and both attachments find the pod's links declared."""
    multus = {"config": {**CHAINED, "name": "multus"}, "CNI_IFNAME": "net1"}
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    waiting = cluster.start("ADD", cluster.b, pair)
    calls: dict[str, dict[str, Any]] = {"eth0": {}, "net1": multus}
    other = "net1" if first == "eth0" else "eth0"
    for attachment in (first, other):
        answer = cluster.a.call("ADD", primary, **calls[attachment])
        assert answer.status == 0, answer
        if attachment == first:
            primary.result = answer.json
    assert cluster.end(waiting).status == 0
    index = cluster.show(primary, "in1")["ifindex"]
    assert cluster.a.call("DEL", primary, **calls[other]).status == 0
    assert cluster.show(primary, "in1")["ifindex"] == index
    assert cluster.state() is State.LINKED
    assert cluster.pings(primary, "192.168.2.101")
    assert cluster.a.call("CHECK", primary, **calls[first]).status == 0
    assert cluster.a.call("DEL", primary, **calls[first]).status == 0
    assert cluster.interfaces(primary) == []
    end_pods(cluster, (cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


# 40: a newer version's record


def written_by_a_newer_version(cluster: Cluster, least: int) -> str:
    """Change the record as a newer version would, for readers of schema `least` at least; the path of the record."""
    path = f"{cluster.bed.records.links.path}/{LINK}"
    history = cluster.bed.api.get(path)["data"]["history"]
    news = {"schema": "7", "minReader": str(least), "news": "x", "a.news": "y", "history": f"in a new form\n{history}"}
    cluster.bed.api.patch(path, {"data": news})
    return path


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_fault_40_a_newer_record_that_may_be_used_is_used_and_kept(cluster: Cluster, node_of_pair: str) -> None:
    node = cluster.bed.kubelets[node_of_pair]
    primary, pair = cluster.linked_pair(node)
    path = written_by_a_newer_version(cluster, least=2)
    end_pods(cluster, (node, pair))
    again = recreated(cluster, pair, PAIR, node)
    assert node.add(again).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(again, "192.168.2.100")
    data = cluster.bed.api.get(path)["data"]
    assert (data["schema"], data["minReader"], data["news"], data["a.news"]) == ("7", "2", "x", "y")
    assert data["history"].startswith("in a new form\n")
    end_pods(cluster, (cluster.a, primary), (node, again))
    cluster.assert_nothing_left()


def test_fault_40_a_record_for_newer_versions_alone_is_left_but_for_ones_own_end(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair(cluster.b)
    index = cluster.show(primary, "in1")["ifindex"]
    path = written_by_a_newer_version(cluster, least=7)
    before = cluster.bed.api.get(path)["data"]
    assert cluster.b.call("DEL", pair).status == 0
    assert cluster.interfaces(pair) == []
    wait_for("the end of the pair", lambda: cluster.bed.api.get(path)["data"].get("a.sandbox") is None)
    after = cluster.bed.api.get(path)["data"]
    changed = {key for key in before if before[key] != after.get(key)}
    assert all(key.startswith("a.") for key in changed), changed
    assert after["b.sandbox"] == primary.container_id
    again = cluster.sandbox(cluster.b, pair.pod)
    refused = cluster.b.call("ADD", again, config={**CHAINED, "wait": 2})
    assert refused.error.startswith(f"cannot use the record {LINK}: it needs a version that reads schema 7")
    assert cluster.show(primary, "in1")["ifindex"] == index
    cluster.bed.api.patch(path, {"data": {"minReader": "2"}})
    end_pods(cluster, (cluster.a, primary), (cluster.b, pair), (cluster.b, again))
    cluster.assert_nothing_left()


# 39: a Node object and a mirror pod are not the pod


def test_fault_39_a_node_object_is_missing_for_a_moment(cluster: Cluster) -> None:
    """Both Node objects are deleted and created again while both pods live; gc runs in between."""
    primary, pair = cluster.linked_pair()
    nodes = [cluster.bed.api.get(f"/api/v1/nodes/{name}") for name in ("a", "b")]
    for node in nodes:
        cluster.bed.api.delete(f"/api/v1/nodes/{node['metadata']['name']}", uid=node["metadata"]["uid"])
    assert cluster.bed.records.nodes.list() == {}
    assert [line for line in collected(cluster) if LINK in line] == []
    for node in nodes:
        metadata = {"name": node["metadata"]["name"]}
        cluster.bed.api.create("/api/v1/nodes", {**node, "metadata": metadata})
    assert [line for line in collected(cluster) if LINK in line] == []
    assert cluster.state() is State.LINKED
    assert cluster.pings(primary, "192.168.2.101")
    end_pods(cluster, (cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


@pytest.mark.parametrize("missing", ["mirror", "mirror and node"])
def test_fault_39_a_mirror_pod_is_made_anew(cluster: Cluster, missing: str) -> None:
    """The mirror has a new UID; the static pod, its sandbox and its link are the same."""
    mirror = cluster.pod("primary-pod", PRIMARY, cluster.a, **{MIRROR_ANNOTATION: OLD_POD})
    static = Sandbox(PodRef("default", "primary-pod", OLD_POD), mirror.container_id, mirror.netns)
    pair = cluster.pair(cluster.b)
    cluster.add_all((cluster.a, static), (cluster.b, pair))
    cluster.wait_until(State.LINKED)
    cluster.bed.delete_pod(mirror.pod)
    if missing == "mirror and node":
        node = cluster.bed.api.get("/api/v1/nodes/a")
        cluster.bed.api.delete("/api/v1/nodes/a", uid=node["metadata"]["uid"])
    again = cluster.bed.create_pod("primary-pod", PRIMARY, "a", {MIRROR_ANNOTATION: OLD_POD})
    assert again.uid != mirror.pod.uid
    assert [line for line in collected(cluster) if LINK in line] == []
    assert cluster.state() is State.LINKED
    assert cluster.pings(static, "192.168.2.101")
    newer = recreated(cluster, pair, PAIR, cluster.b)
    assert cluster.b.add(newer).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(newer, "192.168.2.100")
    end_pods(cluster, (cluster.a, static), (cluster.b, pair), (cluster.b, newer))
    cluster.bed.delete_pod(again)
    cluster.assert_nothing_left()
