"""Tunnels of this node over which no OAM frames arrive: in the log, as Events of the node, and for the metrics."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ratchet.agent.node_events import NodeEvents, NodeReason
from ratchet.core.model import SIDES
from ratchet.core.silence import (
    NodeSilence,
    TunnelCondition,
    TunnelProof,
    condition_of,
    node_silences,
    proof_key,
    reported_nodes,
)

log = logging.getLogger(__name__)

# Links that an Event names.
NAMED_AT_MOST = 5


class Tunnels(Protocol):
    """The tunnels of this node's patch panel."""

    def proofs(self) -> Sequence[TunnelProof]:
        """What is proven of each."""
        ...


class OamLeases(Protocol):
    """The node Leases that announce OAM frames."""

    def announces_oam(self, node: str) -> bool:
        """Whether the agent of a node announces OAM frames."""
        ...

    def oam_renewed(self, node: str) -> float | None:
        """Seconds since the agent of a node renewed its announcement; None if it announces none."""
        ...


@dataclass(slots=True)
class TunnelSilence:
    """Reports the nodes towards which tunnels are silent. `check` is for one thread, the other methods for any."""

    node: str
    tunnels: Tunnels
    leases: OamLeases
    events: NodeEvents
    _reported: frozenset[str] = field(default_factory=frozenset)

    def check(self) -> None:
        """Report what has changed since the last check. A bug is logged, so that the periodic work continues."""
        try:
            self._check()
        except Exception:
            log.exception("check of the tunnels' silence failed")

    def counts(self) -> Mapping[TunnelCondition, int]:
        """The number of tunnels in each condition."""
        return Counter(self._condition(one) for one in self.tunnels.proofs())

    def longest_unproven(self) -> float:
        """Seconds since the oldest of the last proofs of the tunnels; 0 without tunnels whose peers send any."""
        expected = [one for one in self.tunnels.proofs() if self._condition(one) is not TunnelCondition.UNSUPPORTED]
        return max((one.unproven for one in expected), default=0.0)

    def page(self) -> dict[str, Any]:
        """What is proven of all tunnels, as JSON for `ratchet links -o wide`.

        Anybody may read it, so it has no names (`core.silence.proof_key`).
        """
        proofs = dict[str, dict[str, dict[str, float | None]]]()
        for one in self.tunnels.proofs():
            silent = one.proof.silent if self._condition(one) is TunnelCondition.SILENT else None
            ends = proofs.setdefault(proof_key(one.peer.record), {})
            ends[SIDES[one.peer.end].value] = {"verified": one.proof.verified, "silent": silent}
        return {"node": self.node, "proofs": proofs}

    def _check(self) -> None:
        proofs = self.tunnels.proofs()
        changes = node_silences(self._reported, proofs, self.leases.oam_renewed)
        self._reported = reported_nodes(self._reported, changes, proofs)
        for change in changes:
            if change.silent:
                self._report_silent(change)
            else:
                log.info("tunnels verified again node=%s tunnels=%d", change.node, change.tunnels)
                text = f"OAM frames from node {change.node} arrive again over all {change.tunnels} tunnels"
                self.events.report(change.node, NodeReason.TUNNELS_VERIFIED, text)

    def _condition(self, tunnel: TunnelProof) -> TunnelCondition:
        return condition_of(tunnel.proof, announced=self.leases.announces_oam(tunnel.peer.node))

    def _report_silent(self, change: NodeSilence) -> None:
        number = f"{len(change.silent)} of {change.tunnels}"
        log.warning("tunnels silent node=%s silent=%d tunnels=%d", change.node, len(change.silent), change.tunnels)
        more = len(change.silent) - NAMED_AT_MOST
        names = ", ".join(change.silent[:NAMED_AT_MOST]) + (f", and {more} more" if more > 0 else "")
        text = f"no OAM frames from node {change.node} arrive over {number} tunnels: {names}"
        self.events.report(change.node, NodeReason.TUNNELS_SILENT, text)
