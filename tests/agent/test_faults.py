"""Faults that the node agent has to survive. Each test is named after its row in docs/faults.md."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from ratchet.core.model import State
from ratchet.core.pod import PodRef
from ratchet.core.record_updates import with_vni
from ratchet.dev.agents import AgentProcess
from ratchet.dev.fake_kubelet import CniResponse, Kubelet, Sandbox
from ratchet.dev.testbed import wait_for
from ratchet.store.codec.leases import encode_vni_lease
from tests.agent.pages import page
from tests.support.clock import stepped_clock
from tests.support.cluster import (
    LINK,
    PAIR,
    PRIMARY,
    Cluster,
    clean_cluster,
    collected,
    end_pods,
    journal_files,
    lists_topologies,
    recreated,
    sent_by,
)
from tests.support.disks import BrokenDisk, small_disk
from tests.support.faults import Act, Gate, Rule, Sent, answering, calling, delaying, dropping
from tests.support.outages import cut_off, set_node_ready

KUBELETS_UID = "00000000-0000-4000-8000-000000000000"
PRIMARY_IP, PAIR_IP = "192.168.2.100", "192.168.2.101"


def node_named(cluster: Cluster, name: str) -> Kubelet:
    return cluster.a if name == "a" else cluster.b


def has_tombstone(node: Kubelet, sandbox: Sandbox) -> bool:
    return any((node.state_dir / "deleted").glob(f"{sandbox.container_id}*"))


def wait_for_ping(cluster: Cluster, sandbox: Sandbox, address: str) -> None:
    wait_for(f"a ping from {sandbox.pod.name}", lambda: cluster.pings(sandbox, address), 15)


def reconcile_everything(node: Kubelet) -> None:
    """Make the agent reconcile all its links and pods now: call GC with all attachments valid."""
    entries = [path.name.split("+") for path in (node.state_dir / "sandboxes").iterdir() if path.name[0] != "."]
    valid = [{"containerID": container, "ifname": ifname} for container, ifname, _ in entries]
    config = {**node.config, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    assert node.call("GC", config=config).status == 0


# 2, 5, 6: overlapping, late and repeated calls


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
    # ADD holds the link's lock. DEL writes its tombstone, then waits for the lock.
    deleting = cluster.start("DEL", cluster.a, primary)
    wait_for("the tombstone", lambda: has_tombstone(cluster.a, primary))
    gate.opened.set()
    answer = cluster.end(adding)
    assert answer.json["code"] == 11
    assert cluster.end(deleting).status == 0
    assert cluster.interfaces(primary) == []
    reconcile_everything(cluster.a)
    assert cluster.bed.links()[LINK].primary.sandbox is None
    assert not list((cluster.a.state_dir / "sandboxes").iterdir())


def test_a_vni_lost_to_a_concurrent_write_is_released_after_its_tunnel_is_removed(cluster: Cluster) -> None:
    """Another VNI is written to the record between the claim and the write of ADD."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    assert cluster.b.add(pair).status == 0
    cluster.wait_until(State.PENDING)
    store, other = cluster.bed.store, 4711

    def number() -> None:
        record = cluster.bed.links()[LINK]
        store.api.create(store.vnis.path, encode_vni_lease(other, record))
        store.links.update(record, with_vni(record, other))

    interfaces_at_release: list[list[str]] = []
    vni_release = sent_by(cluster.a, "DELETE", path="/leases/vni-")
    cluster.faults.add(Rule(sent_by(cluster.a, "PATCH", path=f"/configmaps/{LINK}"), before=calling(number)))
    cluster.faults.add(
        Rule(vni_release, before=calling(lambda: interfaces_at_release.append(cluster.interfaces(primary))))
    )
    assert cluster.a.add(primary).status == 0
    assert interfaces_at_release == [[]]
    cluster.wait_until(State.LINKED)
    assert cluster.bed.links()[LINK].vni == other
    wait_for_ping(cluster, primary, PAIR_IP)
    end_pods(cluster, (cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_fault_05_a_late_del_of_the_old_sandbox_harms_nothing(cluster: Cluster, node_of_pair: str) -> None:
    old, _ = cluster.linked_pair(node_named(cluster, node_of_pair))
    new = cluster.sandbox(cluster.a, old.pod)
    assert cluster.a.add(new).status == 0
    cluster.wait_until(State.LINKED)
    before, record = cluster.show(new, "in1"), cluster.bed.links()[LINK]
    assert cluster.a.call("DEL", old).status == 0
    reconcile_everything(cluster.a)
    assert cluster.bed.links()[LINK] == record
    assert cluster.interfaces(old) == []
    assert cluster.show(new, "in1")["ifindex"] == before["ifindex"]
    wait_for_ping(cluster, new, PAIR_IP)


def test_fault_05_a_late_del_spares_a_newer_sandbox_in_the_same_namespace(cluster: Cluster) -> None:
    old, _ = cluster.linked_pair()
    new = Sandbox(old.pod, "f" * 64, old.netns)
    assert cluster.a.add(new).status == 0
    cluster.wait_until(State.LINKED)
    before, record = cluster.show(new, "in1"), cluster.bed.links()[LINK]
    assert cluster.a.call("DEL", old).status == 0
    reconcile_everything(cluster.a)
    assert cluster.bed.links()[LINK] == record
    assert cluster.show(new, "in1")["ifindex"] == before["ifindex"]
    wait_for_ping(cluster, new, PAIR_IP)
    end_pods(cluster, (cluster.a, new))


def test_fault_06_add_twice_without_del_is_refused(cluster: Cluster) -> None:
    primary, _ = cluster.linked_pair()
    again = cluster.a.call("ADD", primary)
    assert again.status == 1
    assert "it has been added before" in again.error
    assert "DEL" in again.json["details"]
    assert list(cluster.bed.links()) == [LINK]
    assert cluster.interfaces(primary) == ["in1"]
    assert cluster.pings(primary, PAIR_IP)


def test_fault_06_concurrent_adds_of_one_sandbox_create_one_link(cluster: Cluster) -> None:
    """All but one of four ADDs are rejected, and their cleanup does not remove what the first one created.

    A gate holds all of them at the GET of the pod, which the cache lacks. It precedes the first write to the journal.
    """
    pair = cluster.pair(cluster.b)
    assert cluster.b.add(pair).status == 0
    frozen(cluster, cluster.a)
    primary = cluster.primary(cluster.a)
    gate = Gate()
    asking = cluster.faults.add(Rule(sent_by(cluster.a, "GET", path="/pods/primary-pod"), before=gate, times=4))
    adding = [cluster.start("ADD", cluster.a, primary) for _ in range(4)]
    wait_for("all to ask", lambda: asking.taken == 4)
    gate.opened.set()
    answers = [cluster.end(process) for process in adding]
    unfreeze(cluster)
    assert sorted(answer.status for answer in answers) == [0, 1, 1, 1], [answer.stdout for answer in answers]
    assert all(answer.json["code"] == 107 for answer in answers if answer.status)
    cluster.wait_until(State.LINKED)
    assert list(cluster.bed.links()) == [LINK]
    assert [lease.vni for lease in cluster.bed.store.vnis.list()] == [cluster.bed.links()[LINK].vni]
    assert cluster.interfaces(primary) == ["in1"]
    wait_for_ping(cluster, primary, PAIR_IP)


# 4: no DEL


def test_fault_04_an_agent_removes_a_sandbox_whose_pod_and_namespace_are_gone(cluster: Cluster) -> None:
    """Without `ratchet gc`. The agent ends in between, as one does that has lost a DEL on a full disk."""
    primary, pair = cluster.linked_pair()
    cluster.bed.agents["a"].kill()
    cluster.bed.hosts.remove_namespace(primary.netns)
    cluster.bed.delete_pod(primary.pod)
    cluster.bed.agents["a"].start()
    cluster.wait_until_left()
    wait_for("an empty journal", lambda: journal_files(cluster.a.state_dir) == [])
    end_pods(cluster, (cluster.b, pair))
    cluster.assert_nothing_left()


# 8: identity of static pods


def test_fault_08_a_static_pod_is_matched_by_its_mirror_annotation(cluster: Cluster) -> None:
    """The kubelet's UID of a static pod is not the mirror pod's UID, but in an annotation of the mirror.

    The link is reconciled as any other: it is linked again when its peer is recreated.
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
    wait_for_ping(cluster, again, PRIMARY_IP)
    assert cluster.a.call("CHECK", static).status == 0
    end_pods(cluster, (cluster.a, static))


def test_fault_08_a_static_pod_is_rejected_if_the_mirror_annotation_differs(cluster: Cluster) -> None:
    mirror = cluster.pod("primary-pod", PRIMARY, cluster.a, **{"kubernetes.io/config.mirror": "another"})
    static = Sandbox(PodRef("default", "primary-pod", KUBELETS_UID), mirror.container_id, mirror.netns)
    answer = cluster.a.call("ADD", static)
    assert answer.json["code"] == 11
    assert "has been replaced" in answer.error
    assert cluster.bed.links() == {}


# 15: stalled watches


def frozen(cluster: Cluster, node: Kubelet) -> None:
    """Stall the watches of a node. Its other requests are served."""
    cluster.faults.frozen.add(node.host.address)


def unfreeze(cluster: Cluster) -> None:
    cluster.faults.frozen.clear()


def reads_of_record(cluster: Cluster, node: Kubelet) -> int:
    matches = sent_by(node, "GET", path=f"/configmaps/{LINK}")
    return sum(matches(sent) and sent.status > 0 for sent in cluster.faults.sent)


@pytest.mark.parametrize("node_of_new", ["a", "b"])
def test_fault_15_a_stalled_watch_removes_nothing_when_the_peer_is_recreated(
    cluster: Cluster, node_of_new: str
) -> None:
    """The watches of the primary's node stall while the pair is deleted and recreated on either node."""
    primary, pair = cluster.linked_pair()
    before = cluster.show(primary, "in1")
    frozen(cluster, cluster.a)
    end_pods(cluster, (cluster.b, pair))
    reconcile_everything(cluster.a)
    node = node_named(cluster, node_of_new)
    again = cluster.pair(node)
    assert node.add(again).status == 0
    reconcile_everything(cluster.a)
    cluster.wait_until(State.LINKED)
    if node_of_new == "a":
        before = cluster.show(primary, "in1")  # replaced: the VXLAN became a vEth
    cluster.faults.passing = 1  # the outdated event that the pair has left
    wait_for("an event of long ago", lambda: cluster.faults.passing == 0)
    reconcile_everything(cluster.a)
    wait_for_ping(cluster, primary, PAIR_IP)
    unfreeze(cluster)
    reconcile_everything(cluster.a)
    wait_for_ping(cluster, primary, PAIR_IP)
    wait_for_ping(cluster, again, PRIMARY_IP)
    assert cluster.state() is State.LINKED
    assert cluster.show(primary, "in1")["ifindex"] == before["ifindex"]


def test_fault_15_a_link_stays_when_only_the_cache_lacks_the_recreated_peer(cluster: Cluster) -> None:
    """The cache of the pair's node has the deletion of the primary, but not its recreation."""
    primary, pair = cluster.linked_pair()
    before = cluster.show(pair, "in2")
    cluster.bed.delete_pod(primary.pod)
    # The agent's Event about a later pod shows that it has received the deletion.
    probe = cluster.bed.create_pod("probe", {**PRIMARY, "ratchet.local_ifname": "in9"}, "a")
    wait_for("what the probe's link waits for", lambda: pair.pod.uid in cluster.pods_with_event("WantsRestart"))
    cluster.bed.delete_pod(probe)
    frozen(cluster, cluster.b)
    again = cluster.primary(cluster.a)
    reads = reads_of_record(cluster, cluster.b)
    assert cluster.a.call("DEL", primary).status == 0
    cluster.bed.hosts.remove_namespace(primary.netns)
    cluster.faults.passing = 1  # the event that the primary has left
    wait_for("a look at the record", lambda: reads_of_record(cluster, cluster.b) > reads)
    assert cluster.a.add(again).status == 0
    unfreeze(cluster)
    cluster.wait_until(State.LINKED)
    assert cluster.show(pair, "in2")["ifindex"] == before["ifindex"]
    wait_for_ping(cluster, pair, PRIMARY_IP)


def test_fault_15_a_stalled_watch_does_not_hide_the_labels_with_which_a_sandbox_starts(cluster: Cluster) -> None:
    """A pod's own declaration is fixed when its sandbox starts, so nothing corrects an outdated one later."""
    primary, pair = cluster.linked_pair()
    end_pods(cluster, (cluster.b, pair))
    other = cluster.pod("other-pod", PAIR, cluster.b)
    assert cluster.b.add(other).status == 0
    frozen(cluster, cluster.a)
    path = f"/api/v1/namespaces/default/pods/{primary.pod.name}"
    cluster.bed.api.patch(path, {"metadata": {"labels": {"ratchet.pair_name": "other-pod"}}})
    assert cluster.a.call("DEL", primary).status == 0
    again = cluster.sandbox(cluster.a, primary.pod)
    assert cluster.a.add(again).status == 0
    unfreeze(cluster)
    cluster.wait_until(State.LINKED, "default.other-pod.in2.primary-pod.in1")
    cluster.wait_until(None)
    wait_for_ping(cluster, again, PAIR_IP)


# 19, 20, 23: nodes that are unreachable for a while


HASTY = {"heartbeat": 1, "node_lost_after": 3}


@pytest.fixture
def hasty() -> Iterator[Cluster]:
    """A cluster whose agents consider a node lost within seconds."""
    with clean_cluster(agent=HASTY) as made:
        yield made


def writes_to_record(cluster: Cluster, node: Kubelet) -> list[Sent]:
    """The writes of a node to records that the API applied."""
    matches = sent_by(node, "POST", "PATCH", "PUT", "DELETE", path="/configmaps")
    return [sent for sent in cluster.faults.sent if matches(sent) and 0 < sent.status < 400]


def test_fault_19_a_resumed_agent_removes_the_end_of_a_pod_that_moved_away(hasty: Cluster) -> None:
    """The agent is paused for longer than its node Lease lasts, and its pod moves to the other node.

    When it resumes, it removes its old end and writes nothing to the record."""
    primary, old = hasty.linked_pair()
    wait_for_ping(hasty, primary, PAIR_IP)
    log_of_a = hasty.bed.agents["a"].log
    hasty.bed.agents["b"].pause()
    set_node_ready(hasty.bed, hasty.b, False)
    wait_for("the loss of node b", lambda: "node lost node=b" in log_of_a.read_text(), 20)
    hasty.wait_until(State.PAIR_READY)
    new = recreated(hasty, old, PAIR, hasty.a)
    assert hasty.a.add(new).status == 0
    hasty.wait_until(State.LINKED)
    record = hasty.bed.links()[LINK]
    hasty.faults.sent.clear()
    hasty.bed.agents["b"].resume()
    set_node_ready(hasty.bed, hasty.b, True)
    wait_for("node b to be back", lambda: "node returned node=b" in log_of_a.read_text(), 20)
    wait_for("the end of the old end", lambda: hasty.interfaces(old) == [])
    reconcile_everything(hasty.b)
    assert hasty.b.call("DEL", old).status == 0
    assert writes_to_record(hasty, hasty.b) == []
    assert hasty.bed.links()[LINK] == record
    wait_for_ping(hasty, primary, PAIR_IP)


def test_fault_19_a_resumed_add_does_not_replace_the_newer_sandbox(hasty: Cluster) -> None:
    """The agent is paused in an ADD, before its write, while the pod moves to the other node."""
    primary, old = hasty.primary(hasty.a), hasty.pair(hasty.b)
    assert hasty.a.add(primary).status == 0
    agent = hasty.bed.agents["b"]
    gate = Gate()
    hasty.faults.add(Rule(sent_by(hasty.b, "POST", path="/leases"), after=gate))
    adding = hasty.start("ADD", hasty.b, old)
    assert gate.reached.wait(20)
    agent.pause()
    gate.opened.set()
    new = recreated(hasty, old, PAIR, hasty.a)
    assert hasty.a.add(new).status == 0
    hasty.wait_until(State.LINKED)
    agent.resume()
    answer = hasty.end(adding)
    assert answer.json["code"] == 11, answer
    reconcile_everything(hasty.b)
    assert hasty.interfaces(old) == []
    sandbox = hasty.bed.links()[LINK].pair.sandbox
    assert sandbox is not None
    assert sandbox.container_id == new.container_id
    wait_for_ping(hasty, primary, PAIR_IP)
    end_pods(hasty, (hasty.a, primary), (hasty.a, new), (hasty.b, old))
    collected(hasty)  # frees the VNI that was claimed and not recorded, because the link became a vEth


def test_fault_23_a_reconnected_node_leaves_the_link_of_a_moved_pod_alone(hasty: Cluster) -> None:
    """During the cut its pod is force-deleted, and recreated and linked on the other node."""
    primary, old = hasty.linked_pair()
    log_of_a = hasty.bed.agents["a"].log
    with cut_off(hasty.bed.hosts, hasty.b):
        set_node_ready(hasty.bed, hasty.b, False)
        wait_for("the loss of node b", lambda: "node lost node=b" in log_of_a.read_text(), 20)
        hasty.wait_until(State.PAIR_READY)
        wait_for("no carrier", lambda: "NO-CARRIER" in hasty.show(primary, "in1")["flags"])
        assert hasty.interfaces(old) == ["in2"]  # the cut-off node cannot know that the link is down
        new = recreated(hasty, old, PAIR, hasty.a)
        assert hasty.a.add(new).status == 0
        hasty.wait_until(State.LINKED)
        wait_for_ping(hasty, primary, PAIR_IP)
        record = hasty.bed.links()[LINK]
    set_node_ready(hasty.bed, hasty.b, True)
    wait_for("the end of the old end", lambda: hasty.interfaces(old) == [], 30)
    assert hasty.b.call("DEL", old).status == 0
    assert hasty.bed.links()[LINK] == record
    wait_for_ping(hasty, primary, PAIR_IP)


def test_fault_23_a_del_on_a_cut_off_node_is_recorded_when_it_reconnects(hasty: Cluster) -> None:
    primary, pair = hasty.linked_pair()
    with cut_off(hasty.bed.hosts, hasty.b):
        end_pods(hasty, (hasty.b, pair))
        assert hasty.bed.links()[LINK].pair.sandbox is not None
    hasty.wait_until(State.PRIMARY_READY, seconds=40)
    wait_for("no carrier", lambda: "NO-CARRIER" in hasty.show(primary, "in1")["flags"])


def test_fault_23_a_short_cut_keeps_the_link(hasty: Cluster) -> None:
    """The node reconnects while its Node object is still Ready, so that nothing was torn down."""
    primary, pair = hasty.linked_pair()
    before = [hasty.show(primary, "in1")["ifindex"], hasty.show(pair, "in2")["ifindex"]]
    record = hasty.bed.links()[LINK]
    start = len(hasty.faults.sent)
    read = sent_by(hasty.a, "GET", path="ratchet.lease%3Dnode")
    with cut_off(hasty.bed.hosts, hasty.b):
        assert not hasty.pings(primary, PAIR_IP)
        wait_for("silence", lambda: sum(map(read, hasty.faults.sent[start:])) >= 4, 20)
    wait_for_ping(hasty, primary, PAIR_IP)
    reconcile_everything(hasty.b)
    assert [hasty.show(primary, "in1")["ifindex"], hasty.show(pair, "in2")["ifindex"]] == before
    assert hasty.bed.links()[LINK] == record


HOUR = 3600.0


def renew_time(cluster: Cluster, node: Kubelet) -> datetime:
    """The renew time in the Lease of a node."""
    path = f"{cluster.bed.store.vnis.path}/node-{node.host.name}"
    return datetime.fromisoformat(cluster.bed.api.get(path)["spec"]["renewTime"])


def wait_for_heartbeats(cluster: Cluster, heartbeats: int = 4, reads: int = 2) -> None:
    """Wait until b has renewed its node Lease so many times from now on, and a has read it so many times."""
    start = len(cluster.faults.sent)

    def sent(node: Kubelet, method: str, path: str) -> int:
        matches = sent_by(node, method, path=path)
        return sum(matches(one) for one in cluster.faults.sent[start:])

    wait_for("signs of life", lambda: sent(cluster.b, "PATCH", "/leases/node-b") >= heartbeats, 20)
    wait_for("a look at them", lambda: sent(cluster.a, "GET", "ratchet.lease%3Dnode") >= reads, 20)


def test_fault_20_a_node_is_lost_when_its_agent_dies_not_when_clocks_step(hasty: Cluster) -> None:
    """The clocks of both nodes step one hour in opposite directions, both ways.

    Node b is not Ready in the API, so that only its Lease shows that it lives."""
    agents = hasty.bed.agents
    clocks = {name: stepped_clock(agents[name]) for name in ("a", "b")}
    primary, pair = hasty.linked_pair()
    set_node_ready(hasty.bed, hasty.b, False)
    for step in (HOUR, -HOUR):
        clocks["a"].step(-step)
        clocks["b"].step(step)
        wait_for_heartbeats(hasty)
        off = (renew_time(hasty, hasty.b) - datetime.now(UTC)).total_seconds()
        assert abs(off - step) < 60
    assert "node lost" not in agents["a"].log.read_text()
    assert hasty.state() is State.LINKED
    assert hasty.pings(primary, PAIR_IP)
    clocks["b"].step(24 * HOUR)  # its last renew time is in the future
    wait_for_heartbeats(hasty, 1, 1)
    agents["b"].kill()
    wait_for("the loss of node b", lambda: "node lost node=b" in agents["a"].log.read_text(), 20)
    hasty.wait_until(State.PAIR_READY)
    agents["b"].start()
    hasty.wait_until(State.LINKED, seconds=20)
    wait_for_ping(hasty, pair, PRIMARY_IP)


def test_fault_20_a_tombstone_survives_a_clock_step(hasty: Cluster) -> None:
    """DEL comes while ADD runs. Then the clock steps two hours, and another DEL expires old tombstones."""
    cluster = hasty
    clock = stepped_clock(cluster.bed.agents["a"])
    primary, pair, other = cluster.primary(cluster.a), cluster.pair(cluster.b), cluster.pod("other", {}, cluster.a)
    cluster.add_all((cluster.b, pair), (cluster.a, other))
    gate = Gate()
    cluster.faults.add(Rule(sent_by(cluster.a, "PATCH", path=f"/configmaps/{LINK}"), before=gate))
    adding = cluster.start("ADD", cluster.a, primary)
    assert gate.reached.wait(20)
    deleting = cluster.start("DEL", cluster.a, primary)
    wait_for("the tombstone", lambda: has_tombstone(cluster.a, primary))
    clock.step(2 * HOUR)
    assert cluster.a.call("DEL", other).status == 0
    gate.opened.set()
    assert cluster.end(adding).json["code"] == 11
    assert cluster.end(deleting).status == 0
    assert cluster.interfaces(primary) == []
    assert cluster.bed.links()[LINK].primary.sandbox is None


# 21: many concurrent ADDs


def test_fault_21_none_of_128_adds_waits_for_another(cluster: Cluster) -> None:
    """112 ADDs of pods without links or with peers succeed, while 16 wait for a peer or for the API."""
    waiting = [
        cluster.pod(f"w{number}", {**PRIMARY, "ratchet.pair_name": f"v{number}"}, cluster.a) for number in range(15)
    ]
    held = cluster.pod("held", {**PRIMARY, "ratchet.pair_name": "holder"}, cluster.a)
    quick = [(cluster.a, cluster.pod(f"plain{number}", {}, cluster.a)) for number in range(80)]
    for number in range(16):
        quick.append((cluster.a, cluster.pod(f"p{number}", {**PRIMARY, "ratchet.pair_name": f"q{number}"}, cluster.a)))
        node = cluster.a if number % 2 else cluster.b
        quick.append((node, cluster.pod(f"q{number}", PAIR, node)))
    assert len(waiting) + 1 + len(quick) == 128
    gate = Gate()
    cluster.faults.add(Rule(sent_by(cluster.a, "POST", path="/configmaps"), before=gate))
    patient = {**cluster.a.config, "wait": 60, "wait_policy": "require"}
    late = [cluster.start("ADD", cluster.a, held, config=patient)]
    assert gate.reached.wait(20)
    late += [cluster.start("ADD", cluster.a, one, config=patient) for one in waiting]
    with ThreadPoolExecutor(len(quick)) as pool:
        answers = list(pool.map(lambda one: one[0].add(one[1]), quick))
    assert [answer.stdout for answer in answers if answer.status] == []
    assert [one.poll() for one in late] == [None] * 16
    gate.opened.set()
    for number in range(16):
        cluster.wait_until(State.LINKED, f"default.p{number}.in1.q{number}.in2")
    peers = [(cluster.b, cluster.pod(f"v{number}", PAIR, cluster.b)) for number in range(15)]
    cluster.add_all(*peers, (cluster.b, cluster.pod("holder", PAIR, cluster.b)))
    for process in late:
        answer = cluster.end(process)
        assert answer.status == 0, answer.stdout


# 22: reboots of a node


def mark_as_of_earlier_boot(node: Kubelet) -> None:
    """Change the boot ID in all journal files of a node, as if the node had rebooted."""
    for path in (*(node.state_dir / "sandboxes").iterdir(), *(node.state_dir / "deleted").glob("*")):
        path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "an earlier one"}))


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_fault_22_a_rebooted_node_links_the_new_sandboxes_of_its_pods(cluster: Cluster, node_of_pair: str) -> None:
    """The reboot removes the namespaces, not the disk. The DELs of old sandboxes come after the new ADDs."""
    pair_node = node_named(cluster, node_of_pair)
    primary, pair = cluster.linked_pair(pair_node)
    gone = [(node, one) for node, one in ((cluster.a, primary), (pair_node, pair)) if node is cluster.a]
    cluster.bed.agents["a"].kill()
    for _, sandbox in gone:
        cluster.bed.hosts.remove_namespace(sandbox.netns)
    mark_as_of_earlier_boot(cluster.a)
    cluster.bed.agents["a"].start()
    cluster.wait_until(State.PENDING if node_of_pair == "b" else None)
    if node_of_pair == "b":
        wait_for("no carrier", lambda: "NO-CARRIER" in cluster.show(pair, "in2")["flags"])
    new = [(node, cluster.sandbox(node, old.pod)) for node, old in gone]
    cluster.add_all(*new)
    cluster.wait_until(State.LINKED)
    for node, old in gone:
        assert node.call("DEL", old, CNI_NETNS="").status == 0
    reconcile_everything(cluster.a)
    assert cluster.state() is State.LINKED
    wait_for_ping(cluster, new[0][1], PAIR_IP)


