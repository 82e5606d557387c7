"""The guard of the tunnel port: fragments of datagrams."""

from __future__ import annotations

import pytest

from ratchet.datapath import nftables
from ratchet.datapath.nftables import TABLE_NAME, Nftables, request, text
from tests.support.frames import received_frames
from tests.support.guarded_link import FAMILIES, drops, link_pods
from tests.support.namespaces import Bed
from tests.support.packets import ORDINARY, TINY, overlapping, pieces, send
from tests.support.wires import Wires

pytestmark = pytest.mark.usefixtures("has_nftables")


def _track_connections(bed: Bed, node: str) -> None:
    """Turn connection tracking on, which reassembles fragments before any filter."""
    expression = nftables.nest(
        1, nftables.text(1, "ct"), nftables.nest(2, nftables.number(1, 8), nftables.number(2, 0))
    )
    name = text(TABLE_NAME, "tracking")
    chain = name + text(3, "all")
    with bed.inside(node), Nftables() as channel:
        channel.transact(
            [
                request(nftables.NEWTABLE, nftables.NLM_F_CREATE, name),
                request(nftables.NEWCHAIN, nftables.NLM_F_CREATE, chain),
                request(nftables.NEWRULE, nftables.NLM_F_CREATE, name, text(2, "all"), nftables.nest(4, expression)),
            ]
        )


@pytest.mark.parametrize("tracked", [False, True], ids=["plain", "tracked"])
@FAMILIES
def test_forged_fragments_do_not_reach_a_tunnel(
    one: str, two: str, three: str, tracked: bool, underlay: Bed, wires: Wires
) -> None:
    link_pods(underlay, wires, one, two)
    if tracked:
        _track_connections(underlay, "node-1")
    with received_frames(underlay, "pod-a") as frames:
        for payload, packets in (
            (b"ordinary", pieces(three, one, b"ordinary" + bytes(40), ORDINARY)),
            (b"tiny", pieces(three, one, b"tiny" + bytes(40), TINY)),
            (b"backward", pieces(three, one, b"backward" + bytes(40), TINY)[::-1]),
            (b"overlapping", overlapping(three, one, b"overlapping" + bytes(40))),
        ):
            send(underlay, "node-3", one, *packets)
            assert underlay.pings("pod-b", "192.168.2.1")
            assert payload not in frames, payload


@pytest.mark.parametrize("first", [ORDINARY, TINY])
@FAMILIES
def test_forged_fragments_reach_a_tunnel_without_the_guard(
    one: str, two: str, three: str, first: int, underlay: Bed, wires: Wires
) -> None:
    """So the fragments of these tests are what the kernel takes."""
    link_pods(underlay, wires, one, two, guard=False)
    with received_frames(underlay, "pod-a") as frames:
        send(underlay, "node-3", one, *pieces(three, one, b"forged" + bytes(40), first))
        assert underlay.pings("pod-b", "192.168.2.1")
        assert b"forged" in frames


@FAMILIES
def test_the_fragments_of_a_peer_reach_a_tunnel(one: str, two: str, three: str, underlay: Bed, wires: Wires) -> None:
    link_pods(underlay, wires, one, two)
    with received_frames(underlay, "pod-a") as frames:
        send(underlay, "node-2", one, *pieces(two, one, b"ordinary" + bytes(40), ORDINARY))
        assert underlay.pings("pod-b", "192.168.2.1")
        assert b"ordinary" in frames
    assert drops(underlay) == {}


@pytest.mark.parametrize("tracked", [False, True], ids=["plain", "tracked"])
@FAMILIES
def test_a_link_whose_outer_packets_are_fragmented_carries_large_packets(
    one: str, two: str, three: str, tracked: bool, underlay: Bed, wires: Wires
) -> None:
    link_pods(underlay, wires, one, two)
    network, mtu = ("fd09::/64", "1280") if ":" in one else ("10.9.0.0/24", "700")
    for node in ("node-1", "node-2"):
        underlay.ip(node, "route", "replace", network, "dev", "eth0", "mtu", mtu)
        if tracked:
            _track_connections(underlay, node)
    assert underlay.pings("pod-a", "192.168.2.2")
    underlay.run("pod-a", "ping", "-n", "-c", "1", "-W", "3", "-s", "1372", "192.168.2.2")
    assert drops(underlay) == {}
