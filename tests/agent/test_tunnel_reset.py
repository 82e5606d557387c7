"""An agent resets a tunnel that its pod has changed, and reports it."""

from __future__ import annotations

import json

from ratchet.dev.hosts import run_in
from ratchet.dev.testbed import wait_for
from tests.agent.pages import page
from tests.support.cluster import LINK, Cluster
from tests.support.resync import touch

RESETS = "ratchet_tunnel_resets_total"


def test_a_tunnel_that_its_pod_leads_elsewhere_is_reset_and_reported(cluster: Cluster) -> None:
    """The pod sends to a VTEP, port and VNI of its choice. The other end of the link gets no Event."""
    primary, pair = cluster.linked_pair()
    before = cluster.identity(primary, "in1")

    def entries() -> list[dict[str, object]]:
        return list(json.loads(run_in(primary.netns, "bridge", "-j", "fdb", "show", "dev", "in1")))

    (own,) = entries()
    change = "bridge fdb append 00:00:00:00:00:00 dev in1 dst 192.168.1.99 port 8472 vni 12"
    run_in(primary.netns, *change.split())
    assert len(entries()) == 2
    touch(cluster.bed, LINK)
    wait_for("the reset", lambda: entries() == [own])
    wait_for("an Event", lambda: cluster.pods_with_event("TunnelReset") == {primary.pod.uid})
    assert f"{RESETS} 1.0" in page(cluster.a, "/metrics")[1]
    assert f"{RESETS} 0.0" in page(cluster.b, "/metrics")[1]
    assert cluster.identity(primary, "in1") == before
    assert cluster.pings(primary, "192.168.2.101")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()
