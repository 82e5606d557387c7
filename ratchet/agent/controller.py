"""The controller of links: it reconciles the ends that this node's sandboxes hold.

A worker reconciles one link at a time (`queue`), under the link's lock. Each pass decides on the record, the journal
and the kernel, so it does not matter which change queued the link.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from ratchet import datapath
from ratchet.agent.failures import REPORTED, EndFailures, ReportedError
from ratchet.agent.liveness import Calls, HeldEnds, SandboxLiveness
from ratchet.agent.logs import about
from ratchet.agent.lost_peers import LostPeers
from ratchet.agent.membership import Membership
from ratchet.agent.operation_status import OperationStatus
from ratchet.agent.queue import ReconcileQueue
from ratchet.agent.sandbox_state import HeldEndState
from ratchet.agent.status import LinkStatus
from ratchet.agent.underlay import Underlays
from ratchet.core.model import Link
from ratchet.core.plan import Attempt
from ratchet.core.underlay import Underlay
from ratchet.errors import (
    AddressFamilyError,
    ForeignInterfaceError,
    InvalidIntentError,
    NamespaceGoneError,
    RatchetError,
    SupersededError,
)
from ratchet.node.journal import HeldEnd, Journal, SandboxEntry
from ratchet.node.reconciler import Reconciler
from ratchet.node.record_writer import RecordWriter
from ratchet.node.teardown import take_down
from ratchet.node.verified import VerifiedEnds
from ratchet.store.cached_store import CachedStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LinkController:
    """Reconciles the links of one node.

    `membership` decides which links a sandbox has, `liveness` which sandboxes are dead. `verified` has the ends that
    need no second look while their records and the underlay stay the same.
    """

    node: str
    journal: Journal
    store: CachedStore
    underlays: Underlays
    failures: EndFailures
    calls: Calls
    membership: Membership
    liveness: SandboxLiveness
    lost_peers: LostPeers
    status: LinkStatus
    queue: ReconcileQueue
    operation_status: OperationStatus
    verified: VerifiedEnds = field(default_factory=VerifiedEnds)
    _doubtful_vnis: set[str] = field(default_factory=set)

    def reconcile(self, link: str) -> None:
        """Reconcile a link at this node. Raises RatchetError if the link is to be reconciled again later."""
        with about(link=link):
            held = self.journal.holding(link)
            record, _ = self.store.links.lookup_cached(link)
            if record is not None:
                self.liveness.remove_strays(record, held)
            self._reconcile_ends(held)
            self.operation_status.report(link, held)
            for entry, _ in held:
                self.liveness.remove_dead(link, entry)
            if held:
                self.lost_peers.mark(link, held)
            else:
                self._forget(link)
            self.status.report(link, held)
            if link in self._doubtful_vnis:
                with self.journal.lock(link):
                    RecordWriter(self.store).assert_vni(link)
                self._doubtful_vnis.discard(link)

    def assert_vni(self, link: str) -> None:
        """Queue a link, and have its reconciliation assert that the record holds the Lease of its VNI."""
        self._doubtful_vnis.add(link)
        self.queue.enqueue_link(link)

    def _forget(self, link: str) -> None:
        """Forget a link of which this node no longer has an end."""
        self.verified.forget(link)
        self.lost_peers.forget(link)
        self.failures.forget(link)
        self.membership.forget(link)
        self.operation_status.operations.forget(link)

    # Ends

    def _reconcile_ends(self, held: HeldEnds) -> None:
        """Reconcile the ends of a link, except those whose ADD runs."""
        rejected: RatchetError | None = None
        for entry, end in held:
            if self.calls.is_adding(entry.attachment.container_id):
                continue
            with about(pod=entry.pod, sandbox=entry.attachment.container_id):
                if self.membership.may_remove(entry, end) and self.membership.remove_undeclared(entry, end):
                    continue
                try:
                    self._reconcile_end(entry, end)
                except (AddressFamilyError, InvalidIntentError) as error:
                    # The other end may be on this node too, and has yet to record the node's new underlay.
                    rejected = error
        if rejected is not None:
            raise rejected

    def _reconcile_end(self, entry: SandboxEntry, end: HeldEnd) -> None:
        deleted = self.journal.was_deleted(entry)
        record, _ = self.store.links.lookup(end.link) if deleted else self.store.links.lookup_cached(end.link)
        underlay = self.underlays(entry.underlay, self.node, self.store)
        attempt = _attempt(entry, end, underlay).as_recorded(record)
        holder = record.sandbox(attempt.side) if record is not None else None
        if deleted:
            if holder is None or holder.container_id != entry.attachment.container_id:
                return
            # DEL runs or has failed: the end is released. If DEL releases it first, there is nothing to do.
        elif not self.journal.still_wants(entry, end):
            return
        elif holder is None:
            if not self.liveness.may_join(entry):
                self._remove_unrecorded(entry, end)
                return
        elif holder.container_id != entry.attachment.container_id and not _exists(entry, end):
            return  # another sandbox has the end, and this one's interface is gone; otherwise it would be removed
        elif record is not None and self._is_verified(attempt, record, underlay):
            return
        self._bring_up(entry, end, attempt, underlay)

    def _bring_up(self, entry: SandboxEntry, end: HeldEnd, attempt: Attempt, underlay: Underlay) -> None:
        try:
            result = self._reconciler(entry, end).reconcile(attempt, underlay, joined=True)
            self.failures.succeeded(entry, end)
            if result.reset:
                self.status.report_reset(entry, end, result.reset)
        except SupersededError as error:
            log.info('end superseded link=%s interface=%s cause="%s"', end.link, end.ifname, error)
        except NamespaceGoneError as error:
            if error.path != entry.netns:
                raise
            with self.journal.lock(end.link):
                RecordWriter(self.store).mark_lost(end.link, entry.attachment.container_id, "its namespace is gone")
        except REPORTED as error:
            self._report(entry, end, error)
            raise

    def _report(self, entry: SandboxEntry, end: HeldEnd, error: ReportedError) -> None:
        """Report the error of an end. The error is raised afterwards, whether or not its report succeeds."""
        try:
            self.failures.report(entry, end, error)
        except RatchetError as fault:
            log.info('cannot record the error of an end link=%s cause="%s"', end.link, fault)

    def _is_verified(self, attempt: Attempt, record: Link, underlay: Underlay) -> bool:
        """Whether the end was verified to be up, usually by a call, and nothing has changed since."""
        joined = record.sandbox(attempt.side) == attempt.sandbox and not attempt.redeclares(record)
        override = self.operation_status.operations.of(record.name)
        return joined and self.verified.is_current(record, attempt.side, underlay, override)

    def _remove_unrecorded(self, entry: SandboxEntry, end: HeldEnd) -> None:
        """Remove the interface of an end that is not in the record and may not join it."""
        if not _exists(entry, end):
            return
        container_id = entry.attachment.container_id
        with self.journal.lock(end.link):
            record = self.store.links.get(end.link)
            recorded = record is not None and record.side_of(container_id) is not None
            if not recorded and self.journal.still_wants(entry, end):
                take_down(self.journal, container_id, entry.location(end), end.ifname, end.link)
                reason = "the pod is gone, and the record does not have the end"
                log.info('interface removed link=%s interface=%s reason="%s"', end.link, end.ifname, reason)

    def _reconciler(self, entry: SandboxEntry, end: HeldEnd) -> Reconciler:
        state, overrides = HeldEndState(self.journal, entry, end), self.operation_status.operations
        return Reconciler(self.store, self.journal, state, self.verified, overrides)


def _attempt(entry: SandboxEntry, end: HeldEnd, underlay: Underlay) -> Attempt:
    assert entry.pod is not None  # noqa: S101  # an entry with ends has a pod
    sandbox = underlay.sandbox(entry.attachment.container_id, entry.pod, entry.netns, entry.cookie)
    return Attempt(end.wanted, end.side, sandbox, end.index, lasting=True, slot=entry.slot, live=end.live)


def _exists(entry: SandboxEntry, end: HeldEnd) -> bool:
    """Whether the end's interface exists in its namespace and is owned by Ratchet."""
    try:
        device = datapath.observe_port(entry.location(end), end.ifname)
    except (NamespaceGoneError, ForeignInterfaceError):
        return False
    return device is not None and device.ours