# 27: renewed credentials


def test_fault_27_a_renewed_token_is_read_again(cluster: Cluster) -> None:
    """The API suddenly rejects the old token. Calls and watches continue with the new token."""
    file = cluster.bed.access.node_kubeconfig
    before = file.read_text()

    async def refuse_the_old(request: web.Request) -> web.Response | None:
        known = request.headers.get("Authorization") == "Bearer renewed"
        return None if known else await answering(401, "Unauthorized")(request)

    assert before.count("token: ratchet-dev") == 1
    file.write_text(before.replace("token: ratchet-dev", "token: renewed"))
    everything = [Rule(sent_by(node), before=refuse_the_old, times=10**9) for node in (cluster.a, cluster.b)]
    for rule in everything:
        cluster.faults.add(rule)
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    cluster.add_all((cluster.a, primary), (cluster.b, pair))
    cluster.wait_until(State.LINKED)
    assert sum(sent.status == 401 for sent in cluster.faults.sent) >= 2
    # Every watch breaks at its next event, and is restarted with the new token.
    cluster.faults.cut |= {cluster.a.host.address, cluster.b.host.address}
    end_pods(cluster, (cluster.b, pair))
    cluster.faults.cut.clear()
    again = cluster.pair(cluster.b)
    assert cluster.b.add(again).status == 0
    cluster.wait_until(State.LINKED)
    wait_for_ping(cluster, primary, PAIR_IP)


