"""What ADD does while a peer is not there: how long it waits, for whom, what it says then, and that nothing is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ratchet.core.model import Side, State
from ratchet.dev.fake_kubelet import CniResponse, Kubelet
from ratchet.dev.testbed import wait_for
from tests.support.cluster import CHAINED, LINK, PAIR, PRIMARY, Cluster

SHORT = {**CHAINED, "wait": 1}


def delegating(leases: Path, wait: float) -> dict[str, Any]:
    """Every pod gets a real network from Debian's ptp, whose addresses are files under `leases`."""
    ipam = {"type": "host-local", "subnet": "10.88.0.0/24", "dataDir": str(leases)}
    return {**CHAINED, "wait": wait, "delegate": {"name": "pods", "type": "ptp", "ipam": ipam}}


def assert_missed(answer: CniResponse, *words: str) -> None:
    """ADD gave up for now: code 11, so that the runtime tries again, in words that a person can act on."""
    assert answer.status != 0
    assert answer.json["code"] == 11, answer
    for word in words:
        assert word in answer.error


def assert_refused_intent(answer: CniResponse, *words: str) -> None:
    assert answer.status != 0
    assert answer.json["code"] == 101, answer
    for word in words:
        assert word in answer.error


def assert_waits_to_be_named(cluster: Cluster, node: Kubelet, log: Path) -> None:
    agent = cluster.bed.agents.get(node.host.name)
    told = agent.log if agent else log
    wait_for(
        "the pair to wait", lambda: told.exists() and "waiting for a declaration that names the pod" in told.read_text()
    )


@pytest.mark.parametrize("missing", ["absent", "unlabelled", "unscheduled", "unasked", "finished"])
def test_a_peer_that_does_not_come_is_named_with_what_it_waits_for(
    cluster: Cluster, tmp_path: Path, missing: str
) -> None:
    """And all that was made by then is taken back, the delegate's network among it."""
    if missing == "unlabelled":
        cluster.bed.create_pod("pair-pod", {"ratchet": "yes"}, "b")
    elif missing == "unscheduled":
        cluster.bed.create_pod("pair-pod", PAIR)
    elif missing in ("unasked", "finished"):
        cluster.bed.create_pod("pair-pod", PAIR, "b")
    if missing == "finished":
        cluster.bed.api.patch(f"{cluster.bed.pods_path}/pair-pod/status", {"status": {"phase": "Failed"}})
    said = {
        "absent": "there is no such pod",
        "unlabelled": 'it is not labelled ratchet: "true"',
        "unscheduled": "it is not scheduled",
        "unasked": "it is scheduled on b and its in2 has not been asked for yet",
        "finished": "it is Failed",
    }
    leases = tmp_path / "leases"
    primary = cluster.primary(cluster.a)
    answer = cluster.a.add(primary, config=delegating(leases, wait=1))
    assert_missed(answer, "default/primary-pod", "pod pair-pod", LINK, said[missing])
    assert (leases / "pods" / "last_reserved_ip.0").exists()  # the delegate was there, and then taken back
    assert list(leases.glob("pods/10.88.*")) == []
    assert cluster.interfaces(primary) == []
    cluster.assert_nothing_left()


def test_no_wait_at_all(cluster: Cluster) -> None:
    """`wait: 0` gives up at once where the peer is not there, and links where it is."""
    impatient = {**CHAINED, "wait": 0}
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.a)
    assert_missed(cluster.a.add(primary, config=impatient), "pod pair-pod")
    cluster.assert_nothing_left()
    cluster.start("ADD", cluster.a, pair)
    cluster.wait_until(State.PENDING)
    again = cluster.sandbox(cluster.a, primary.pod)
    assert cluster.a.add(again, config=impatient).status == 0
    assert cluster.pings(again, "192.168.2.101")


