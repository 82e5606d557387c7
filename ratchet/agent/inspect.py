"""The ends of a link at this node as observed now, for `ratchet inspect`. Observing changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from secrets import compare_digest
from typing import Any, Protocol

from ratchet import datapath
from ratchet.agent.priority import BACKGROUND_WAITS_SECONDS, ForegroundGate
from ratchet.agent.underlay import Underlays
from ratchet.core.differences import near_differences
from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import Link, Side
from ratchet.core.observation import Observation, Proof
from ratchet.core.serialize import plain
from ratchet.core.wires import wire_of
from ratchet.errors import RatchetError
from ratchet.node.journal import HeldEnd, Journal, SandboxEntry
from ratchet.node.overrides import Overrides
from ratchet.store.cached_store import CachedStore


class Proofs(Protocol):
    """What is proven of the tunnels of this node's patch panel."""

    def proof(self, tunnel: str) -> Proof | None:
        """What is proven of a tunnel, by its name; None if it is not followed."""
        ...


@dataclass(frozen=True, slots=True)
class Inspector:
    """Observes ends of this node.

    It takes no lock, so a link that is reconciled meanwhile may be half built. Calls go first (`foreground`).
    """

    node: str
    journal: Journal
    store: CachedStore
    underlays: Underlays
    foreground: ForegroundGate
    proofs: Proofs
    overrides: Overrides

    def look(self, uid: str) -> dict[str, Any] | None:
        """The observed ends of the link whose record has this UID, as JSON; None if the node has no such link."""
        record = next((one for one in self.store.links.cache.all() if _is_uid_of(one, uid)), None)
        if record is None:
            return None
        self.foreground.yield_to_calls(BACKGROUND_WAITS_SECONDS)
        at = datetime.now(UTC)
        held = self.journal.holding(record.name)
        sides = [(record.side_of(entry.attachment.container_id), entry, end) for entry, end in held]
        ends = {side.value: plain(self._observe(record, side, entry, end)) for side, entry, end in sides if side}
        return {"link": record.name, "node": self.node, "at": at.isoformat(timespec="milliseconds"), "ends": ends}

    def _observe(self, record: Link, side: Side, entry: SandboxEntry, end: HeldEnd) -> Observation:
        device = live = None
        here, peer = entry.location(end), record.sandbox(side.other)
        try:
            device, live = datapath.observe_port(here, end.ifname), datapath.count(here, end.ifname)
            if _has_no_wire(record):
                return Observation(device, live)
            there = self.journal.location(record.name, peer.container_id) if peer is not None else None
            if peer is not None and record.is_local and there is None:
                fault = f"the peer's sandbox {peer.container_id} is not in this node's journal"
                return Observation(device, live, fault=fault)
            record = self.overrides.of(record.name).applied_to(record)
            wire = wire_of(record, side, self.underlays(entry.underlay, self.node, self.store), here, there)
            observed = datapath.observe(wire)
            # A pod can have any number of forwarding entries. Those that should not be there are differences.
            near = replace(observed.near, entries=None) if observed.near is not None else None
            proof = self.proofs.proof(here.slot.tunnel(here.index)) if here.slot is not None else None
            return Observation(near, live, near_differences(wire, observed), proof=proof)
        except RatchetError as error:
            return Observation(device, live, fault=str(error))


def _has_no_wire(record: Link) -> bool:
    """Whether a link has no interface by now: in direct wiring before both ends have joined, or without its VNI."""
    if record.kind is None:
        return record.wiring is Wiring.DIRECT
    return record.kind is Kind.VXLAN and record.vni is None


def _is_uid_of(record: Link, uid: str) -> bool:
    return bool(record.uid) and compare_digest(record.uid.encode(), uid.encode())
