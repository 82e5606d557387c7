"""The status of this node's links: Events and a condition on the pods, metrics, and the log.

A status is reported when it changes. Reports are decided on the cache, and the announcer sends them in the background.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from ratchet.agent.announce import Announcer
from ratchet.agent.events import Reason
from ratchet.agent.liveness import Calls, HeldEnds, SandboxLiveness
from ratchet.agent.metrics import Metrics
from ratchet.core.intent import absence
from ratchet.core.model import Link, Side, State
from ratchet.core.state_machine import derive
from ratchet.node.journal import HeldEnd, Journal, SandboxEntry, since_boot
from ratchet.store.cached_store import CachedStore

log = logging.getLogger(__name__)

# Links that the condition of a pod names: a pod can have a thousand.
NAMED_AT_MOST = 20


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """Reports the status of the links of one node. Thread-safe.

    `since` is the start of the agent in seconds since boot. A link of an earlier sandbox that is linked at the first
    look is not reported: it was linked before.
    """

    node: str
    journal: Journal
    store: CachedStore
    announcer: Announcer
    metrics: Metrics
    calls: Calls
    liveness: SandboxLiveness
    since: float = field(default_factory=since_boot)
    # Whether each end was linked at its last report, by link and container ID.
    _reported: dict[str, dict[str, bool]] = field(default_factory=dict)
    # The condition covers all links of a pod. Of two threads that set it, the one that has read more must be last.
    _setting_conditions: threading.Lock = field(default_factory=threading.Lock)

    def report(self, link: str, held: HeldEnds) -> None:
        """Report each held end of a link whose status has changed, and forget ends that are not held.

        An end is skipped while its ADD runs, and after its DEL.
        """
        record, before, reported = self.store.links.cache.get(link), self._reported.get(link, {}), dict[str, bool]()
        for entry, end in held:
            container_id = entry.attachment.container_id
            if entry.pod is None or self.calls.is_adding(container_id) or self._is_over(entry, end):
                continue
            joined = record is not None and record.side_of(container_id) is not None
            linked = record is not None and joined and _is_linked(record, before=before.get(container_id, False))
            reported[container_id] = linked
            first = container_id not in before
            if before.get(container_id) is not linked and not (first and linked and entry.began < self.since):
                self._announce(entry, end, record, linked=linked, first=first)
        if reported:
            self._reported[link] = reported
        else:
            self._reported.pop(link, None)
        with self._setting_conditions:
            for entry, _ in held:
                if entry.attachment.container_id in reported:
                    self._set_condition(entry)

    def report_reset(self, entry: SandboxEntry, end: HeldEnd, changes: Sequence[str]) -> None:
        """Report that somebody else changed a tunnel's end, and that it is reset. `changes`: the differences."""
        self.metrics.tunnel_reset()
        words = "; ".join(changes)
        log.warning('tunnel reset link=%s pod=%s interface=%s changes="%s"', end.link, entry.pod, end.ifname, words)
        if entry.pod is not None:
            text = f"{end.ifname} was changed in the pod and has been reset: {words}"
            self.announcer.event(entry.pod, Reason.TUNNEL_RESET, text, end.ifname)

    def states(self) -> dict[State, int]:
        """The number of this node's links in each state."""
        counts = dict.fromkeys(State, 0)
        for link in self.store.links.cache.all():
            if self.node in link.nodes:  # the cache also has records that only expect a pod of this node
                counts[derive(link)] += 1
        return counts

    def _is_over(self, entry: SandboxEntry, end: HeldEnd) -> bool:
        """Whether the end is no longer wanted; the entry may have been read before that."""
        return self.journal.was_deleted(entry) or not self.journal.still_wants(entry, end)

    def _announce(self, entry: SandboxEntry, end: HeldEnd, record: Link | None, *, linked: bool, first: bool) -> None:
        assert entry.pod is not None  # noqa: S101  # `report` has skipped such an entry
        peer = end.wanted.end(end.side.other)
        if linked and record is not None:
            vni = f", VNI {record.vni}" if record.vni is not None else ""
            text = f"{end.ifname} is linked to {peer.ifname} of {peer.name} ({record.kind}{vni})"
            self.announcer.event(entry.pod, Reason.LINKED, text, end.ifname)
            if (seconds := _seconds_to_link(record)) is not None:
                self.metrics.linked(seconds)
            log.info("link ready link=%s pod=%s interface=%s", end.link, entry.pod, end.ifname)
        elif first:
            pods = self.store.pods.lookup_named(entry.pod.namespace, [peer.name])
            text = f"{end.ifname} waits for pod {peer.name}: {absence(peer.name, pods, peer.ifname)}"
            self.announcer.event(entry.pod, Reason.WAITING_FOR_PEER, text, end.ifname)
        else:
            reason = _loss_reason(record, entry.attachment.container_id)
            self.announcer.event(entry.pod, Reason.LINK_LOST, f"{end.ifname} to {peer.name}: {reason}", end.ifname)
            log.warning('link lost link=%s pod=%s interface=%s reason="%s"', end.link, entry.pod, end.ifname, reason)

    def _set_condition(self, entry: SandboxEntry) -> None:
        """Set the condition of the sandbox's pod if it has readiness gates."""
        pod = self.liveness.pod_of(entry)
        if pod is None or not pod.gates:
            return
        container_id = entry.attachment.container_id
        waiting = [end.link for end in entry.ends if not self._reported.get(end.link, {}).get(container_id)]
        if waiting:
            self.announcer.condition(pod, False, "WaitingForPeer", f"not linked: {_some_of(waiting)}")
        else:
            self.announcer.condition(pod, True, "Linked", f"all {len(entry.ends)} links are ready")


def _is_linked(record: Link, *, before: bool) -> bool:
    """Whether a link counts as linked. One that was linked `before` still does while its ends follow an edit."""
    return derive(record) is State.LINKED or (before and all(record.is_connected(side) for side in Side))


def _loss_reason(record: Link | None, container_id: str) -> str:
    """Why the end of a sandbox is no longer linked.

    The cause is the latest transition from `linked`: others may have followed before the agent saw the record. If the
    last one led to `linked`, the link is up again with another sandbox, or somebody has edited the record.
    """
    if record is None:
        return "its record is gone"
    if record.history and record.history[-1].target is not State.LINKED:
        losses = [step.reason for step in record.history if step.source is State.LINKED]
        return losses[-1] if losses else record.history[-1].reason
    if record.side_of(container_id) is None:
        return "another sandbox has joined in its place"
    return "the record does not say why"


def _some_of(links: Sequence[str]) -> str:
    """The first NAMED_AT_MOST names, and how many others there are."""
    others = f", and {len(links) - NAMED_AT_MOST} others" if len(links) > NAMED_AT_MOST else ""
    return f"{', '.join(links[:NAMED_AT_MOST])}{others}"


def _seconds_to_link(record: Link) -> float | None:
    """Seconds from the second end's join to the linked state, by the writers' clocks; None if unknown."""
    linked = [step.at for step in record.history if step.target is State.LINKED]
    ready = [step.at for step in record.history if step.target is State.PAIR_READY]
    if not linked or not ready:
        return None
    return max(0.0, (linked[-1] - ready[-1]).total_seconds())