# 28: SIGKILL of the agent


def may_belong_to_call(node: Kubelet) -> Callable[[Sent], bool]:
    """Match requests of a node that may belong to a call: no watches, Events, Nodes or node Leases."""
    by_node = sent_by(node)
    return lambda sent: by_node(sent) and not (sent.watches or "/events" in sent.path or "node" in sent.path)


def killing(agent: AgentProcess) -> Act:
    """An act that kills the current process of an agent."""
    pid = agent.pid

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    return calling(kill)


def killed_at(
    cluster: Cluster, node: Kubelet, request: int, when: str, call: Callable[[], CniResponse]
) -> tuple[CniResponse, bool]:
    """Run a call, and kill the node's agent at the request with this number.

    Return the result, and whether the agent was killed. A killed agent is started again.
    """
    agent = cluster.bed.agents[node.host.name]
    cluster.faults.clear()
    rule = Rule(may_belong_to_call(node), first=request)
    setattr(rule, when, killing(agent))
    cluster.faults.add(rule)
    answer = call()
    killed = rule.taken > 0
    cluster.faults.clear()
    if killed:
        agent.kill()
        agent.start()
    return answer, killed


@pytest.mark.timeout(480)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_fault_28_the_agent_is_killed_at_every_request_of_an_add(
    cluster: Cluster, node_of_pair: str, when: str
) -> None:
    """Kill it in the ADD that completes a link. As from a kubelet, DEL and a new sandbox's ADD follow."""
    node = node_named(cluster, node_of_pair)
    request, killed = 0, True
    while killed:
        request += 1
        pair, primary = cluster.pair(node), cluster.primary(cluster.a)
        assert node.add(pair).status == 0
        cluster.wait_until(State.PENDING)
        answer, killed = killed_at(cluster, cluster.a, request, when, lambda one=primary: cluster.a.add(one))  # type: ignore[misc]
        assert answer.status == 0 or answer.json["code"] == 11, answer
        assert answer.status == 0 or killed, answer
        again = primary
        if answer.status:
            again = cluster.sandbox(cluster.a, primary.pod)
            assert cluster.a.call("DEL", primary).status == 0
            assert cluster.interfaces(primary) == []
            assert cluster.a.add(again).status == 0
        cluster.wait_until(State.LINKED)
        wait_for_ping(cluster, again, PAIR_IP)
        end_pods(cluster, (cluster.a, again), (node, pair))
        cluster.bed.hosts.remove_namespace(primary.netns)
        collected(cluster)  # frees a VNI that was claimed and not recorded
        cluster.assert_nothing_left()
    assert request >= 2