def test_the_runtime_tries_again_and_succeeds(cluster: Cluster) -> None:
    """As the kubelet does it: DEL of the sandbox that failed, then ADD of a new one, for as long as it takes."""
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    assert_missed(cluster.a.add(primary, config=SHORT), "pod pair-pod")
    assert cluster.a.delete(primary).status == 0
    again = cluster.sandbox(cluster.a, primary.pod)
    cluster.add_all((cluster.a, again), (cluster.b, pair))
    cluster.wait_until(State.LINKED)
    assert cluster.pings(again, "192.168.2.101")


# A pod that expects to be named


def test_a_pod_that_expects_to_be_named_gets_its_link_when_it_is(cluster: Cluster, tmp_path: Path) -> None:
    """The primary's very object comes while the pair waits."""
    log = tmp_path / "log"
    pair = cluster.pair(cluster.b)
    waiting = cluster.start("ADD", cluster.b, pair, config={**CHAINED, "log_file": str(log)})
    assert_waits_to_be_named(cluster, cluster.b, log)
    stranger = cluster.pod("stranger", {"ratchet": "true"}, cluster.a)
    assert cluster.a.add(stranger).status == 0
    assert waiting.poll() is None
    primary = cluster.primary(cluster.a)
    assert cluster.a.add(primary).status == 0
    result = cluster.end(waiting).json
    assert [one["name"] for one in result["interfaces"]] == ["in2"]
    cluster.wait_until(State.LINKED)
    assert cluster.pings(pair, "192.168.2.100")


def test_a_pod_that_nobody_names_gives_up(cluster: Cluster) -> None:
    pair = cluster.pair(cluster.b)
    answer = cluster.b.add(pair, config=SHORT)
    assert_missed(
        answer,
        "default/pair-pod",
        "nothing in its namespace names it: no ratchet.pair_name, no ratchet.links, no topology",
    )
    cluster.assert_nothing_left()


def test_a_pod_that_is_named_by_a_pod_that_was_refused_is_told_why(cluster: Cluster) -> None:
    cluster.bed.create_pod("primary-pod", {**PRIMARY, "ratchet.local_ifname": "lo"}, "a")
    answer = cluster.b.add(cluster.pair(cluster.b), config=SHORT)
    assert_missed(answer, "default/pair-pod")
    assert "default/primary-pod: ratchet.local_ifname" in answer.json["details"]


# What tenants write


def test_what_a_pod_may_not_ask_for_is_refused_by_name_of_pod_and_label(cluster: Cluster) -> None:
    """Before anything is made: no record, no interface, nothing noted."""
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
        assert_refused_intent(answer, "pod default/primary-pod", key)
        assert cluster.interfaces(sandbox) == []
        cluster.assert_nothing_left()
        cluster.bed.hosts.remove_namespace(sandbox.netns)
        cluster.bed.delete_pod(sandbox.pod)
    own = cluster.primary(cluster.a)
    answer = cluster.a.add(own, config=SHORT, CNI_IFNAME="in1")
    assert_refused_intent(answer, "ratchet.local_ifname", "interface name in1 is reserved for the runtime")
    assert [sent.path for sent in cluster.writes()] == []


def test_two_links_that_want_one_interface(cluster: Cluster) -> None:
    """The older pod's declaration holds; the younger one is told, and the pod that both mean is linked once."""
    cluster.bed.create_pod("a-older", {**PRIMARY, "ratchet.local_ifname": "in9"}, "a")
    younger = cluster.pod("b-younger", PRIMARY, cluster.a)
    answer = cluster.a.add(younger, config=SHORT)
    assert_refused_intent(answer, "default/b-younger", "ratchet.pair_ifname", "in2 in pod pair-pod is taken")
    cluster.assert_nothing_left()


# Pods by another name


