"""Reconcile the ends of a node's sandboxes with the records of their links.

To read the record, build the interface and record the result is one critical section per link on this node (the
journal's lock). The lock is never held while an end waits for its peer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from ratchet.core.plan import Attempt
from ratchet.core.underlay import Underlay
from ratchet.node.endpoint_progress import EndpointResult, SandboxState
from ratchet.node.endpoint_reconcile import EndpointReconcile
from ratchet.node.journal import Journal
from ratchet.node.overrides import NO_OVERRIDES, Overrides
from ratchet.node.record_writer import RecordWriter, retry_on_conflict, wall_clock
from ratchet.node.verified import VerifiedEnds

if TYPE_CHECKING:
    from ratchet.store.interface import Store


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Reconciler for the ends of one sandbox.

    `store` holds the state in the API, `journal` the state on the node, `sandbox_state` the runtime's view of the
    sandbox. `verified` collects the ends that are up, `overrides` has the operations on links. `now` is the wall clock:
    its times are written to the records for people to read.
    """

    store: Store
    journal: Journal
    sandbox_state: SandboxState
    verified: VerifiedEnds = field(default_factory=VerifiedEnds)
    overrides: Overrides = NO_OVERRIDES
    now: Callable[[], datetime] = wall_clock

    def reconcile(self, attempt: Attempt, underlay: Underlay, *, joined: bool) -> EndpointResult:
        """Reconcile an end as far as possible now, without waiting for its peer.

        The end first joins its link's record, unless the attempt has `joined` before. If the peer has joined, the
        interface is built before the join is written, so that one write covers both.

        Raises SupersededError, with the interface removed, if another sandbox has the end's place or the runtime has
        deleted this one. Raises DatapathError if the kernel refuses. Raises AddressFamilyError or InvalidIntentError,
        with the record written, if the link is impossible.
        """
        writer, override = RecordWriter(self.store, self.now), self.overrides.of(attempt.name)
        attempt = replace(attempt, override=override) if override != attempt.override else attempt
        reconcile = EndpointReconcile(
            writer, self.journal, self.sandbox_state, attempt, underlay, self.verified, joined=joined
        )
        with self.journal.lock(attempt.name):
            result = retry_on_conflict(reconcile.run)
            side = attempt.as_recorded(result.record).side
            self.verified.note(result.record, side, underlay, override, up=result.is_up, tunnel=result.tunnel)
            return result