@pytest.mark.timeout(480)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("order", ["first", "last"])
def test_fault_28_the_agent_is_killed_at_every_request_of_a_del(cluster: Cluster, order: str, when: str) -> None:
    """Kill it in the DEL of the first end, or of the last end, which also deletes the record and Lease."""
    request, killed = 0, True
    while killed:
        request += 1
        primary, pair = cluster.linked_pair()
        if order == "last":
            end_pods(cluster, (cluster.b, pair))
            cluster.wait_until(State.PRIMARY_READY)
        answer, killed = killed_at(
            cluster,
            cluster.a,
            request,
            when,
            lambda one=primary: cluster.a.call("DEL", one),  # type: ignore[misc]
        )
        assert (answer.status, answer.stdout) == (0, ""), answer
        cluster.bed.hosts.remove_namespace(primary.netns)
        cluster.bed.delete_pod(primary.pod)
        if order == "first":
            cluster.wait_until_left()
            end_pods(cluster, (cluster.b, pair))
        wait_for("the end of the record", lambda: cluster.bed.links() == {})
        collected(cluster)  # frees a VNI whose record was deleted just before the kill
        cluster.assert_nothing_left()
    assert request > 1


def test_fault_28_an_add_in_the_journal_is_completed_by_the_next_agent(cluster: Cluster) -> None:
    """The agent is killed after the journal entry is written. No DEL follows, so the link is completed."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    assert cluster.b.add(pair).status == 0
    agent = cluster.bed.agents["a"]
    record = sent_by(cluster.a, "PATCH", path=f"/configmaps/{LINK}")
    cluster.faults.add(Rule(record, before=killing(agent)))
    assert cluster.a.add(primary).json["code"] == 11
    cluster.faults.clear()
    agent.kill()
    agent.start()
    cluster.wait_until(State.LINKED)
    wait_for_ping(cluster, primary, PAIR_IP)


# 29: full and read-only disks


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "sandboxes").iterdir()}


@pytest.fixture(params=["full", "read-only"])
def disk(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[BrokenDisk]:
    """A small disk at the state directory of node a."""
    with small_disk(cluster.a.state_dir) as folder:
        yield BrokenDisk(folder, request.param)


def assert_unwritable(answer: CniResponse, cause: str) -> None:
    assert answer.status == 1
    assert answer.json["code"] == 100
    assert answer.error.startswith("cannot write /")
    assert cause in answer.error
    assert "state_dir must be writable and have room" in answer.json["details"]


def journal_is_on_disk(cluster: Cluster, *sandboxes: Sandbox) -> bool:
    """Whether exactly these sandboxes of node a have files in the journal."""
    return {name.split("+")[0] for name in contents(cluster.a.state_dir)} == {one.container_id for one in sandboxes}


def test_fault_29_a_broken_disk_fails_only_adds_of_pods_with_links(cluster: Cluster, disk: BrokenDisk) -> None:
    primary, pair = cluster.linked_pair()
    other = cluster.pod("other", {**PRIMARY, "ratchet.pair_name": "nobody"}, cluster.a)
    plain, short_lived = (cluster.pod(name, {}, cluster.a) for name in ("plain", "short-lived"))
    before = contents(cluster.a.state_dir)
    disk.break_down()
    assert_unwritable(cluster.a.call("ADD", other), disk.cause)
    assert cluster.interfaces(other) == []
    assert list(cluster.bed.links()) == [LINK]
    assert cluster.a.add(plain).status == 0
    assert "added before" in cluster.a.call("ADD", plain).error
    assert cluster.a.call("CHECK", plain).status == 0
    assert cluster.a.add(short_lived).status == 0
    assert cluster.a.call("DEL", short_lived).status == 0
    assert contents(cluster.a.state_dir) == before
    assert cluster.a.call("CHECK", primary).status == 0
    assert cluster.pings(primary, PAIR_IP)
    disk.repair()
    wait_for("the deferred entry", lambda: journal_is_on_disk(cluster, primary, plain))
    assert cluster.a.add(other, config={**cluster.a.config, "wait": 0, "wait_policy": "proceed"}).status == 0
    end_pods(cluster, (cluster.a, primary), (cluster.a, other), (cluster.a, plain), (cluster.b, pair))
    assert cluster.a.call("DEL", short_lived).status == 0
    cluster.assert_nothing_left()


def test_fault_29_del_on_a_broken_disk_leaves_the_link(cluster: Cluster, disk: BrokenDisk) -> None:
    """The entry is removed once the disk works, without another call."""
    primary, pair = cluster.linked_pair()
    disk.break_down()
    assert cluster.a.call("DEL", primary).status == 0
    assert cluster.interfaces(primary) == []
    assert cluster.bed.links()[LINK].primary.sandbox is None
    cluster.bed.delete_pod(primary.pod)
    disk.repair()
    wait_for("the end of the entry", lambda: journal_is_on_disk(cluster))
    again = cluster.primary(cluster.a)
    assert cluster.a.add(again).status == 0
    cluster.wait_until(State.LINKED)
    end_pods(cluster, (cluster.a, again), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_29_a_broken_disk_is_reported_while_it_lasts(cluster: Cluster, disk: BrokenDisk) -> None:
    plain = cluster.pod("plain", {}, cluster.a)
    disk.break_down()
    assert cluster.a.add(plain).status == 0
    status = cluster.a.call("STATUS", config={**cluster.a.config, "cniVersion": "1.1.0"})
    assert status.status == 0, "the runtime would start no pod on this node"
    assert "full or read-only (journal changes kept in memory: 1)" in page(cluster.a, "/readyz")[1]
    assert "\nratchet_journal_deferred 1.0\n" in page(cluster.a, "/metrics")[1]
    disk.repair()
    wait_for("the agent to be ready", lambda: "journal" not in page(cluster.a, "/readyz")[1])
    assert "\nratchet_journal_deferred 0.0\n" in page(cluster.a, "/metrics")[1]
    end_pods(cluster, (cluster.a, plain))


def test_fault_29_an_agent_starts_on_a_broken_disk_after_a_reboot(cluster: Cluster, disk: BrokenDisk) -> None:
    old, pair = cluster.linked_pair()
    cluster.bed.agents["a"].kill()
    cluster.bed.hosts.remove_namespace(old.netns)
    mark_as_of_earlier_boot(cluster.a)
    disk.break_down()
    cluster.bed.agents["a"].start()
    plain = cluster.pod("plain", {}, cluster.a)
    assert cluster.a.add(plain).status == 0
    assert cluster.a.call("DEL", old, CNI_NETNS="").status == 0
    wait_for("the end of the old sandbox", lambda: cluster.bed.links()[LINK].primary.sandbox is None)
    disk.repair()
    wait_for("the entries of this boot", lambda: journal_is_on_disk(cluster, plain))
    new = cluster.sandbox(cluster.a, old.pod)
    assert cluster.a.add(new).status == 0
    cluster.wait_until(State.LINKED)
    end_pods(cluster, (cluster.a, new), (cluster.a, plain), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_fault_29_a_del_without_agent_on_a_broken_disk_is_served_by_the_next_agent(
    cluster: Cluster, disk: BrokenDisk
) -> None:
    primary, pair = cluster.linked_pair()
    agent = cluster.bed.agents["a"]
    agent.kill()
    disk.break_down()
    assert cluster.a.call("DEL", primary).status == 0
    agent.start()
    wait_for("the DEL", lambda: cluster.bed.links()[LINK].primary.sandbox is None)
    disk.repair()
    wait_for("the end of the entry", lambda: journal_is_on_disk(cluster))
    cluster.forget_pods(primary)
    cluster.bed.delete_pod(primary.pod)
    end_pods(cluster, (cluster.b, pair))
    cluster.assert_nothing_left()


# 10 to 15: faults of the API


def first_of_each(matches: Callable[[Sent], bool]) -> Callable[[Sent], bool]:
    """Match only the first request of each client, method and path among the requests that match."""
    seen: set[tuple[str, str, str]] = set()

    def is_first(sent: Sent) -> bool:
        key = (sent.remote, sent.method, sent.path)
        if not matches(sent) or key in seen:
            return False
        seen.add(key)
        return True

    return is_first


def from_agents(cluster: Cluster, *methods: str) -> Callable[[Sent], bool]:
    nodes = (cluster.a.host.address, cluster.b.host.address)
    return lambda sent: sent.remote in nodes and not sent.watches and (not methods or sent.method in methods)


WRITES = ("POST", "PATCH", "PUT", "DELETE")


def replies_lost(cluster: Cluster) -> Rule:
    return Rule(first_of_each(from_agents(cluster, *WRITES)), after=dropping, times=1000)


def connections_broken(cluster: Cluster) -> Rule:
    return Rule(first_of_each(from_agents(cluster)), before=dropping, times=1000)


def conflicts(cluster: Cluster) -> Rule:
    """Conflicts at records only: a Lease is deleted by its UID, where a conflict is not retried."""
    records = from_agents(cluster, *WRITES)
    matches = first_of_each(lambda sent: records(sent) and "/configmaps" in sent.path)
    return Rule(matches, before=answering(409, "Conflict"), times=1000)


def busy(cluster: Cluster) -> Rule:
    refuse = answering(429, "TooManyRequests", **{"Retry-After": "1"})
    return Rule(first_of_each(from_agents(cluster, *WRITES)), before=refuse, times=1000)


def failing(cluster: Cluster) -> Rule:
    return Rule(first_of_each(from_agents(cluster)), before=answering(503, "ServiceUnavailable"), times=1000)


def slow(cluster: Cluster) -> Rule:
    return Rule(from_agents(cluster), before=delaying(0.25), times=1000)


API_FAULTS = (
    replies_lost,
    connections_broken,
    conflicts,
    busy,
    failing,
    slow,
)
FAULTS_BY_NODE = {"b": API_FAULTS, "a": (replies_lost, conflicts)}


@pytest.mark.parametrize(
    ("node_of_pair", "fault"),
    [
        pytest.param(node, fault, id=f"{fault.__name__}-{node}")
        for node, faults in FAULTS_BY_NODE.items()
        for fault in faults
    ],
)
def test_fault_12_to_14_links_are_created_and_removed_despite_api_faults(
    cluster: Cluster, fault: Callable[[Cluster], Rule], node_of_pair: str
) -> None:
    node = node_named(cluster, node_of_pair)
    primary, pair = cluster.primary(cluster.a), cluster.pair(node)
    rule = cluster.faults.add(fault(cluster))
    cluster.add_all((cluster.a, primary), (node, pair))
    cluster.wait_until(State.LINKED, seconds=20)
    wait_for_ping(cluster, primary, PAIR_IP)
    assert rule.taken > 1
    cluster.faults.clear()
    rule = cluster.faults.add(fault(cluster))
    end_pods(cluster, (cluster.a, primary), (node, pair))
    cluster.assert_nothing_left(20)
    assert rule.taken > 1


def test_fault_10_and_11_add_fails_and_del_succeeds_without_a_usable_api(cluster: Cluster) -> None:
    """Node a gets no response, node b gets 401.

    ADD fails in bounded time with code 11, DEL succeeds within seconds. The record is updated once the
    API is usable again."""
    primary, pair = cluster.linked_pair()
    late = {
        node.host.name: cluster.pod(
            f"late-{node.host.name}", {**PRIMARY, "ratchet.pair_name": f"no-{node.host.name}"}, node
        )
        for node in (cluster.a, cluster.b)
    }
    no_response = Gate()
    cluster.faults.add(Rule(sent_by(cluster.a), before=no_response, times=10**9))
    cluster.faults.add(Rule(sent_by(cluster.b), before=answering(401, "Unauthorized"), times=10**9))
    adding = {name: cluster.start("ADD", node_named(cluster, name), one) for name, one in late.items()}
    for answer in cluster.call_all("DEL", [(cluster.a, primary), (cluster.b, pair)]):
        assert (answer.status, answer.stdout) == (0, "")
    assert cluster.interfaces(primary) == cluster.interfaces(pair) == []
    for name, cause in (("a", "cannot reach the Kubernetes API"), ("b", "Unauthorized")):
        answer = cluster.end(adding[name])
        assert answer.json["code"] == 11
        assert cause in answer.error
        assert cluster.interfaces(late[name]) == []
        entries = (node_named(cluster, name).state_dir / "sandboxes").iterdir()
        assert not [path for path in entries if path.name.startswith(late[name].container_id)]
    assert cluster.state() is State.LINKED
    no_response.opened.set()
    cluster.faults.clear()
    cluster.wait_until(None, seconds=40)


def test_fault_15_a_watch_that_gets_410_is_restarted(cluster: Cluster) -> None:
    """The watch breaks and loses an event. The API answers 410 to the attempt to resume it."""
    primary, pair = cluster.linked_pair()
    address = cluster.a.host.address
    gone = Rule(lambda sent: sent.remote == address and sent.watches, before=answering(410, "Expired"), times=10**9)
    cluster.faults.add(gone)
    cluster.faults.cut.add(address)
    end_pods(cluster, (cluster.b, pair))
    wait_for("a watch that is refused", lambda: gone.taken > 0)
    cluster.faults.cut.clear()
    wait_for("no carrier", lambda: "NO-CARRIER" in cluster.show(primary, "in1")["flags"])
    again = cluster.pair(cluster.b)
    assert cluster.b.add(again).status == 0
    cluster.wait_until(State.LINKED)
    wait_for_ping(cluster, primary, PAIR_IP)


# 32: a collection that cannot be read is unknown, not empty


TOPOLOGY_LINK = "default.a.in1.b.in2"
LAB = '- {endpoints: ["a:in1", "b:in2"], addresses: ["10.0.1.1/24", "10.0.1.2/24"]}'
ASKS = {"ratchet": "true"}


def topologies_forbidden(cluster: Cluster, *nodes: Kubelet, watches: bool = True) -> Rule:
    forbidden = answering(403, "Forbidden")
    return cluster.faults.add(Rule(lists_topologies(*nodes, watches=watches), before=forbidden, times=10**9))


@pytest.fixture
def topology(cluster: Cluster) -> Iterator[str]:
    """A topology that links the pods `a` and `b`."""
    cluster.bed.create_topology("lab", LAB)
    yield "lab"
    path = f"/api/v1/namespaces/{cluster.bed.namespace}/configmaps/lab"
    cluster.faults.clear()
    cluster.bed.api.delete(path, uid=cluster.bed.api.get(path)["metadata"]["uid"])


@pytest.mark.usefixtures("topology")
def test_fault_32_an_agent_retries_a_forbidden_list_of_topologies(cluster: Cluster) -> None:
    """Until then the agent is not ready, and ADD of a pod that asks for links fails. No agent restarts."""
    a, b = (cluster.pod(name, ASKS, node) for name, node in (("a", cluster.a), ("b", cluster.b)))
    for agent in cluster.bed.agents.values():  # so that their caches have no topologies
        agent.stop()
    rule = topologies_forbidden(cluster, cluster.a, cluster.b)
    for agent in cluster.bed.agents.values():
        agent.start()
    pids = [agent.pid for agent in cluster.bed.agents.values()]
    answer = cluster.a.add(a)
    assert (answer.json["code"], answer.error) == (11, "cannot read the topologies of namespace default: forbidden")
    assert cluster.interfaces(a) == []
    status, why = page(cluster.a, "/readyz")
    assert status == 503
    assert "topologies: off" in why
    assert rule.taken > 0
    cluster.faults.clear()
    cluster.add_all((cluster.a, a), (cluster.b, b))
    cluster.wait_until(State.LINKED, TOPOLOGY_LINK)
    wait_for_ping(cluster, a, "10.0.1.2")
    wait_for("readiness", lambda: page(cluster.a, "/readyz")[0] == 200, 20)
    assert [agent.pid for agent in cluster.bed.agents.values()] == pids


def test_fault_32_an_end_is_kept_while_topologies_are_forbidden(cluster: Cluster) -> None:
    """The primary is deleted, and the pair's agent cannot check whether a topology declares the link."""
    primary, pair = cluster.linked_pair()
    before = cluster.show(pair, "in2")
    rule = topologies_forbidden(cluster, cluster.b, watches=False)
    end_pods(cluster, (cluster.a, primary))
    wait_for("a question whether the link is declared", lambda: rule.taken > 1)
    assert cluster.show(pair, "in2")["ifindex"] == before["ifindex"]
    record = cluster.bed.links()[LINK].pair.sandbox
    assert record is not None
    assert record.container_id == pair.container_id
    again = cluster.primary(cluster.a)
    assert cluster.a.add(again).status == 0
    cluster.wait_until(State.LINKED)
    assert cluster.show(pair, "in2")["ifindex"] == before["ifindex"]
    wait_for_ping(cluster, again, PAIR_IP)


