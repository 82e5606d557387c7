"""A path that loses the datagrams of tunnels: in the metrics, in `/proofs` and as Events of the node."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ratchet.core.oam import SILENT_SECONDS
from ratchet.dev.fake_kubelet import Kubelet
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.agent.pages import page
from tests.support.cluster import LINK, Cluster, clean_cluster
from tests.support.wired import has_carrier, wired_pair

# Until a silence is reported: it must be long enough, and then a renewal of the peer's Lease must be read.
REPORTED_SECONDS = 2 * SILENT_SECONDS + 30


@pytest.fixture
def hasty() -> Iterator[Cluster]:
    """A cluster whose agents renew their Leases each second."""
    with clean_cluster(agent={"heartbeat": 1, "node_lost_after": 6}) as made:
        yield made


@contextmanager
def cut_off(source: Kubelet, target: Kubelet) -> Iterator[None]:
    """Within the block, no datagram of the first node reaches the other one. Both reach the API."""
    address = target.host.addresses[0].partition("/")[0]
    ip("-n", source.host.netns, "route", "add", "blackhole", address)
    try:
        yield
    finally:
        ip("-n", source.host.netns, "route", "del", "blackhole", address)


def tunnels(node: Kubelet, state: str) -> int:
    found = re.search(rf'ratchet_panel_tunnels{{state="{state}"}} (\S+)', page(node, "/metrics")[1])
    assert found is not None
    return int(float(found[1]))


def test_a_path_that_loses_tunnel_datagrams_is_reported_once_and_costs_no_carrier(hasty: Cluster) -> None:
    primary, pair = wired_pair(hasty, hasty.b)
    wait_for("frames", lambda: tunnels(hasty.a, "verified") == 1)
    with cut_off(hasty.b, hasty.a):
        wait_for("the silence", lambda: tunnels(hasty.a, "silent") == 1, REPORTED_SECONDS)
        silent = ("TunnelsSilent", f"no OAM frames from node b arrive over 1 of 1 tunnels: {LINK}")
        wait_for("the Event", lambda: hasty.events_of_node(hasty.a) == [silent], REPORTED_SECONDS)
        (ends,) = json.loads(page(hasty.a, "/proofs")[1])["proofs"].values()
        assert ends["primary"]["silent"] > SILENT_SECONDS
        assert has_carrier(hasty, primary, "in1")
        assert has_carrier(hasty, pair, "in2")
        assert "ratchet_panel_tunnel_unproven_seconds 0.0" not in page(hasty.a, "/metrics")[1]
    verified = ("TunnelsVerified", "OAM frames from node b arrive again over all 1 tunnels")
    wait_for("the next Event", lambda: set(hasty.events_of_node(hasty.a)) == {silent, verified})
    assert tunnels(hasty.a, "verified") == 1
