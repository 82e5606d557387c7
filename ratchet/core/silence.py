"""Tunnels over which no OAM frames arrive, and the nodes of their peers that are reported for it.

Silence is only reported. Carrier does not depend on it (`core.oam`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

from ratchet.core.oam import SILENT_SECONDS, OamState, TunnelPeer
from ratchet.core.observation import Proof


class TunnelCondition(StrEnum):
    """What OAM frames say of a tunnel. UNHEARD: none has arrived yet. UNSUPPORTED: the peer's agent sends none."""

    VERIFIED = "verified"
    SILENT = "silent"
    UNHEARD = "unheard"
    UNSUPPORTED = "unsupported"


class TunnelProof(NamedTuple):
    """What is proven of a tunnel. `unproven`: seconds since the last frame, else since the end began to listen."""

    peer: TunnelPeer
    proof: Proof
    unproven: float


class NodeSilence(NamedTuple):
    """A change of a peer's node: its tunnels by record names of which nothing is heard; empty: all are verified again.

    `tunnels`: the number of linked tunnels to the node.
    """

    node: str
    silent: tuple[str, ...]
    tunnels: int


def tunnel_proof(peer: TunnelPeer, state: OamState, now: float) -> TunnelProof:
    """What is proven of the tunnel of an end. `now` is a time as those of `state`."""
    verified, silent = state.verified, state.silent_since(now)
    unproven = now - (state.since if verified is None else verified)
    proof = Proof(None if verified is None else now - verified, None if silent is None else now - silent)
    return TunnelProof(peer, proof, unproven)


def proof_key(record: bytes) -> str:
    """The key under which agents publish what is proven of a link. `record` is its `record_id`, which stays secret."""
    return sha256(record).hexdigest()[:32]


def condition_of(proof: Proof, *, announced: bool) -> TunnelCondition:
    """The condition of a tunnel. `announced`: the Lease of the peer's node announces OAM frames."""
    if proof.silent is not None:
        return TunnelCondition.SILENT if announced else TunnelCondition.UNSUPPORTED
    return TunnelCondition.UNHEARD if proof.verified is None else TunnelCondition.VERIFIED


def is_reported(tunnel: TunnelProof, renewed: float | None) -> bool:
    """Whether a silent tunnel is a fault of the path. `renewed`: seconds since the peer's node renewed its Lease.

    None: its agent announces no OAM frames, or no renewal was read. The agent must have renewed the Lease when the
    tunnel was silent already: an agent that is dead, or is being upgraded, sends nothing either.
    """
    silent = tunnel.peer.linked and tunnel.proof.silent is not None
    return silent and renewed is not None and renewed <= tunnel.unproven - SILENT_SECONDS


def node_silences(
    reported: frozenset[str], tunnels: Iterable[TunnelProof], renewed: Callable[[str], float | None]
) -> tuple[NodeSilence, ...]:
    """The nodes to report, in order: one change for each node, whatever the number of its tunnels.

    `reported` are the nodes whose silence was reported last. Of these, one is verified again once frames arrive over
    all its linked tunnels. `renewed` returns seconds by node (`is_reported`).
    """
    by_node = dict[str, list[TunnelProof]]()
    for one in tunnels:
        if one.peer.linked:
            by_node.setdefault(one.peer.node, []).append(one)
    changes = list[NodeSilence]()
    for node, linked in sorted(by_node.items()):
        if node in reported:
            if all(one.proof.silent is None and one.proof.verified is not None for one in linked):
                changes.append(NodeSilence(node, (), len(linked)))
        elif silent := sorted(one.peer.link for one in linked if is_reported(one, renewed(node))):
            changes.append(NodeSilence(node, tuple(silent), len(linked)))
    return tuple(changes)


def reported_nodes(
    reported: frozenset[str], changes: Iterable[NodeSilence], tunnels: Iterable[TunnelProof]
) -> frozenset[str]:
    """The nodes whose silence is reported after these changes. A node without linked tunnels is forgotten."""
    peers = {one.peer.node for one in tunnels if one.peer.linked}
    for change in changes:
        reported = reported | {change.node} if change.silent else reported - {change.node}
    return reported & peers
