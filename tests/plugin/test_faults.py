"""Faults on the daemonless plugin and on agents. Tests are numbered after the rows in docs/faults.md."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ratchet.core.model import Link, State
from ratchet.core.pod import MIRROR_ANNOTATION, PodRef
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
from tests.support.faults import Gate, Rule, answering, calling, dropping

pytestmark = pytest.mark.own_cluster  # leftovers of a fault must not affect the next test

OLD_POD = "00000000-0000-4000-8000-000000000000"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_fault_01_add_is_killed_at_every_request(cluster: Cluster, node_of_pair: str, when: str) -> None:
    """Kill (SIGKILL) the ADD that completes a link at each request, before or after the API applies it."""
    node = cluster.a if node_of_pair == "a" else cluster.b
    request = 0
    while True:
        request += 1
        primary, pair = cluster.primary(cluster.a), cluster.pair(node)
        waiting = cluster.start("ADD", node, pair)
        cluster.wait_until(State.PENDING)
        # The waiting ADD is idle by now, so on one node the rule counts only the victim's requests.
        cluster.faults.clear()
        victim = cluster.start("ADD", cluster.a, primary)
        rule = Rule(sent_by(cluster.a), first=request)
        setattr(rule, when, calling(victim.kill))
        cluster.faults.add(rule)
        killed = victim.wait(60) != 0
        cluster.faults.clear()
        waiting.kill()
        waiting.wait()
        end_pods(cluster, (cluster.a, primary), (node, pair))
        collected(cluster)  # a VNI that was claimed and not recorded is left to gc
        cluster.assert_nothing_left()
        if not killed:
            break
    assert request >= 2


@pytest.mark.parametrize("at", ["claim", "note", "noted"])
def test_fault_02_del_during_add_fails_the_add(cluster: Cluster, at: str) -> None:
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
    # ADD holds the link's lock. DEL writes its tombstone, then waits for the lock.
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


def test_fault_03_del_is_repeated_with_less_input(cluster: Cluster) -> None:
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
    cluster.wait_until_left()
    cluster.bed.delete_pod(pair.pod)
    records = [one for one in collected(cluster) if one.startswith("record ")]
    assert records or cluster.bed.agents  # the pair's agent may delete the record first: no pod declares the link
    assert all(one.startswith(f"record {LINK}: pair default/pair-pod") for one in records)
    cluster.wait_until(None)
    wait_for("no VNI", lambda: cluster.bed.store.vnis.list() == [])


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_fault_05_a_late_del_of_the_old_sandbox_keeps_the_newer_link(cluster: Cluster, node_of_pair: str) -> None:
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


def test_fault_06_a_second_add_without_del_is_rejected(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    again = cluster.a.call("ADD", primary)
    assert again.status == 1
    assert "it has been added before" in again.error
    assert len(cluster.bed.links()) == 1
    assert cluster.pings(primary, "192.168.2.101")
    end_pods(cluster, (cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_06_add_after_del_accepts_the_same_container_id(cluster: Cluster) -> None:
    """Reuse a container ID after DEL, as CNI allows (cnitool derives the ID from the namespace)."""
    primary, pair = cluster.linked_pair()
    assert cluster.a.call("DEL", primary).status == 0
    assert cluster.a.add(primary).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(primary, "192.168.2.101")
    end_pods(cluster, (cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_06_a_deleted_add_does_not_affect_a_second_add(cluster: Cluster) -> None:
    pair = cluster.pair(cluster.b, **{"ratchet.primary": "false"})
    entries = cluster.b.state_dir / "sandboxes"
    first = cluster.start("ADD", cluster.b, pair)
    wait_for("the first ADD to wait to be named", lambda: any(entries.glob(f"{pair.container_id}*")))
    assert cluster.b.call("DEL", pair).status == 0
    assert not any(entries.glob(f"{pair.container_id}*"))
    second = cluster.start("ADD", cluster.b, pair)
    wait_for("the second ADD to wait to be named", lambda: any(entries.glob(f"{pair.container_id}*")))
    primary = cluster.primary(cluster.a)
    assert cluster.a.add(primary).status == 0
    assert cluster.end(first).json["code"] == 11
    assert cluster.end(second).status == 0
    cluster.wait_until(State.LINKED)
    assert any(entries.glob(f"{pair.container_id}*"))
    assert cluster.pings(primary, "192.168.2.101")
    end_pods(cluster, (cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_07_a_recreated_pod_replaces_the_old_uid(cluster: Cluster) -> None:
    """Recreate a pod without DEL of its old sandbox. The peer's end leads to the new sandbox."""
    old, pair = cluster.linked_pair(cluster.a)
    new = recreated(cluster, old, PRIMARY, cluster.a)
    assert cluster.a.add(new).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.bed.links()[LINK].primary.sandbox.pod.uid == new.pod.uid  # type: ignore[union-attr]
    assert cluster.interfaces(old) == []
    assert cluster.pings(new, "192.168.2.101")
    end_pods(cluster, (cluster.a, old), (cluster.a, new), (cluster.a, pair))
    cluster.assert_nothing_left()