def linked_by_topology(cluster: Cluster) -> tuple[Sandbox, Sandbox]:
    """The two pods of the topology, after they were linked."""
    a, b = (cluster.pod(name, ASKS, node) for name, node in (("a", cluster.a), ("b", cluster.b)))
    cluster.add_all((cluster.a, a), (cluster.b, b))
    cluster.wait_until(State.LINKED, TOPOLOGY_LINK)
    return a, b


@pytest.mark.usefixtures("topology")
def test_fault_32_an_end_is_kept_while_topologies_cannot_be_listed_or_watched(cluster: Cluster) -> None:
    """The agent cannot see that the topology is emptied. It keeps the end for the recreated other pod."""
    a, b = linked_by_topology(cluster)
    before, log = cluster.show(b, "in2")["ifindex"], cluster.bed.agents["b"].log
    rule = topologies_forbidden(cluster, cluster.b)
    cluster.faults.cut.add(cluster.b.host.address)
    cluster.bed.edit_topology("lab", "[]")  # the event at which the watch breaks
    wait_for("refusals", lambda: rule.taken > 1)
    cluster.faults.cut.clear()
    end_pods(cluster, (cluster.a, a))
    start = log.stat().st_size
    reconcile_everything(cluster.b)
    forbidden = rb'reconciliation failed .* cause="cannot read the topologies of namespace default: forbidden"'
    wait_for("a look at the namespace", lambda: bool(re.search(forbidden, log.read_bytes()[start:])))
    cluster.bed.edit_topology("lab", LAB)
    again = cluster.pod("a", ASKS, cluster.a)
    assert cluster.a.add(again).status == 0
    cluster.wait_until(State.LINKED, TOPOLOGY_LINK)
    assert cluster.show(b, "in2")["ifindex"] == before
    wait_for_ping(cluster, again, "10.0.1.2")


