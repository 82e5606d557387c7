"""ADD with a missing peer: how long it waits, its error, and that it leaves nothing behind."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ratchet.core.model import Side, State
from ratchet.core.state_machine import derive
from ratchet.dev.fake_kubelet import CniResponse, Sandbox
from ratchet.dev.testbed import wait_for
from tests.support.cluster import CHAINED, LINK, PAIR, PRIMARY, Cluster

SHORT = {**CHAINED, "wait": 1}


def delegating(leases: Path, wait: float) -> dict[str, Any]:
    """Build a configuration that delegates to Debian's ptp. Its addresses are files under `leases`."""
    ipam = {"type": "host-local", "subnet": "10.88.0.0/24", "dataDir": str(leases)}
    return {**CHAINED, "wait": wait, "delegate": {"name": "pods", "type": "ptp", "ipam": ipam}}


def assert_retriable(answer: CniResponse, *words: str) -> None:
    """Assert code 11, so that the runtime retries, and an error that contains all `words`."""
    assert answer.status != 0
    assert answer.json["code"] == 11, answer
    for word in words:
        assert word in answer.error


def assert_invalid_declaration(answer: CniResponse, *words: str) -> None:
    assert answer.status != 0
    assert answer.json["code"] == 101, answer
    for word in words:
        assert word in answer.error


def start_waiting_pair(cluster: Cluster, log: Path) -> tuple[Sandbox, subprocess.Popen[str]]:
    """Start the ADD of a pair on node b, and wait until it waits for a declaration.

    Tests share the agent's log, so only lines that follow count.
    """
    agent = cluster.bed.agents.get("b")
    path = agent.log if agent else log

    def waits() -> int:
        return path.read_text().count("waiting for a declaration that names the pod") if path.exists() else 0

    before, pair = waits(), cluster.pair(cluster.b)
    process = cluster.start("ADD", cluster.b, pair, config={**CHAINED, "log_file": str(log)})
    wait_for("the pair to wait", lambda: waits() > before)
    return pair, process


@pytest.mark.parametrize("missing", ["absent", "unlabelled", "unscheduled", "unasked", "finished"])
def test_the_error_names_a_missing_peer_and_the_reason(cluster: Cluster, tmp_path: Path, missing: str) -> None:
    """Let ADD time out for each reason. It rolls back its work, and the delegate's network too."""
    if missing == "unlabelled":
        cluster.bed.create_pod("pair-pod", {"ratchet": "yes"}, "b")
    elif missing == "unscheduled":
        cluster.bed.create_pod("pair-pod", PAIR)
    elif missing in ("unasked", "finished"):
        cluster.bed.create_pod("pair-pod", PAIR, "b")
    if missing == "finished":
        cluster.bed.api.patch(f"{cluster.bed.pods_path}/pair-pod/status", {"status": {"phase": "Failed"}})
    reasons = {
        "absent": "there is no such pod",
        "unlabelled": 'it is not labelled ratchet: "true"',
        "unscheduled": "it is not scheduled",
        "unasked": "it is scheduled on b and its in2 has not been asked for yet",
        "finished": "it is Failed",
    }
    leases = tmp_path / "leases"
    primary = cluster.primary(cluster.a)
    answer = cluster.a.add(primary, config=delegating(leases, wait=1))
    assert_retriable(answer, "default/primary-pod", "pod pair-pod", LINK, reasons[missing])
    assert (leases / "pods" / "last_reserved_ip.0").exists()  # the delegate was added, then deleted
    assert list(leases.glob("pods/10.88.*")) == []
    assert cluster.interfaces(primary) == []
    cluster.assert_nothing_left()


def test_wait_0_links_only_with_a_peer_that_has_joined(cluster: Cluster) -> None:
    """Set `wait` to 0. ADD fails at once without its peer, and succeeds with it."""
    no_wait = {**CHAINED, "wait": 0}
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.a)
    assert_retriable(cluster.a.add(primary, config=no_wait), "pod pair-pod")
    cluster.assert_nothing_left()
    cluster.start("ADD", cluster.a, pair)
    cluster.wait_until(State.PENDING)
    again = cluster.sandbox(cluster.a, primary.pod)
    assert cluster.a.add(again, config=no_wait).status == 0
    assert cluster.pings(again, "192.168.2.101")


