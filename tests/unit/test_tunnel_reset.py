"""A tunnel that somebody else changes is reset and reported. Changes of the agent itself are not reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ratchet.core.forwarding import ANY_MAC, ForwardingEntry
from ratchet.core.interface import VxlanWire
from ratchet.core.model import Link, Side
from ratchet.core.wires import wire_of
from ratchet.errors import ApiUnavailableError
from tests.support.links import RECORD, joined
from tests.support.memory import AgentNode, sandbox_of

PRIMARY, PAIR = Side.PRIMARY, Side.PAIR
OWN, PEER = sandbox_of(PRIMARY), sandbox_of(PAIR, "node-b")
ENTRY = ForwardingEntry(ANY_MAC, "10.0.0.9", 8472, 12)


@pytest.fixture
def tunnel(node: AgentNode) -> AgentNode:
    """A node with one end of a tunnel, which is up."""
    node.hold(OWN)
    node.put_record(joined(None, PEER))
    node.controller.reconcile(RECORD)
    assert record_of(node).is_ready(PRIMARY)
    return node


def record_of(node: AgentNode) -> Link:
    record = node.record()
    assert record is not None
    return record


def change(node: AgentNode, **changes: Any) -> None:
    """Change the observed interface, as somebody in the pod would."""
    world = node.kernel.world
    (one,) = world.interfaces
    changed = replace(one, device=replace(one.device, **changes))
    node.kernel.world = world._replace(interfaces=frozenset({changed}))


def check(node: AgentNode) -> list[str]:
    """Check the interface, as each round of the agent does. Returns the texts of the new Events `TunnelReset`."""
    before = len(node.announcements.events)
    node.verified.expire(RECORD)
    node.controller.reconcile(RECORD)
    return [text for reason, text, _ in node.announcements.events[before:] if reason == "TunnelReset"]


def resets(node: AgentNode) -> float:
    lines = dict(line.rsplit(" ", 1) for line in node.metrics.text().decode().splitlines() if line[0] != "#")
    return float(lines["ratchet_tunnel_resets_total"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"entries": (ENTRY,)}, f"in1 sends {ENTRY}; in1 does not send 00:00:00:00:00:00 to"),
        ({"remote": "10.0.0.9"}, "in1 has remote 10.0.0.9, wanted 192.168.1.33"),
        ({"local": "10.0.0.9"}, "in1 has local 10.0.0.9, wanted 192.168.1.73"),
        ({"parent_index": 9}, "in1 has parent 9, wanted 2"),
        ({"vni": 99}, "in1 has VNI 99, wanted"),
        ({"port": 8472}, "in1 has port 8472, wanted 4789"),
        ({"options": ("learning",)}, "in1 has the option learning"),
    ],
)
def test_a_tunnel_that_its_pod_has_changed_is_reset_with_one_event(
    changes: dict[str, Any], words: str, tunnel: AgentNode
) -> None:
    change(tunnel, **changes)
    (text,) = check(tunnel)
    assert text.startswith(f"in1 was changed in the pod and has been reset: {words}")
    assert resets(tunnel) == 1
    assert check(tunnel) == []
    assert resets(tunnel) == 1


def test_the_event_has_the_interface_and_is_a_warning(tunnel: AgentNode) -> None:
    change(tunnel, remote="10.0.0.9")
    check(tunnel)
    reason, _, interface = tunnel.announcements.events[-1]
    assert (reason, interface) == ("TunnelReset", "in1")


@pytest.mark.parametrize(
    "changes", [{"up": False, "brought_up": False}, {"mtu": 1300}, {"addresses": (), "given": ()}], ids=str
)
def test_a_change_that_harms_only_the_pod_is_corrected_without_an_event(
    changes: dict[str, Any], tunnel: AgentNode
) -> None:
    change(tunnel, **changes)
    assert check(tunnel) == []
    (one,) = tunnel.kernel.world.interfaces
    assert (one.device.up, one.device.mtu, len(one.device.addresses)) == (True, 1450, 1)


def test_an_unchanged_tunnel_gets_no_event(tunnel: AgentNode) -> None:
    assert check(tunnel) == []


def test_a_peer_that_moves_and_returns_gets_no_event(tunnel: AgentNode) -> None:
    moved = sandbox_of(PAIR, "node-c")
    for peer in (moved, PEER, moved):
        record = record_of(tunnel)
        tunnel.put_record(record.with_end(PAIR, replace(record.pair, sandbox=peer)))
        assert check(tunnel) == []
        (one,) = tunnel.kernel.world.interfaces
        assert one.device.remote == peer.vtep


def test_a_change_of_the_underlay_gets_no_event(tunnel: AgentNode) -> None:
    parent = replace(tunnel.underlay.parent, index=3)
    for other in (parent, replace(parent, address="192.168.1.74"), replace(parent, address="192.168.1.74", mtu=1400)):
        tunnel.underlay = replace(tunnel.underlay, parent=other)
        assert check(tunnel) == []
        (one,) = tunnel.kernel.world.interfaces
        assert (one.device.parent_index, one.device.local) == (other.index, other.address)


def test_another_port_of_the_agent_gets_no_event(tunnel: AgentNode) -> None:
    tunnel.underlay = replace(tunnel.underlay, vxlan_port=8472)
    assert check(tunnel) == []


def test_a_tunnel_that_this_agent_has_not_verified_gets_no_event(tunnel: AgentNode) -> None:
    """An earlier agent may have been killed between a change of the tunnel and of its record."""
    tunnel.verified.forget(RECORD)
    change(tunnel, remote="10.0.0.9")
    assert check(tunnel) == []
    (one,) = tunnel.kernel.world.interfaces
    assert one.device.remote == PEER.vtep


def test_a_build_that_failed_is_not_taken_for_a_change_by_the_pod(tunnel: AgentNode) -> None:
    """The agent has built the tunnel for another peer, and could not record it before the peer returned."""
    wire = wire_of(record_of(tunnel), PRIMARY, tunnel.underlay, tunnel.held()[0][0].location(tunnel.held()[0][1]))
    assert isinstance(wire, VxlanWire)
    tunnel.verified.changing(RECORD, PRIMARY, replace(wire, remote="192.168.1.9").tunnel)
    change(tunnel, remote="192.168.1.9")
    assert check(tunnel) == []


def test_a_reset_while_the_api_is_away_waits_and_is_reported_later(tunnel: AgentNode) -> None:
    """The record is read from the API before an interface that is up is changed."""
    change(tunnel, remote="10.0.0.9")
    tunnel.api.failures.append(ApiUnavailableError("cannot reach the API: no route"))
    with pytest.raises(ApiUnavailableError):
        check(tunnel)
    assert len(check(tunnel)) == 1
