"""An end that cannot be made after its ADD has returned: the cause reaches the pod's owner, and goes with the fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from ratchet.cli.main import main
from ratchet.core.kinds import Wiring
from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Sandbox
from ratchet.dev.hosts import run_in
from ratchet.dev.testbed import wait_for
from tests.agent.pages import HEALTH, page
from tests.support.capabilities import outside_container
from tests.support.cluster import LINK, PAIR, Cluster
from tests.support.resync import touch
from tests.support.udp_port import port_taken

Captured = pytest.CaptureFixture[str]
SPEC = {
    "peer": "pair-pod",
    "ifname": "in1",
    "peer_ifname": "in2",
    "addresses": [["192.168.2.100/24", "fd02::1/64"], ["192.168.2.101/24", "fd02::2/64"]],
    "routes": [[{"to": "10.77.0.0/16", "via": "192.168.2.101"}], None],
}


@contextmanager
def _foreign_interface(cluster: Cluster, pod: Sandbox) -> Iterator[None]:
    run_in(pod.netns, "ip", "link", "add", "in1", "type", "veth", "peer", "name", "other")
    yield
    run_in(pod.netns, "ip", "link", "del", "in1")


@contextmanager
def _foreign_route(cluster: Cluster, pod: Sandbox) -> Iterator[None]:
    run_in(pod.netns, "ip", "route", "add", "10.77.0.0/16", "dev", "lo")
    yield
    run_in(pod.netns, "ip", "route", "del", "10.77.0.0/16", "dev", "lo")


@contextmanager
def _without_ipv6(cluster: Cluster, pod: Sandbox) -> Iterator[None]:
    key = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
    run_in(pod.netns, "sh", "-c", f"echo 1 > {key}")
    yield
    run_in(pod.netns, "sh", "-c", f"echo 0 > {key}")


Fault = Callable[[Cluster, Sandbox], AbstractContextManager[None]]
FAULTS: dict[str, tuple[Fault, str]] = {
    "name taken": (_foreign_interface, "is not Ratchet's"),
    "route exists": (_foreign_route, "10.77.0.0/16"),
    "IPv6 disabled": (_without_ipv6, "IPv6 is disabled"),
    "UDP port taken": (lambda cluster, _: port_taken(cluster.a), "UDP port 4789 of the node is in use"),
}


# In panel wiring, the interface exists before the peer. Only the tunnel can fail later.
CASES = [*((fault, Wiring.DIRECT) for fault in FAULTS), ("UDP port taken", Wiring.PANEL)]


@pytest.mark.parametrize(("fault", "wiring"), CASES)
def test_the_cause_of_a_failure_after_add_reaches_the_owner(
    cluster: Cluster, fault: str, wiring: Wiring, capsys: Captured
) -> None:
    make_fault, cause = FAULTS[fault]
    links = json.dumps([{**SPEC, "wiring": wiring}])
    primary = cluster.pod("primary-pod", {"ratchet": "true"}, cluster.a, **{"ratchet.links": links})
    cluster.add_all((cluster.a, primary))
    with make_fault(cluster, primary):
        pair = cluster.pod("pair-pod", PAIR, cluster.b)
        cluster.add_all((cluster.b, pair))
        wait_for("the error in the record", lambda: _error(cluster) is not None)
        assert cause in str(_error(cluster))
        wait_for("an Event", lambda: primary.pod.uid in cluster.pods_with_event("LinkFailed"))
        _assert_shown(cluster, str(_error(cluster)), capsys)
    touch(cluster.bed, LINK)
    cluster.wait_until(State.LINKED)
    wait_for("the end of the error", lambda: _error(cluster) is None)
    assert cluster.pings(primary, "192.168.2.101")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()


def test_a_taken_port_is_found_when_the_agent_starts(cluster: Cluster) -> None:
    with outside_container(cluster.bed.agents["a"]), port_taken(cluster.a):
        cluster.renew(cluster.a)
        wait_for("the agent to be ready", lambda: page(cluster.a, "/readyz", HEALTH)[0] == 200)
        assert "UDP port 4789 of the node is used by python" in page(cluster.a, "/readyz", HEALTH)[1]
        events, _ = cluster.bed.api.list("/api/v1/namespaces/default/events")
        assert "a" in {one["involvedObject"]["name"] for one in events if one["reason"] == "TunnelPortTaken"}
    cluster.renew(cluster.a)
    wait_for("the agent to be ready", lambda: page(cluster.a, "/readyz", HEALTH)[0] == 200)
    assert "UDP port" not in page(cluster.a, "/readyz", HEALTH)[1]


def _assert_shown(cluster: Cluster, error: str, capsys: Captured) -> None:
    """Assert that each command shows the error of the primary's end."""
    kubeconfig = ("--kubeconfig", str(cluster.bed.access.kubeconfig))
    text = f"{LINK}: in1 of pod primary-pod on a: {error}"
    assert main(["wait", "-n", "default", "--timeout", "0s", *kubeconfig]) == 1
    assert text in capsys.readouterr().err
    assert main(["links", *kubeconfig]) == 0
    listed = capsys.readouterr()
    assert "pair-ready!" in listed.out
    assert f"link {text}\n" in listed.err
    assert main(["inspect", LINK, *kubeconfig]) == 0
    assert f"{error} (since " in capsys.readouterr().out
    assert main(["graph", "-n", "default", *kubeconfig]) == 0
    assert ' error"|' in capsys.readouterr().out


def _error(cluster: Cluster) -> str | None:
    """The error of the primary's end in the record."""
    link = cluster.bed.store.links.get(LINK)
    return link.primary.error.text if link is not None and link.primary.error is not None else None
