"""Looking after links that no call is at work on: each end brought to what its record says, the dead taken out of it.

One link at a time in one pair of hands (`queue`), under the link's lock. Everything is decided anew each time from the
record, the journal and what the kernel shows, so it does not matter what made somebody look.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ratchet import datapath
from ratchet.agent.announce import Announcer
from ratchet.agent.events import Reason
from ratchet.agent.guard import HeldEndGuard
from ratchet.agent.logs import about
from ratchet.agent.membership import Membership
from ratchet.agent.metrics import Metrics
from ratchet.agent.underlay import Underlays
from ratchet.core.intent import absence
from ratchet.core.model import Link, Location, Pod, Sandbox, Side, State
from ratchet.core.plan import Attempt, Underlay
from ratchet.core.state_machine import derive
from ratchet.errors import (
    AddressFamilyError,
    ForeignInterfaceError,
    InvalidIntentError,
    NamespaceGoneError,
    RatchetError,
    SupersededError,
)
from ratchet.node.journal import HeldEnd, Journal, SandboxEntry, since_boot
from ratchet.node.reconciler import Reconciler
from ratchet.node.record_writer import RecordWriter
from ratchet.node.teardown import take_down
from ratchet.node.verified import VerifiedEnds
from ratchet.store.cached_store import CachedStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LinkController:
    """Looks after the ends of one node.

    `is_adding` says whether a call is at work on a container's links; `is_lost` whether a node is lost. `membership`
    decides which links a sandbox has. `verified` has the ends that
    are not looked at again while nothing has changed. `since` is from when on, in seconds since boot, pods start under
    its eyes: what was linked before then is no news.
    """

    node: str
    journal: Journal
    records: CachedStore
    sites: Underlays
    announcer: Announcer
    metrics: Metrics
    is_adding: Callable[[str], bool]
    is_lost: Callable[[str], bool]
    membership: Membership
    verified: VerifiedEnds = field(default_factory=VerifiedEnds)
    since: float = field(default_factory=since_boot)
    # Whether each end was linked when that was last told, by link and container.
    _reported: dict[str, dict[str, bool]] = field(default_factory=dict)
    _noted_lost: dict[tuple[str, Side], str] = field(default_factory=dict)
    _doubtful_vnis: set[str] = field(default_factory=set)
    # A pod's condition is of all its links: of two threads the one that saw more is to have the last word.
    _reporting: threading.Lock = field(default_factory=threading.Lock)

    def reconcile(self, name: str) -> None:
        """Do what is to be done for a link at this node. Raises RatchetError where it is to be tried again."""
        with about(link=name):
            held = self.journal.holding(name)
            record, _ = self.records.links.lookup_cached(name)
            if record is not None:
                self._take_out_strays(record, held)
            rejected: RatchetError | None = None
            for entry, end in held:
                if not self.is_adding(entry.attachment.container_id):
                    with about(pod=entry.pod, sandbox=entry.attachment.container_id):
                        if self.membership.may_remove(entry, end):
                            self.membership.remove_undeclared(entry, end)
                            continue
                        try:
                            self._reconcile_end(entry, end)
                        except (AddressFamilyError, InvalidIntentError) as error:
                            # The other end may be on this node too, and has yet to record the node's new underlay.
                            rejected = error
            if rejected is not None:
                raise rejected
            for entry, _ in held:
                self._forget_dead(entry)
            if held:
                self._note_lost_peer(name, held)
            else:
                self._forget(name)
            self._report(name, held)
            if name in self._doubtful_vnis:
                with self.journal.lock(name):
                    RecordWriter(self.records).assert_vni(name)
                self._doubtful_vnis.discard(name)

    def doubt_vni(self, name: str) -> None:
        """Have the next reconciliation of a link make sure that its record holds the Lease of its VNI."""
        self._doubtful_vnis.add(name)

    def _forget(self, name: str) -> None:
        """Keep nothing in mind of a link of which the node has no end any more."""
        self.verified.forget(name)
        for side in Side:
            self._noted_lost.pop((name, side), None)
        self.membership.forget(name)

    def states(self) -> dict[State, int]:
        """How many links of this node are in each state."""
        counts = dict.fromkeys(State, 0)
        for link in self.records.links.cache.all():
            if self.node in link.nodes:  # a record that only expects a pod of this node is not one of its links yet
                counts[derive(link)] += 1
        return counts

    # One end

    def _reconcile_end(self, entry: SandboxEntry, end: HeldEnd) -> None:
        deleted = self._is_deleted(entry)
        record, _ = self.records.links.lookup(end.link) if deleted else self.records.links.lookup_cached(end.link)
        side = self._attempt(entry, end).as_recorded(record).side
        holder = record.sandbox(side) if record is not None else None
        if deleted:
            if holder is None or holder.container_id != entry.attachment.container_id:
                return
            # Its DEL is at it, or could not do it: it withdraws, whoever comes second has nothing to do.
        elif not self.journal.still_wants(entry, end):
            return
        elif holder is None:
            if not self._may_take(entry):
                self._remove_unheld(entry, end)
                return
        elif holder.container_id != entry.attachment.container_id and not _is_there(entry, end):
            return  # another has its place, and it has made way; one that has not withdraws
        elif record is not None and self._was_seen(entry, end, side, record):
            return
        self._bring_up(entry, end)

    def _bring_up(self, entry: SandboxEntry, end: HeldEnd) -> None:
        try:
            self._reconciler(entry, end).settle(self._attempt(entry, end), self._site(entry), joined=True)
        except SupersededError as error:
            log.info("%s", error)
        except (AddressFamilyError, InvalidIntentError) as error:
            # Its ADD is over, and nobody else would tell whoever looks at the pod.
            if entry.pod is not None:
                self.announcer.event(entry.pod, Reason.of(error), str(error), end.ifname)
            raise
        except NamespaceGoneError as error:
            if error.path != entry.netns:
                raise
            with self.journal.lock(end.link):
                RecordWriter(self.records).mark_lost(end.link, entry.attachment.container_id, "its namespace is gone")

    def _was_seen(self, entry: SandboxEntry, end: HeldEnd, side: Side, record: Link) -> bool:
        """Whether an end was seen to stand as its record has it, by a call mostly, and nothing has changed since."""
        joined = record.sandbox(side) == self._attempt(entry, end).as_recorded(record).sandbox
        return joined and self.verified.is_current(record, side, self._site(entry))

    def _may_take(self, entry: SandboxEntry) -> bool:
        """Whether a sandbox is to have the place in the record that nobody has: it runs."""
        return self._is_alive(entry) and datapath.namespace_is_there(_namespace(entry))

    def _remove_unheld(self, entry: SandboxEntry, end: HeldEnd) -> None:
        """Take down what is left of an end that has no place in the record and is to have none: it leads nowhere."""
        if not _is_there(entry, end):
            return
        container_id = entry.attachment.container_id
        with self.journal.lock(end.link):
            record = self.records.links.get(end.link)
            held = record is not None and record.side_of(container_id) is not None
            if not held and self.journal.still_wants(entry, end):
                take_down(self.journal, container_id, entry.location(end), end.ifname, end.link)
                log.info("took %s down: its pod is gone, and the link's record has it no more", end.ifname)

    def _forget_dead(self, entry: SandboxEntry) -> None:
        """Forget a sandbox of which nothing is left, though no DEL came: there was no plugin to call, perhaps."""
        container_id = entry.attachment.container_id
        if entry.delegations or self.is_adding(container_id):
            return
        cached = [self.records.links.cache.get(end.link) for end in entry.ends]
        if any(record is not None and record.side_of(container_id) is not None for record in cached):
            return
        if datapath.namespace_is_there(_namespace(entry)):
            return
        records = [self.records.links.lookup(end.link).link for end in entry.ends]
        if any(record is not None and record.side_of(container_id) is not None for record in records):
            return
        if self._pod(entry) is None:
            self.journal.forget(entry.attachment)
            log.info("forgot sandbox %s: it is gone with its pod, and no DEL came", container_id)

    def _is_alive(self, entry: SandboxEntry) -> bool:
        """Whether the sandbox's pod runs, as the API has it now.

        The cache can still have a pod whose end the garbage collector has removed from the record.
        """
        if entry.pod is None:
            return False
        pod = self.records.pods.get(entry.pod.namespace, entry.pod.name)
        return pod is not None and pod.ref.is_same_pod(entry.pod) and not pod.finished and not pod.deleting

    def _pod(self, entry: SandboxEntry) -> Pod | None:
        """The pod that this is a sandbox of, if the API still has it."""
        if entry.pod is None:
            return None
        pod = self.records.pods.lookup(entry.pod.namespace, entry.pod.name, entry.pod.uid)
        return pod if pod is not None and pod.ref.is_same_pod(entry.pod) else None

    def _is_over(self, entry: SandboxEntry, end: HeldEnd) -> bool:
        """Whether nothing is to be done for an end any more, however short a time ago its entry was read."""
        return self._is_deleted(entry) or not self.journal.still_wants(entry, end)

    def _is_deleted(self, entry: SandboxEntry) -> bool:
        return self.journal.is_buried(entry.attachment, entry.began)

    def _reconciler(self, entry: SandboxEntry, end: HeldEnd) -> Reconciler:
        return Reconciler(self.records, self.journal, HeldEndGuard(self.journal, entry, end), self.verified)

    def _attempt(self, entry: SandboxEntry, end: HeldEnd) -> Attempt:
        assert entry.pod is not None  # noqa: S101  # who has ends has a pod
        sandbox = self._site(entry).sandbox(entry.attachment.container_id, entry.pod, entry.netns, entry.cookie)
        return Attempt(end.wanted, end.side, sandbox, end.index, lasting=True)

    def _site(self, entry: SandboxEntry) -> Underlay:
        return self.sites(entry.underlay, self.node, self.records)

    # Those who are gone

    def _take_out_strays(self, record: Link, held: list[tuple[SandboxEntry, HeldEnd]]) -> None:
        """Take sandboxes of this node out of a record of which the node knows nothing any more."""
        known = {entry.attachment.container_id for entry, _ in held}
        for side in Side:
            sandbox = record.sandbox(side)
            if sandbox is None or sandbox.node != self.node or sandbox.container_id in known:
                continue
            if not self._why_dead(sandbox):
                continue
            with self.journal.lock(record.name):
                # Again, now that nobody else is at work on the link: its id may be that of a new sandbox by now.
                reason = self._why_dead(sandbox)
                if reason and not self._has(sandbox.container_id, record.name):
                    log.info("taking sandbox %s out of the record: %s", sandbox.container_id, reason)
                    # Its interface is left to its namespace: the paths in a record are not this node's own knowledge.
                    RecordWriter(self.records).leave(record.name, sandbox.container_id, reason)

    def _has(self, container_id: str, link: str) -> bool:
        return any(entry.attachment.container_id == container_id for entry, _ in self.journal.holding(link))

    def _why_dead(self, sandbox: Sandbox) -> str | None:
        """Why a sandbox of this node is none any more; None where it may yet be one."""
        if self.is_adding(sandbox.container_id):
            return None
        if self.journal.is_deleted(sandbox.container_id):
            return "the sandbox was deleted"
        if not datapath.namespace_is_there(Location(sandbox.netns, sandbox.cookie)):
            return "its sandbox is gone, and no DEL came"
        pod = self.records.pods.get(sandbox.pod.namespace, sandbox.pod.name)
        if pod is None or not pod.ref.is_same_pod(sandbox.pod) or pod.finished:
            return "its pod is gone, and no DEL came"
        return None

    def _note_lost_peer(self, name: str, held: list[tuple[SandboxEntry, HeldEnd]]) -> None:
        """Note of a peer on a lost node that it does not stand; once, for it may be alive after all and say so."""
        record = self.records.links.cache.get(name)
        for entry, _ in held:
            side = record.side_of(entry.attachment.container_id) if record else None
            if record is None or side is None:
                continue
            peer, key = record.sandbox(side.other), (name, side.other)
            if peer is None or not self.is_lost(peer.node):
                self._noted_lost.pop(key, None)
            elif record.is_ready(side.other) and self._noted_lost.get(key) != peer.container_id:
                with self.journal.lock(name):
                    reason = f"node {peer.node} has not been heard of"
                    RecordWriter(self.records).mark_lost(name, peer.container_id, reason)
                self._noted_lost[key] = peer.container_id

    # Telling

    def _report(self, name: str, held: list[tuple[SandboxEntry, HeldEnd]]) -> None:
        """Say of each end what is not as it was when that was last told; what is held no more is forgotten."""
        record, before, reported = self.records.links.cache.get(name), self._reported.get(name, {}), dict[str, bool]()
        for entry, end in held:
            container_id = entry.attachment.container_id
            if self.is_adding(container_id) or self._is_over(entry, end) or entry.pod is None:
                continue
            joined = record is not None and record.side_of(container_id) is not None
            linked = record is not None and joined and derive(record) is State.LINKED
            reported[container_id] = linked
            first = container_id not in before
            if before.get(container_id) is not linked and not (first and linked and entry.began < self.since):
                self._announce(entry, end, record, linked=linked, first=first)
        if reported:
            self._reported[name] = reported
        else:
            self._reported.pop(name, None)
        with self._reporting:
            for entry, _ in held:
                if entry.attachment.container_id in reported:
                    self._set_condition(entry)

    def _announce(self, entry: SandboxEntry, end: HeldEnd, record: Link | None, *, linked: bool, first: bool) -> None:
        assert entry.pod is not None  # noqa: S101
        peer = end.wanted.end(end.side.other)
        if linked and record is not None:
            vni = f", VNI {record.vni}" if record.vni is not None else ""
            text = f"{end.ifname} is linked to {peer.ifname} of {peer.name} ({record.kind}{vni})"
            self.announcer.event(entry.pod, Reason.LINKED, text, end.ifname)
            if (seconds := _seconds_to_link(record)) is not None:
                self.metrics.linked(seconds)
            log.info("link %s stands at both ends", end.link)
        elif first:
            called = self.records.pods.lookup_named(entry.pod.namespace, [peer.name])
            text = f"{end.ifname} waits for pod {peer.name}: {absence(peer.name, called, peer.ifname)}"
            self.announcer.event(entry.pod, Reason.WAITING_FOR_PEER, text, end.ifname)
        else:
            reason = record.history[-1].reason if record is not None and record.history else "its record is gone"
            self.announcer.event(entry.pod, Reason.LINK_LOST, f"{end.ifname} to {peer.name}: {reason}", end.ifname)
            log.warning("link %s is lost: %s", end.link, reason)

    def _set_condition(self, entry: SandboxEntry) -> None:
        pod = self._pod(entry)
        if pod is None or not pod.gates:
            return
        container_id = entry.attachment.container_id
        waiting = [end.link for end in entry.ends if not self._reported.get(end.link, {}).get(container_id)]
        if waiting:
            self.announcer.condition(pod, False, "WaitingForPeer", f"not linked: {', '.join(waiting)}")
        else:
            self.announcer.condition(pod, True, "Linked", f"all {len(entry.ends)} links stand")


def _namespace(entry: SandboxEntry) -> Location:
    return Location(entry.netns, entry.cookie)


def _is_there(entry: SandboxEntry, end: HeldEnd) -> bool:
    """Whether an end's interface is in its namespace, and is ours."""
    try:
        device = datapath.observe_port(entry.location(end), end.ifname)
    except (NamespaceGoneError, ForeignInterfaceError):
        return False
    return device is not None and device.ours


def _seconds_to_link(record: Link) -> float | None:
    """How long it took from when both ends had joined, by the clocks of those who wrote; None where it is not told."""
    linked = [step.at for step in record.history if step.target is State.LINKED]
    ready = [step.at for step in record.history if step.target is State.PAIR_READY]
    if not linked or not ready:
        return None
    return max(0.0, (linked[-1] - ready[-1]).total_seconds())