def test_fault_08_a_static_pod_is_matched_by_its_mirror_annotation(cluster: Cluster) -> None:
    """Give the mirror pod in the API another UID than the static pod has for the kubelet."""
    mirror = cluster.pod("static", {"ratchet": "true"}, cluster.a, **{"kubernetes.io/config.mirror": OLD_POD})
    static = Sandbox(PodRef("default", "static", OLD_POD), mirror.container_id, mirror.netns)
    assert cluster.a.add(static).status == 0
    end_pods(cluster, (cluster.a, static))
    cluster.assert_nothing_left()


def test_fault_09_add_is_code_11_if_the_pod_is_gone(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    cluster.bed.delete_pod(primary.pod)
    answer = cluster.a.call("ADD", primary)
    assert answer.json["code"] == 11
    assert answer.error.startswith("cannot find pod default/primary-pod")
    assert cluster.interfaces(primary) == []
    cluster.assert_nothing_left()


def test_fault_09_add_is_code_11_if_another_pod_has_the_name(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    old_pod_sandbox = Sandbox(PodRef("default", "primary-pod", OLD_POD), primary.container_id, primary.netns)
    answer = cluster.a.call("ADD", old_pod_sandbox)
    assert answer.json["code"] == 11
    assert "has been replaced" in answer.error
    cluster.assert_nothing_left()


def test_fault_10_and_14_add_is_code_11_while_the_api_is_down_or_does_not_respond(cluster: Cluster) -> None:
    """Break the connections of node a, and send no response to node b. Both ADDs use up their time for the API."""
    primary, pair, gate = cluster.primary(cluster.a), cluster.pair(cluster.b), Gate()
    cluster.faults.add(Rule(sent_by(cluster.a), before=dropping, times=10_000))
    cluster.faults.add(Rule(sent_by(cluster.b), before=gate, times=10_000))
    try:
        broken, unanswered = cluster.call_all("ADD", [(cluster.a, primary), (cluster.b, pair)])
    finally:
        gate.opened.set()
    assert broken.json["code"] == unanswered.json["code"] == 11
    assert "cannot reach the Kubernetes API" in broken.error
    cluster.faults.clear()
    cluster.assert_nothing_left()


def test_fault_11_del_succeeds_while_the_api_is_down(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    cluster.faults.add(Rule(sent_by(cluster.a), before=dropping, times=10_000))
    end_pods(cluster, (cluster.a, primary))
    assert cluster.state() is State.LINKED
    cluster.faults.clear()
    if cluster.bed.agents:  # the agent updates the record once the API is back
        cluster.wait_until(State.PENDING, seconds=30)
    else:
        assert any("primary-pod" in line for line in collected(cluster))
    end_pods(cluster, (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_11_del_succeeds_while_a_worker_needs_the_api_for_the_link(cluster: Cluster) -> None:
    """Delete both pods. A worker for the first DEL holds the link's lock, which the second DEL needs."""
    primary, pair = cluster.linked_pair()
    record_rule = cluster.faults.add(Rule(sent_by(cluster.a, path=LINK), before=dropping, times=10_000))
    cluster.faults.add(Rule(sent_by(cluster.a), before=dropping, times=10_000))
    end_pods(cluster, (cluster.b, pair))
    if cluster.bed.agents:
        wait_for("a request of the worker", lambda: record_rule.taken > 0)
    end_pods(cluster, (cluster.a, primary))
    cluster.faults.clear()
    if not cluster.bed.agents:
        collected(cluster)
    cluster.wait_until(None)
    cluster.assert_nothing_left()


def test_fault_12_pods_are_linked_despite_many_conflicts(cluster: Cluster) -> None:
    """Let another writer update the record just before each of many writes of both nodes."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    touches: list[object] = []

    def touch() -> None:
        annotation = {"metadata": {"annotations": {"storm": str(len(touches))}}}
        touches.append(cluster.bed.api.patch(f"/api/v1/namespaces/ratchet/configmaps/{LINK}", annotation))

    for node in (cluster.a, cluster.b):
        cluster.faults.add(Rule(sent_by(node, "PATCH"), before=calling(touch), times=8))
    cluster.add_all((cluster.a, primary), (cluster.b, pair))
    cluster.wait_until(State.LINKED)
    assert len(touches) > 8  # both nodes met conflicts: a node whose peer is done needs only one more write
    assert sum(sent.status == 409 for sent in cluster.faults.sent) >= len(touches)
    assert cluster.pings(primary, "192.168.2.101")


@pytest.mark.parametrize("lost", range(1, 3))
def test_fault_13_add_succeeds_if_the_response_to_a_write_is_lost(cluster: Cluster, lost: int) -> None:
    """Lose the response to each write of the ADD that completes the link: the Lease, then the record."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    waiting = cluster.start("ADD", cluster.b, pair)
    cluster.wait_until(State.PENDING)
    rule = cluster.faults.add(Rule(sent_by(cluster.a, "POST", "PATCH"), after=dropping, first=lost))
    assert cluster.a.add(primary).status == 0
    assert rule.seen > lost
    assert cluster.end(waiting).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(primary, "192.168.2.101")
    assert [lease.vni for lease in cluster.bed.store.vnis.list()] == [cluster.bed.links()[LINK].vni]


def test_fault_13_del_succeeds_if_the_response_to_a_deletion_is_lost(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    end_pods(cluster, (cluster.a, primary))
    cluster.faults.add(Rule(sent_by(cluster.b, "DELETE"), after=dropping))
    end_pods(cluster, (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_14_add_obeys_retry_after(cluster: Cluster) -> None:
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    busy = answering(429, "TooManyRequests", **{"Retry-After": "2"})
    cluster.faults.add(Rule(sent_by(cluster.a, "PATCH"), before=busy))
    waiting = cluster.start("ADD", cluster.b, pair)
    began = time.monotonic()
    assert cluster.a.add(primary).status == 0
    assert time.monotonic() - began >= 2
    assert cluster.end(waiting).status == 0


def test_fault_16_gc_removes_nothing_while_add_runs(cluster: Cluster) -> None:
    """Run gc repeatedly while a link is created, and once more when it is linked."""
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


def test_fault_16_gc_yields_to_an_add_between_its_lists(cluster: Cluster) -> None:
    """Recreate and join a pod after gc has listed its record, and before gc writes it."""
    old, pair = cluster.linked_pair()
    new = recreated(cluster, old, PRIMARY, cluster.a)
    store = cluster.bed.store
    list_versions = store.links.list_versions

    def list_then_add(versions: Collection[int], most: int) -> Sequence[Link]:
        links = list_versions(versions, most)
        assert cluster.a.add(new).status == 0
        return links

    store.links.list_versions = list_then_add  # type: ignore[method-assign]
    found = list(collect_garbage(store, now=lambda: datetime.now(UTC), grace=timedelta(0)))
    assert [removal.result for removal in found] == [RemovalResult.CHANGED]
    cluster.wait_until(State.LINKED)
    assert cluster.pings(new, "192.168.2.101")
    end_pods(cluster, (cluster.a, old), (cluster.a, new), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_17_three_concurrent_gc_passes_remove_only_garbage(cluster: Cluster) -> None:
    kept = cluster.linked_pair()
    for number in range(4):
        other = cluster.pod(f"p{number}", {**PRIMARY, "ratchet.pair_name": f"q{number}"}, cluster.a)
        peer = cluster.pod(f"q{number}", PAIR, cluster.b)
        cluster.add_all((cluster.a, other), (cluster.b, peer))
        cluster.forget_pods(other, peer)
    with ThreadPoolExecutor() as pool:
        removed = [line for lines in pool.map(lambda _: collected(cluster), range(3)) for line in lines]
    assert len(removed) >= 4
    assert list(cluster.bed.links()) == [LINK]
    assert [lease.vni for lease in cluster.bed.store.vnis.list()] == [cluster.bed.links()[LINK].vni]
    assert cluster.pings(kept[0], "192.168.2.101")
    assert collected(cluster) == []


@pytest.mark.agent(vni_range="11-11")  # otherwise the link would get a VNI that has been free for longer
def test_fault_24_add_replaces_a_stale_tunnel_in_a_leaked_namespace(cluster: Cluster) -> None:
    """Delete a pod and its journal entry, and keep its namespace: the tunnel in it still uses the VNI."""
    old, pair = cluster.linked_pair()
    end_of_pair = (cluster.b, pair)
    agent = cluster.bed.agents.get("a")
    if agent:  # a running agent would remember the sandbox and remove its tunnel
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


def test_fault_34_a_vni_of_a_foreign_device_is_replaced(cluster: Cluster) -> None:
    """Give both nodes a VXLAN device of another network that has the first free VNI."""
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
    return {lease.vni: lease.holder for lease in cluster.bed.store.vnis.list()}


def test_fault_25_a_veth_is_restored_after_its_peers_namespace_is_removed(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair(cluster.a)
    cluster.bed.hosts.remove_namespace(pair.netns)
    wait_for("the end of the veth", lambda: cluster.interfaces(primary) == [])
    assert cluster.a.call("DEL", pair).status == 0
    assert cluster.state() is State.PRIMARY_READY
    again = recreated(cluster, pair, PAIR, cluster.a)
    assert cluster.a.add(again).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.pings(primary, "192.168.2.101")


def test_fault_26_add_completes_a_half_created_link(cluster: Cluster) -> None:
    """Kill ADD before it updates the record, damage its interface, and add the pod again."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.a)
    waiting = cluster.start("ADD", cluster.a, pair)
    cluster.wait_until(State.PENDING)
    victim: list[subprocess.Popen[str]] = []
    cluster.faults.clear()
    cluster.faults.add(Rule(sent_by(cluster.a, "PATCH"), before=calling(lambda: victim[0].kill())))
    waiting.kill()
    waiting.wait()
    victim.append(cluster.start("ADD", cluster.a, primary))
    assert victim[0].wait(30) != 0
    cluster.faults.clear()
    assert cluster.interfaces(primary) == ["in1"]
    run_in(primary.netns, "ip", "addr", "flush", "dev", "in1")
    # As it was before ADD brought it up.
    run_in(primary.netns, "ip", "link", "set", "in1", "mtu", "1280", "alias", "", "down")
    again = Sandbox(primary.pod, "e" * 64, primary.netns)
    assert cluster.a.add(again, config={**CHAINED, "wait": 10}).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.show(again, "in1")["mtu"] == 1500
    assert cluster.pings(again, "192.168.2.101")


# 32: unknown is not absent


ASKS = {"ratchet": "true"}
LAB_LINK = "default.a.in1.b.in2"
LAB = '- {endpoints: ["a:in1", "b:in2"], addresses: ["10.0.1.1/24", "10.0.1.2/24"]}'
FORBIDDEN = answering(403, "Forbidden")


def lab_pods(cluster: Cluster) -> tuple[Sandbox, Sandbox]:
    """Create two pods that the topology `lab` links: the primary on node a, the pair on node b."""
    cluster.bed.create_topology("lab", LAB)
    return cluster.pod("a", ASKS, cluster.a), cluster.pod("b", ASKS, cluster.b)


def test_fault_32_add_is_code_11_until_topologies_can_be_listed(cluster: Cluster) -> None:
    """Allow the lists after two failed ADDs. The next ADD links the pod without a restart of the agent."""
    a, b = lab_pods(cluster)
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
    cluster.wait_until(State.LINKED, LAB_LINK)
    assert cluster.pings(a, "10.0.1.2")
    assert [agent.pid for agent in cluster.bed.agents.values()] == agents
    cluster.delete_all((cluster.a, a), (cluster.b, b), (cluster.a, plain))
    cluster.assert_nothing_left()


def test_fault_32_add_retries_topologies_that_are_briefly_forbidden(cluster: Cluster) -> None:
    """Forbid two lists on each node, as RBAC does briefly after an API server has restarted."""
    a, b = lab_pods(cluster)
    rules = [
        cluster.faults.add(Rule(lists_topologies(node, watches=False), before=FORBIDDEN, times=2))
        for node in (cluster.a, cluster.b)
    ]
    cluster.add_all((cluster.a, a), (cluster.b, b))
    assert [rule.taken for rule in rules] == [2, 2]
    cluster.wait_until(State.LINKED, LAB_LINK)
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


def test_fault_32_an_unparsable_topology_blocks_only_the_pods_it_may_concern(cluster: Cluster) -> None:
    cluster.bed.create_topology("lab", "- endpoints: [router-a:in1, router-b:in2")
    a, other = cluster.pod("router-a", ASKS, cluster.a), cluster.pod("other", ASKS, cluster.a)
    answer = cluster.a.call("ADD", a)
    assert answer.json["code"] == 101
    assert answer.error.startswith("cannot link pod default/router-a: topology default/lab: line 2")
    assert cluster.a.add(other).status == 0
    cluster.delete_all((cluster.a, a), (cluster.a, other))
    cluster.assert_nothing_left()


# 35 to 37: an interface belongs to one namespace, one record and one attachment


def replace_namespace(cluster: Cluster, sandbox: Sandbox, *interfaces: str) -> None:
    """Replace a sandbox's namespace by another one, whose interfaces are in Ratchet's interface group."""
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
def test_fault_35_a_late_del_removes_nothing_from_another_namespace_at_the_path(
    cluster: Cluster, node_of_pair: str
) -> None:
    node = cluster.bed.kubelets[node_of_pair]
    primary, pair = cluster.linked_pair(node)
    with cluster.lock_link(cluster.a):
        replace_namespace(cluster, primary, "in1")
        deleting = cluster.start("DEL", cluster.a, primary)
    assert cluster.end(deleting).status == 0
    assert cluster.interfaces(primary) == ["in1-p", "in1"]
    ip("-n", primary.netns, "link", "del", "in1")
    end_pods(cluster, (cluster.a, primary), (node, pair))
    cluster.assert_nothing_left()


def test_fault_35_add_creates_nothing_in_another_namespace_at_the_path(cluster: Cluster) -> None:
    """Recreate the pair. The far end of its vEth would be created at the primary's path."""
    primary, pair = cluster.linked_pair(cluster.a)
    replace_namespace(cluster, primary)
    end_pods(cluster, (cluster.a, pair))
    again = recreated(cluster, pair, PAIR, cluster.a)
    answer = cluster.a.call("ADD", again, config={**CHAINED, "wait": 2})
    assert answer.json.get("code") == 11, answer
    assert cluster.interfaces(primary) == []
    end_pods(cluster, (cluster.a, primary), (cluster.a, again))
    cluster.assert_nothing_left()


def test_fault_36_add_ignores_a_namespace_path_that_was_edited_in_the_record(cluster: Cluster) -> None:
    """Write the path of a pod without links to the record. No interface is created in that pod."""
    primary, pair = cluster.linked_pair(cluster.a)
    victim = cluster.pod("victim", {}, cluster.a)
    end_pods(cluster, (cluster.a, pair))
    path = f"{cluster.bed.store.links.path}/{LINK}"
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
def test_fault_37_del_of_one_attachment_keeps_the_links_of_the_other(cluster: Cluster, first: str) -> None:
    """Attach one sandbox twice, as Multus does. The pod's links are declared for both attachments."""
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


# 40: a record of a newer version


def rewrite_as_newer_version(cluster: Cluster, min_reader: int) -> str:
    """Change the record as a newer version would, with this `minReader`. Return the path of the record."""
    path = f"{cluster.bed.store.links.path}/{LINK}"
    history = cluster.bed.api.get(path)["data"]["history"]
    changes = {
        "schema": "7",
        "minReader": str(min_reader),
        "news": "x",
        "a.news": "y",
        "history": f"in a new form\n{history}",
    }
    cluster.bed.api.patch(path, {"data": changes})
    return path


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_fault_40_a_usable_newer_record_keeps_its_unknown_keys(cluster: Cluster, node_of_pair: str) -> None:
    node = cluster.bed.kubelets[node_of_pair]
    primary, pair = cluster.linked_pair(node)
    path = rewrite_as_newer_version(cluster, min_reader=2)
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


def test_fault_40_del_changes_only_its_own_end_of_an_unusable_newer_record(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair(cluster.b)
    index = cluster.show(primary, "in1")["ifindex"]
    path = rewrite_as_newer_version(cluster, min_reader=7)
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


def test_fault_39_a_link_stays_while_node_objects_are_missing(cluster: Cluster) -> None:
    """Delete and recreate both Node objects while both pods run. Run gc in between."""
    primary, pair = cluster.linked_pair()
    nodes = [cluster.bed.api.get(f"/api/v1/nodes/{name}") for name in ("a", "b")]
    for node in nodes:
        cluster.bed.api.delete(f"/api/v1/nodes/{node['metadata']['name']}", uid=node["metadata"]["uid"])
    assert cluster.bed.store.nodes.list() == {}
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
def test_fault_39_a_link_stays_when_a_mirror_pod_is_recreated(cluster: Cluster, missing: str) -> None:
    """Recreate the mirror with a new UID. The static pod, its sandbox and its link stay the same."""
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