def test_a_retried_add_succeeds(cluster: Cluster) -> None:
    """Retry as the kubelet does: DEL of the failed sandbox, then ADD of a new one."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    assert_retriable(cluster.a.add(primary, config=SHORT), "pod pair-pod")
    assert cluster.a.delete(primary).status == 0
    again = cluster.sandbox(cluster.a, primary.pod)
    cluster.add_all((cluster.a, again), (cluster.b, pair))
    cluster.wait_until(State.LINKED)
    assert cluster.pings(again, "192.168.2.101")


# A pair that waits for a declaration


def test_a_waiting_pair_is_linked_once_its_primary_is_created(cluster: Cluster, tmp_path: Path) -> None:
    """Create the pod of the primary while the ADD of the pair waits."""
    pair, waiting = start_waiting_pair(cluster, tmp_path / "log")
    stranger = cluster.pod("stranger", {"ratchet": "true"}, cluster.a)
    assert cluster.a.add(stranger).status == 0
    assert waiting.poll() is None
    primary = cluster.primary(cluster.a)
    assert cluster.a.add(primary).status == 0
    result = cluster.end(waiting).json
    assert [one["name"] for one in result["interfaces"]] == ["in2"]
    cluster.wait_until(State.LINKED)
    assert cluster.pings(pair, "192.168.2.100")


def test_add_of_a_pair_without_a_declaration_is_code_11(cluster: Cluster) -> None:
    pair = cluster.pair(cluster.b)
    answer = cluster.b.add(pair, config=SHORT)
    assert_retriable(
        answer,
        "default/pair-pod",
        "nothing in its namespace names it: no ratchet.pair_name, no ratchet.links, no topology",
    )
    cluster.assert_nothing_left()


def test_the_error_of_a_pair_names_the_invalid_label_of_its_primary(cluster: Cluster) -> None:
    cluster.bed.create_pod("primary-pod", {**PRIMARY, "ratchet.local_ifname": "lo"}, "a")
    answer = cluster.b.add(cluster.pair(cluster.b), config=SHORT)
    assert_retriable(answer, "default/pair-pod")
    assert "default/primary-pod: ratchet.local_ifname" in answer.json["details"]


# Invalid declarations


def test_the_error_of_an_invalid_value_names_the_pod_and_the_key(cluster: Cluster) -> None:
    """Reject each value before anything is created: no record, no interface, no journal entry."""
    hostile = [
        ("ratchet.local_ifname", "eth0"),
        ("ratchet.local_ifname", "lo"),
        ("ratchet.local_ifname", "x%d"),
        ("ratchet.local_ifname", "-rf"),
        ("ratchet.local_ifname", "$(id)"),
        ("ratchet.local_ifname", "i" * 16),
        ("ratchet.pair_ifname", "eth0;id"),
        ("ratchet.pair_ifname", "a\u202eb"),
        ("ratchet.local_ip", "192.168.2.0"),
        ("ratchet.local_ip", "0.0.0.0"),
        ("ratchet.pair_ip", "192.168.2.100"),
        ("ratchet.pair_ip", "nowhere"),
        ("ratchet.local_prefix", "129"),
        ("ratchet.pair_name", "primary-pod"),
        ("ratchet.pair_name", "../../kube-system/secret"),
        ("ratchet.pod_name", "../other"),
        ("ratchet.primary", "perhaps"),
    ]
    for key, value in hostile:
        sandbox = cluster.pod("primary-pod", PRIMARY, cluster.a, **{key: value})
        answer = cluster.a.add(sandbox, config=SHORT)
        assert_invalid_declaration(answer, "pod default/primary-pod", key)
        assert cluster.interfaces(sandbox) == []
        cluster.assert_nothing_left()
        cluster.bed.hosts.remove_namespace(sandbox.netns)
        cluster.bed.delete_pod(sandbox.pod)
    own = cluster.primary(cluster.a)
    answer = cluster.a.add(own, config=SHORT, CNI_IFNAME="in1")
    assert_invalid_declaration(answer, "ratchet.local_ifname", "interface name in1 is reserved for the runtime")
    assert [sent.path for sent in cluster.writes()] == []


def test_the_younger_of_two_declarations_of_one_interface_is_rejected(cluster: Cluster) -> None:
    """Declare the interface in2 of pair-pod in two pods. The younger pod is rejected, the older one is linked."""
    older, pair = cluster.pod("a-older", {**PRIMARY, "ratchet.local_ifname": "in9"}, cluster.a), cluster.pair(cluster.b)
    younger = cluster.pod("b-younger", PRIMARY, cluster.a)
    answer = cluster.a.add(younger, config=SHORT)
    assert_invalid_declaration(answer, "default/b-younger", "ratchet.pair_ifname", "in2 in pod pair-pod is taken")
    cluster.assert_nothing_left()
    cluster.add_all((cluster.a, older), (cluster.b, pair))
    assert {name: derive(link) for name, link in cluster.bed.links().items()} == {
        "default.a-older.in9.pair-pod.in2": State.LINKED
    }
    assert [cluster.interfaces(one) for one in (older, pair, younger)] == [["in9"], ["in2"], []]
    assert cluster.pings(older, "192.168.2.101")


# Pods with an alias


def test_a_new_pod_of_a_deployment_takes_over_the_link_of_the_older(cluster: Cluster) -> None:
    """Give both pods one alias. The newer pod gets the link, and the older one can no longer join it."""
    app = {**PAIR, "ratchet.pod_name": "app"}
    link = "default.app.in2.primary-pod.in1"
    primary = cluster.primary(cluster.a, **{"ratchet.pair_name": "app"})
    older = cluster.pod("app-5d4f-1", app, cluster.b)
    cluster.add_all((cluster.a, primary), (cluster.b, older))
    cluster.wait_until(State.LINKED, link)
    assert cluster.pings(primary, "192.168.2.101")

    newer = cluster.pod("app-5d4f-2", app, cluster.b)
    assert cluster.b.add(newer).status == 0
    cluster.wait_until(State.LINKED, link)
    assert holder(cluster, link, Side.PAIR) == newer.container_id
    assert cluster.interfaces(older) == []
    assert cluster.pings(primary, "192.168.2.101")  # the primary still has the older pod's MAC in its neighbour table
    assert cluster.pings(newer, "192.168.2.100")

    assert cluster.b.delete(older).status == 0
    assert cluster.state(link) is State.LINKED
    late = cluster.sandbox(cluster.b, older.pod)
    assert_retriable(cluster.b.add(late), "default/app-5d4f-1", "default/app-5d4f-2")
    assert cluster.pings(primary, "192.168.2.101")


def holder(cluster: Cluster, link: str, side: Side) -> str | None:
    record = cluster.bed.store.links.get(link)
    sandbox = record.sandbox(side) if record else None
    return sandbox.container_id if sandbox else None


# Several links


def test_add_joins_all_links_before_it_waits(cluster: Cluster) -> None:
    """Start a hub with a present and an absent peer. It joins both links, and leaves both after the wait.

    Two pods would deadlock if each waited for its first link before it joined the second.
    """
    absent, present = "default.absent.in2.hub.in1", "default.hub.down.spoke.up"
    hub = cluster.pod("hub", {**PRIMARY, "ratchet.pair_name": "absent"}, cluster.a)
    spoke = cluster.pod("spoke", spoke_labels(), cluster.b)
    spoke_add = cluster.start("ADD", cluster.b, spoke)
    cluster.wait_until(State.PRIMARY_READY, present)
    waiting = cluster.start("ADD", cluster.a, hub, config={**CHAINED, "wait": 6})
    assert cluster.end(spoke_add).status == 0  # its link is up, although the hub's ADD still waits
    cluster.wait_until(State.LINKED, present)
    assert holder(cluster, absent, Side.PRIMARY) == hub.container_id
    assert holder(cluster, present, Side.PAIR) == hub.container_id
    assert waiting.poll() is None
    assert cluster.pings(spoke, "10.6.0.1")

    answer = cluster.end(waiting)
    assert_retriable(answer, "pod default/hub", f"pod absent ({absent})", "there is no such pod")
    assert present not in answer.error
    assert set(cluster.bed.links()) == {present}
    assert cluster.state(present) is State.PRIMARY_READY
    assert holder(cluster, present, Side.PAIR) is None
    assert cluster.interfaces(hub) == []
    assert cluster.b.delete(spoke).status == 0
    cluster.assert_nothing_left()


def spoke_labels() -> dict[str, str]:
    return {
        "ratchet": "true",
        "ratchet.primary": "true",
        "ratchet.local_ifname": "up",
        "ratchet.local_ip": "10.6.0.2",
        "ratchet.pair_name": "hub",
        "ratchet.pair_ifname": "down",
        "ratchet.pair_ip": "10.6.0.1",
    }


def test_the_error_names_every_missing_peer(cluster: Cluster) -> None:
    cluster.bed.create_pod("spoke", spoke_labels(), "b")
    hub = cluster.pod("hub", {**PRIMARY, "ratchet.pair_name": "absent"}, cluster.a)
    answer = cluster.a.add(hub, config=SHORT)
    assert_retriable(answer, "pod absent (default.absent.in2.hub.in1): there is no such pod")
    assert_retriable(answer, "pod spoke (default.hub.down.spoke.up): it is scheduled on b and its up")
    cluster.assert_nothing_left()


def test_del_ends_an_add_that_waits_for_a_declaration(cluster: Cluster, tmp_path: Path) -> None:
    """Delete a waiting pair, then create its primary. The ADD of the pair must not join the link."""
    pair, waiting = start_waiting_pair(cluster, tmp_path / "log")
    assert cluster.b.call("DEL", pair).status == 0
    cluster.bed.create_pod("primary-pod", PRIMARY, "a")
    assert_retriable(cluster.end(waiting), "default/pair-pod")
    assert cluster.interfaces(pair) == []
    cluster.assert_nothing_left()
