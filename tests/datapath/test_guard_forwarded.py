"""The guard of the tunnel port: datagrams that a node forwards from pods."""

from __future__ import annotations

import pytest

from tests.support.frames import received_frames
from tests.support.guarded_link import ONE, ONE6, TWO, TWO6, drops, foreign_tunnel, link_pods
from tests.support.namespaces import Bed
from tests.support.packets import ORDINARY, TINY, VNI, pieces, send, udp_packet, vxlan
from tests.support.wires import Wires

pytestmark = pytest.mark.usefixtures("has_nftables")


@pytest.fixture
def routed(underlay: Bed, wires: Wires) -> Bed:
    """A pod network on node-2: the pod `tenant` sends to other nodes through it, from any address."""
    link_pods(underlay, wires, ONE, TWO)
    underlay.add("tenant")
    underlay.ip("node-2", *f"link add pods type veth peer name eth0 netns {underlay.name('tenant')}".split())
    for node, ifname, number in (("node-2", "pods", 1), ("tenant", "eth0", 2)):
        underlay.ip(node, "addr", "add", f"10.77.0.{number}/24", "dev", ifname)
        underlay.ip(node, "addr", "add", f"fd77::{number}/64", "dev", ifname, "nodad")
        underlay.ip(node, "link", "set", ifname, "up")
    underlay.ip("tenant", "route", "add", "default", "via", "10.77.0.1")
    underlay.ip("tenant", "-6", "route", "add", "default", "via", "fd77::1")
    # Forward what claims to come from the node itself, as address translation would make it.
    settings = ("ipv4/conf/all/forwarding=1", "ipv6/conf/all/forwarding=1", "ipv4/conf/all/rp_filter=0")
    for setting in (*settings, "ipv4/conf/pods/rp_filter=0", "ipv4/conf/pods/accept_local=1"):
        name, _, value = setting.partition("=")
        underlay.run("node-2", "sh", "-c", f"echo {value} > /proc/sys/net/{name}")
    return underlay


@pytest.mark.parametrize("first", [0, ORDINARY, TINY], ids=["whole", "fragments", "tiny fragments"])
@pytest.mark.parametrize(("one", "two"), [(ONE, TWO), (ONE6, TWO6)], ids=["IPv4", "IPv6"])
def test_a_pod_cannot_inject_by_way_of_its_node(one: str, two: str, first: int, routed: Bed, wires: Wires) -> None:
    """The datagram has the source that the peer accepts."""
    link_pods(routed, wires, one, two)

    def packets(payload: bytes, vni: int = VNI) -> tuple[bytes, ...]:
        if first:
            return pieces(two, one, payload, first, vni)
        return (udp_packet(two, one, vxlan(payload, vni)),)

    foreign_tunnel(routed, "node-1", 99, one)
    assert routed.pings("pod-b", "192.168.2.1")
    assert routed.pings("tenant", "fd77::1" if ":" in one else "10.77.0.1")
    before = sum(drops(routed, "node-2").values())
    with received_frames(routed, "pod-a") as frames, received_frames(routed, "node-1", "other") as others:
        send(routed, "tenant", one, *packets(b"injected" + bytes(40)))
        if first != TINY:
            send(routed, "tenant", one, *packets(b"another" + bytes(40), 99))
        assert routed.pings("pod-b", "192.168.2.1")
        assert b"injected" not in frames
        assert first == TINY or b"another" in others, "a tunnel of another CNI is forwarded"
    assert sum(drops(routed, "node-2").values()) == before + 1
