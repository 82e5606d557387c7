"""STATUS names what else has the UDP port of the tunnels, and succeeds: pods start without links to other nodes."""

from __future__ import annotations

from ratchet.dev.fake_kubelet import CniResponse
from ratchet.dev.testbed import wait_for
from tests.support.capabilities import outside_container
from tests.support.cluster import CHAINED, Cluster
from tests.support.udp_port import port_taken

FAULT = "UDP port 4789 of the node is used by python"


def _status(cluster: Cluster) -> tuple[CniResponse, str]:
    """The response to STATUS on the first node, and the log of the call there."""
    agent = cluster.bed.agents.get(cluster.a.host.name)
    logged = agent.log.stat().st_size if agent else 0
    answer = cluster.a.call("STATUS", config={**CHAINED, "cniVersion": "1.1.0"})
    if agent is None:
        return answer, answer.stderr
    # An agent logs a call once it has sent the response.
    log = ""

    def is_logged() -> bool:
        nonlocal log
        log = agent.log.read_bytes()[logged:].decode()
        return "STATUS succeeded" in log

    wait_for("the log of STATUS", is_logged)
    return answer, log


def test_status_names_a_taken_port_and_succeeds(cluster: Cluster) -> None:
    with outside_container(cluster.bed.agents.get("a")), port_taken(cluster.a):
        cluster.renew(cluster.a)
        answer, log = _status(cluster)
        assert (answer.status, answer.stdout) == (0, "")
        assert FAULT in log
    cluster.renew(cluster.a)
    answer, log = _status(cluster)
    assert answer.status == 0
    assert "UDP port" not in log


def test_status_does_not_name_the_tunnels_of_links(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    answer, log = _status(cluster)
    assert answer.status == 0
    assert "tunnel port" not in log
    assert "UDP port" not in log
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()
