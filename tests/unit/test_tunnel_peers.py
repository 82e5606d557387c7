"""The ends of a node at tunnels, from its journal and the cached records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ratchet.agent.tunnel_peers import TunnelPeers
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link, Side
from ratchet.core.oam import TunnelPeer, record_id, sandbox_id
from ratchet.core.panel import PanelSlot, attachment_groups
from ratchet.core.sandbox import Sandbox
from tests.support.links import RECORD, joined, with_ready
from tests.support.memory import AgentNode, sandbox_of

OWN, PEER = sandbox_of(Side.PRIMARY), sandbox_of(Side.PAIR, "node-b")
SLOT = PanelSlot("/run/netns/panel", next(attachment_groups("one")))


class Leases:
    def __init__(self) -> None:
        self.silent: set[str] = set()

    def is_silent(self, node: str) -> bool:
        return node in self.silent


def in_panel_wiring(own: Sandbox, peer: Sandbox | None) -> Link:
    return replace(joined(own, peer), wiring=Wiring.PANEL)


def read(node: AgentNode, leases: Leases | None = None) -> dict[str, TunnelPeer]:
    return TunnelPeers(node.journal, node.store, leases or Leases()).read()


def test_an_end_across_nodes_is_found_by_its_tunnel(node: AgentNode) -> None:
    (end,) = node.hold(OWN, slot=SLOT).ends
    record, leases = node.put_record(in_panel_wiring(OWN, PEER)), Leases()
    ids = sandbox_id(OWN.container_id), sandbox_id(PEER.container_id)
    expected = TunnelPeer(RECORD, record_id(record.uid), 0, *ids, node="node-b", linked=False)
    assert read(node, leases) == {SLOT.tunnel(end.index): expected}
    leases.silent.add("node-b")
    assert read(node, leases) == {SLOT.tunnel(end.index): replace(expected, lease_expired=True)}


def test_an_end_is_linked_once_both_are_ready(node: AgentNode) -> None:
    node.hold(OWN, slot=SLOT)
    node.put_record(with_ready(in_panel_wiring(OWN, PEER), *Side))
    assert [one.linked for one in read(node).values()] == [True]


def test_both_ends_of_a_tunnel_within_a_node_are_told_apart(node: AgentNode) -> None:
    peer = sandbox_of(Side.PAIR)
    other = PanelSlot(SLOT.path, next(attachment_groups("two")))
    (first,), (second,) = node.hold(OWN, slot=SLOT).ends, node.hold(peer, slot=other).ends
    link = in_panel_wiring(OWN, peer)
    node.put_record(replace(link, encapsulation=replace(link.encapsulation, tunnel=True)))
    found = read(node)
    assert {name: one.end for name, one in found.items()} == {
        SLOT.tunnel(first.index): 0,
        other.tunnel(second.index): 1,
    }


NO_TUNNELS: dict[str, Callable[[], Link]] = {
    "direct wiring": lambda: joined(OWN, PEER),
    "a patch": lambda: in_panel_wiring(OWN, sandbox_of(Side.PAIR)),
    "no peer": lambda: in_panel_wiring(OWN, None),
    "another sandbox's end": lambda: in_panel_wiring(sandbox_of(Side.PRIMARY, number=2), PEER),
}


@pytest.mark.parametrize("what", NO_TUNNELS)
def test_other_ends_are_left_out(what: str, node: AgentNode) -> None:
    node.hold(OWN, slot=SLOT)
    node.put_record(NO_TUNNELS[what]())
    assert read(node) == {}


def test_an_end_without_a_record_or_without_a_place_in_the_panel_is_left_out(node: AgentNode) -> None:
    node.hold(OWN, slot=SLOT)
    assert read(node) == {}
    node.hold(OWN)
    node.put_record(in_panel_wiring(OWN, PEER))
    assert read(node) == {}
