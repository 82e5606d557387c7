"""Which silent tunnels are reported, and when their nodes are reported as verified again."""

from __future__ import annotations

import pytest

from ratchet.core.oam import SILENT_SECONDS, OamFrame, OamState, TunnelPeer
from ratchet.core.observation import Proof
from ratchet.core.silence import (
    NodeSilence,
    TunnelCondition,
    TunnelProof,
    condition_of,
    is_reported,
    node_silences,
    proof_key,
    reported_nodes,
    tunnel_proof,
)

NONE = frozenset[str]()
LONG = 2 * SILENT_SECONDS


def peer(link: str = "one", node: str = "b", *, linked: bool = True) -> TunnelPeer:
    return TunnelPeer(link, b"record", 0, b"own", b"far", node=node, linked=linked)


def silent(link: str = "one", node: str = "b", seconds: float = LONG, *, linked: bool = True) -> TunnelProof:
    return TunnelProof(peer(link, node, linked=linked), Proof(None, seconds), seconds)


def verified(link: str = "one", node: str = "b") -> TunnelProof:
    return TunnelProof(peer(link, node), Proof(3.0, None), 3.0)


def unheard(link: str = "one", node: str = "b") -> TunnelProof:
    return TunnelProof(peer(link, node), Proof(None, None), 3.0)


@pytest.mark.parametrize(
    ("heard", "now", "expected"),
    [
        (None, 110.0, (Proof(None, None), 10.0)),
        (None, 100.0 + LONG, (Proof(None, LONG), LONG)),
        (200.0, 205.0, (Proof(5.0, None), 5.0)),
        (200.0, 200.0 + LONG, (Proof(LONG, LONG), LONG)),
    ],
)
def test_what_is_proven_of_a_tunnel(heard: float | None, now: float, expected: tuple[Proof, float]) -> None:
    state = OamState(b"record", 0, since=100.0)
    if heard is not None:
        state = state.heard(OamFrame(b"record", 1, b"far", 1, 1, pod_up=True), heard)
    assert tunnel_proof(peer(), state, now) == (peer(), *expected)


@pytest.mark.parametrize(
    ("proof", "announced", "condition"),
    [
        (Proof(None, None), True, TunnelCondition.UNHEARD),
        (Proof(None, None), False, TunnelCondition.UNHEARD),
        (Proof(1.0, None), True, TunnelCondition.VERIFIED),
        (Proof(1.0, None), False, TunnelCondition.VERIFIED),
        (Proof(40.0, 40.0), True, TunnelCondition.SILENT),
        (Proof(None, 40.0), True, TunnelCondition.SILENT),
        (Proof(None, 40.0), False, TunnelCondition.UNSUPPORTED),
    ],
)
def test_the_condition_of_a_tunnel(proof: Proof, announced: bool, condition: TunnelCondition) -> None:
    assert condition_of(proof, announced=announced) is condition


@pytest.mark.parametrize(
    ("tunnel", "renewed", "reported"),
    [
        (silent(), 0.0, True),
        (silent(), LONG - SILENT_SECONDS, True),
        (silent(), LONG - SILENT_SECONDS + 1, False),  # the agent may have died before
        (silent(), None, False),  # it announces no OAM frames
        (silent(linked=False), 0.0, False),  # the peer's panel may have no tunnel yet
        (verified(), 0.0, False),
        (unheard(), 0.0, False),
    ],
)
def test_a_silent_tunnel_is_reported_if_the_peers_agent_lives(
    tunnel: TunnelProof, renewed: float | None, reported: bool
) -> None:
    assert is_reported(tunnel, renewed) is reported


CHANGES: dict[str, tuple[frozenset[str], list[TunnelProof], list[NodeSilence], frozenset[str]]] = {
    "nothing": (NONE, [], [], NONE),
    "all verified": (NONE, [verified("one"), verified("two", "c")], [], NONE),
    "one change for a node": (
        NONE,
        [silent("two"), silent("one")],
        [NodeSilence("b", ("one", "two"), 2)],
        frozenset("b"),
    ),
    "some of a node": (NONE, [verified("one"), silent("two")], [NodeSilence("b", ("two",), 2)], frozenset("b")),
    "two nodes": (
        NONE,
        [silent("one", "c"), silent("two", "b")],
        [NodeSilence("b", ("two",), 1), NodeSilence("c", ("one",), 1)],
        frozenset("bc"),
    ),
    "reported already": (frozenset("b"), [silent("one"), silent("two")], [], frozenset("b")),
    "another link of a reported node": (frozenset("b"), [verified("one"), silent("two")], [], frozenset("b")),
    "verified again": (frozenset("b"), [verified("one"), verified("two")], [NodeSilence("b", (), 2)], NONE),
    "not heard yet": (frozenset("b"), [verified("one"), unheard("two")], [], frozenset("b")),
    "no tunnels left": (frozenset("b"), [verified("one", "c")], [], NONE),
    "not linked any more": (frozenset("b"), [silent(linked=False)], [], NONE),
    "an agent without OAM": (NONE, [silent("one", "old")], [], NONE),
    "an agent that is dead": (NONE, [silent("one", "dead")], [], NONE),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changes_of_nodes(what: str) -> None:
    reported, tunnels, changes, after = CHANGES[what]
    renewed = {"b": 1.0, "c": 1.0, "dead": LONG, "old": None}
    found = node_silences(reported, tunnels, renewed.__getitem__)
    assert list(found) == changes
    assert reported_nodes(reported, found, tunnels) == after
    assert node_silences(after, tunnels, renewed.__getitem__) == (), "each change is reported once"


def test_a_key_does_not_disclose_the_record() -> None:
    assert proof_key(b"record") not in (proof_key(b"other"), b"record".hex())