def test_a_new_pod_of_a_deployment_takes_over_from_the_older(cluster: Cluster) -> None:
    """Both go by the Deployment's name; the newer one is meant, and the older one can no longer have the link."""
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
    assert cluster.pings(primary, "192.168.2.101")  # from the one that knew the older pod's MAC
    assert cluster.pings(newer, "192.168.2.100")

    assert cluster.b.delete(older).status == 0
    assert cluster.state(link) is State.LINKED
    late = cluster.sandbox(cluster.b, older.pod)
    assert_missed(cluster.b.add(late), "default/app-5d4f-1", "default/app-5d4f-2")
    assert cluster.pings(primary, "192.168.2.101")


def holder(cluster: Cluster, link: str, side: Side) -> str | None:
    record = cluster.bed.records.links.get(link)
    sandbox = record.sandbox(side) if record else None
    return sandbox.container_id if sandbox else None


# Several links


def test_all_links_are_joined_before_any_is_waited_for(cluster: Cluster) -> None:
    """A hub with one peer that is there and one that is not: both links have it while it waits, neither afterwards.

    Two pods that each waited for the other's first link, before they joined their second, would wait for ever.
    """
    absent, present = "default.absent.in2.hub.in1", "default.hub.down.spoke.up"
    hub = cluster.pod("hub", {**PRIMARY, "ratchet.pair_name": "absent"}, cluster.a)
    spoke = cluster.pod("spoke", to_hub(), cluster.b)
    beside = cluster.start("ADD", cluster.b, spoke)
    cluster.wait_until(State.PRIMARY_READY, present)
    waiting = cluster.start("ADD", cluster.a, hub, config={**CHAINED, "wait": 6})
    assert cluster.end(beside).status == 0  # its link stands although the hub itself has not started
    cluster.wait_until(State.LINKED, present)
    assert holder(cluster, absent, Side.PRIMARY) == hub.container_id
    assert holder(cluster, present, Side.PAIR) == hub.container_id
    assert waiting.poll() is None
    assert cluster.pings(spoke, "10.6.0.1")

    answer = cluster.end(waiting)
    assert_missed(answer, "pod default/hub", f"pod absent ({absent})", "there is no such pod")
    assert present not in answer.error
    assert set(cluster.bed.links()) == {present}
    assert cluster.state(present) is State.PRIMARY_READY
    assert holder(cluster, present, Side.PAIR) is None
    assert cluster.interfaces(hub) == []
    assert cluster.b.delete(spoke).status == 0
    cluster.assert_nothing_left()


def to_hub() -> dict[str, str]:
    return {
        "ratchet": "true",
        "ratchet.primary": "true",
        "ratchet.local_ifname": "up",
        "ratchet.local_ip": "10.6.0.2",
        "ratchet.pair_name": "hub",
        "ratchet.pair_ifname": "down",
        "ratchet.pair_ip": "10.6.0.1",
    }


def test_every_peer_that_is_missing_is_named(cluster: Cluster) -> None:
    cluster.bed.create_pod("spoke", to_hub(), "b")
    hub = cluster.pod("hub", {**PRIMARY, "ratchet.pair_name": "absent"}, cluster.a)
    answer = cluster.a.add(hub, config=SHORT)
    assert_missed(answer, "pod absent (default.absent.in2.hub.in1): there is no such pod")
    assert_missed(answer, "pod spoke (default.hub.down.spoke.up): it is scheduled on b and its up")
    cluster.assert_nothing_left()


def test_a_pod_may_be_deleted_while_it_waits(cluster: Cluster, tmp_path: Path) -> None:
    """DEL of a pair that waits to be named: its ADD must not find a link for it any more."""
    log = tmp_path / "log"
    pair = cluster.pair(cluster.b)
    waiting = cluster.start("ADD", cluster.b, pair, config={**CHAINED, "log_file": str(log)})
    assert_waits_to_be_named(cluster, cluster.b, log)
    assert cluster.b.call("DEL", pair).status == 0
    cluster.bed.create_pod("primary-pod", PRIMARY, "a")
    assert_missed(cluster.end(waiting), "default/pair-pod")
    assert cluster.interfaces(pair) == []
    cluster.assert_nothing_left()