@pytest.mark.usefixtures("topology")
@pytest.mark.parametrize("text", [LAB[:-1], LAB.partition('"b')[0]], ids=["not closed", "cut before the pod's name"])
def test_fault_32_an_end_is_kept_while_its_topology_does_not_parse(cluster: Cluster, text: str) -> None:
    a, b = linked_by_topology(cluster)
    before, log = cluster.show(b, "in2")["ifindex"], cluster.bed.agents["b"].log
    cluster.bed.edit_topology("lab", text)
    start, logged = len(cluster.faults.sent), log.stat().st_size
    end_pods(cluster, (cluster.a, a))
    asked = lists_topologies(cluster.b, watches=False)
    wait_for("a question whether the link is declared", lambda: any(map(asked, cluster.faults.sent[start:])))
    reconcile_everything(cluster.b)
    cluster.bed.edit_topology("lab", LAB)
    again = cluster.pod("a", ASKS, cluster.a)
    assert cluster.a.add(again).status == 0
    cluster.wait_until(State.LINKED, TOPOLOGY_LINK)
    assert b"link removed" not in log.read_bytes()[logged:]  # the ifindex cannot show a removal and a new join
    assert cluster.show(b, "in2")["ifindex"] == before
    wait_for_ping(cluster, again, "10.0.1.2")
