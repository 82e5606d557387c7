"""The membership of running pods in links: which ends the sandboxes of this node have.

A pod's own declarations are fixed when it starts. The declarations of others are followed while it runs: their links
are taken, and undeclared links are removed once the peer has left. Those of topologies are removed at once, and their
edits are followed (`edits`). A new link takes an interface only after the old link's end is removed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ratchet.agent.announce import Announcer
from ratchet.agent.edits import all_followed, has_peer, is_drawn, is_kept, replaced
from ratchet.agent.events import Reason
from ratchet.agent.handover import Handover
from ratchet.agent.liveness import Calls
from ratchet.agent.queue import ReconcileQueue
from ratchet.core.drift import edits
from ratchet.core.intent import WantedLink, meant_name, names_every_pod, names_of
from ratchet.core.model import Side
from ratchet.core.pod import Pod, PodRef
from ratchet.errors import InvalidIntentError
from ratchet.node.attach import OwnEnd, held_ends
from ratchet.node.journal import Attachment, HeldEnd, Journal, SandboxEntry
from ratchet.node.record_writer import RecordWriter
from ratchet.node.reservation import reserve
from ratchet.node.teardown import take_down
from ratchet.store.cached_store import CachedStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Membership:
    """Takes and removes ends of the sandboxes of one node."""

    journal: Journal
    store: CachedStore
    announcer: Announcer
    calls: Calls
    queue: ReconcileQueue
    handover: Handover
    # Ends whose link seems undeclared, each with its pod. Only the worker that has the link removes them: another one
    # might remove an end from the record while that worker joins it.
    _undeclared: dict[tuple[Attachment, str], Pod] = field(default_factory=dict)
    # Pods of which it was reported that a newer pod has their name, by namespace and own name: both pods.
    _reported_names: dict[tuple[str, str], tuple[PodRef, PodRef]] = field(default_factory=dict)

    def reconcile(self, namespace: str, name: str) -> None:
        """Take the links that others now declare for a pod, and mark those that seem undeclared.

        Raises RatchetError if the pod is to be reconciled again later.
        """
        entries = [one for one in self.journal.of_pod(namespace, name) if one.asks]
        if not entries:
            self._reported_names.pop((namespace, name), None)
        entries = [one for one in entries if not self.calls.is_adding(one.attachment.container_id)]
        if not entries:
            return
        pod = next((one for one in self.store.pods.lookup_named(namespace, [name]) if one.ref.name == name), None)
        for entry in entries:
            if pod is not None and entry.pod is not None and pod.ref.is_same_pod(entry.pod):
                self._reconcile_sandbox(entry, pod)

    def may_remove(self, entry: SandboxEntry, end: HeldEnd) -> bool:
        """Whether the end's link seems undeclared and, by the cache, no peer keeps it (`remove_undeclared`)."""
        if (entry.attachment, end.link) not in self._undeclared:
            return False
        return not is_kept(end, self.store.links.cache.get(end.link), entry)

    def forget(self, link: str) -> None:
        """Forget a link of which this node no longer has an end."""
        for key in [key for key in list(self._undeclared) if key[1] == link]:
            self._undeclared.pop(key, None)

    def _reconcile_sandbox(self, entry: SandboxEntry, pod: Pod) -> None:
        if pod.finished or self.journal.was_deleted(entry):
            return
        wanted = self.store.wanted_for(pod, reserved_names(entry))
        own = wanted.ends_of(pod)
        by_record = _by_record(own)
        held = {id(by_record[end.link]) for end in entry.ends if end.link in by_record}
        lacking = [(one, side) for one, side in own if id(one) not in held and one.is_declared_by_others(pod)]
        if self._may_take(entry, pod, lacking, wanted.namespace_links):
            self._take(entry, pod, lacking)
        entry = self._follow_edits(entry, by_record)
        self._announce_edits(entry, pod, by_record, wanted.refused.get(pod.ref.uid))
        newer = wanted.superseding(pod)
        self._report_name(pod, newer)
        for end in entry.ends:
            if newer is None and self._why_removed(end, by_record) is not None:
                self._undeclared[entry.attachment, end.link] = pod
                self.queue.enqueue_link(end.link)
            else:
                self._undeclared.pop((entry.attachment, end.link), None)
        if not own and not entry.ends:
            self.announcer.condition(pod, False, "WaitingForPeer", "no pod names it as its pair")

    def _follow_edits(self, entry: SandboxEntry, by_record: Mapping[str, WantedLink]) -> SandboxEntry:
        """Change the declarations of the sandbox's ends as edited, and queue their links. Returns the entry now."""
        before = {end.link: end.wanted for end in entry.ends}
        if all_followed(entry.ends, by_record) == entry.ends:
            return entry
        self.journal.change_ends(entry.attachment, lambda ends: all_followed(ends, by_record))
        current = self.journal.read(entry.attachment) or entry
        for end in current.ends:
            if before.get(end.link, end.wanted) != end.wanted:
                log.info("link edited link=%s pod=%s interface=%s", end.link, entry.pod, end.ifname)
                self.queue.enqueue_link(end.link)
        return current

    # Taking

    def _may_take(self, entry: SandboxEntry, pod: Pod, lacking: Sequence[OwnEnd], namespace_links: int) -> bool:
        """Whether the sandbox may take further ends. An exceeded limit is announced: it keeps what it has."""
        if not lacking:
            return False
        links = len(entry.ends) + len(lacking)
        violation = self.store.limits.violation(pod.ref, links, namespace_links)
        if violation is not None:
            self.announcer.event(pod.ref, Reason.of(violation), str(violation))
        return violation is None

    def _take(self, entry: SandboxEntry, pod: Pod, lacking: Sequence[OwnEnd]) -> None:
        """Take the ends of links that name the pod and that its sandbox lacks."""
        wanted = held_ends(self.store, pod, lacking)
        try:
            taken = self._reserve(entry, wanted)
        except InvalidIntentError as violation:
            self.announcer.event(pod.ref, Reason.of(violation), str(violation))
            return
        for end in taken:
            log.info("link taken link=%s pod=%s interface=%s", end.link, pod.ref, end.ifname)
            self.queue.enqueue_link(end.link)
        current = self.journal.read(entry.attachment)
        holders = {one.ifname: one for one in current.ends} if current is not None else {}
        for end in wanted:
            holder = holders.get(end.ifname)
            if holder is not None and holder.link != end.link and not holder.live:
                text = f"link {end.link} wants a restart of pod {pod.ref}: {end.ifname} belongs to link {holder.link}"
                self.announcer.event(pod.ref, Reason.WANTS_RESTART, text, end.ifname)

    def _reserve(self, entry: SandboxEntry, wanted: Iterable[HeldEnd]) -> list[HeldEnd]:
        """Reserve the ends that the sandbox can take in the journal, and return them."""
        container_id, taken = entry.attachment.container_id, list[HeldEnd]()
        with self.journal.sandbox_lock(container_id):
            others = [one for one in self.journal.of_container(container_id) if one.attachment != entry.attachment]
            elsewhere = [end for one in others for end in one.ends]

            def with_taken(ends: tuple[HeldEnd, ...]) -> tuple[HeldEnd, ...]:
                taken[:] = reserve(wanted, [*ends, *elsewhere])
                return (*ends, *taken)

            return taken if self.journal.change_ends(entry.attachment, with_taken) else []

    # Removing

    def _why_removed(self, end: HeldEnd, by_record: Mapping[str, WantedLink]) -> str | None:
        """Why an end that no peer keeps is removed; None if it stays. `by_record`: the wanted links of the pod.

        A link that the pod itself declared when it started is never undeclared, but its record can have another name:
        two nodes that learn of a new record format at different times can create a record each.
        """
        link = by_record.get(end.link)
        if link is None:
            return None if end.declared else "no pod declares the link any more"
        record = self.store.links.cache.get(end.link)
        if record is not None and record.kind is not None:
            return None
        name = self.store.as_recorded(link).name
        return None if name == end.link else f"the link is recorded as {name}"

    def remove_undeclared(self, entry: SandboxEntry, end: HeldEnd) -> bool:
        """Remove an end that no peer keeps and whose link is undeclared, both as read from the API now.

        Returns False if the end stays.
        """
        pod = self._undeclared.get((entry.attachment, end.link))
        if pod is None or is_kept(end, self.store.links.get(end.link), entry):
            return False
        own, removes = self._declared_now(entry, end, pod), False
        if own is not None and (reason := self._why_removed(end, _by_record(own))) is not None:
            renamed = self._renamed(end, own)
            # The pod's own declaration holds while it runs: such an end moves, and only to a record that exists.
            removes = not end.declared or (renamed is not None and self.store.links.get(renamed.link) is not None)
            if removes:
                successor = None if renamed is not None else self.handover.successor(entry, end, pod, own)
                self._remove_end(entry, end, reason, renamed, successor)
        self._undeclared.pop((entry.attachment, end.link), None)
        return removes

    def _renamed(self, end: HeldEnd, own: Iterable[OwnEnd]) -> HeldEnd | None:
        """The end, as it was declared when it was taken, under the name and in the wiring of its link's record.

        None if the pod is to have no such link.
        """
        link = _by_record(own).get(end.link)
        if link is None:
            return None
        recorded = self.store.as_recorded(link)
        wanted = replace(end.wanted, name=recorded.name, schema=recorded.schema, wiring=recorded.wiring)
        return replace(end, wanted=wanted)

    def _remove_end(
        self,
        entry: SandboxEntry,
        end: HeldEnd,
        reason: str,
        renamed: HeldEnd | None = None,
        successor: HeldEnd | None = None,
    ) -> None:
        """Remove an end's interface, and the end from its record. `renamed` replaces it in the journal.

        `successor` does too, and the interface stays for it.
        """
        container_id = entry.attachment.container_id
        with self.journal.lock(end.link):
            record = self.store.links.get(end.link)
            kept = has_peer(record, entry) if renamed is not None else is_kept(end, record, entry)
            if kept or not self.journal.still_wants(entry, end):
                return
            if successor is not None:
                self.handover.rewire(entry, end, successor)
            else:
                take_down(self.journal, container_id, entry.location(end), end.ifname, end.link)
            RecordWriter(self.store).leave(end.link, container_id, reason)
            self.journal.change_ends(entry.attachment, lambda ends: replaced(ends, end, renamed or successor))
        log.info('link removed link=%s pod=%s reason="%s"', end.link, entry.pod, reason)
        if (new := renamed or successor) is not None:
            self.queue.enqueue_link(new.link)
        if entry.pod is not None:
            self.queue.enqueue_pod(entry.pod.namespace, entry.pod.name)  # another link may wait for the interface

    def _declared_now(self, entry: SandboxEntry, end: HeldEnd, pod: Pod) -> list[OwnEnd] | None:
        """The pod's declared ends, read from the API; None if a declaration that may have `end` is invalid.

        The declarations of a pod with an invalid one do not count, so neither this pod nor its peer may have one. A
        topology whose pods cannot be read may declare links of any pod, one that is not read any link.
        """
        reserved, namespace, peer = reserved_names(entry), pod.ref.namespace, end.wanted.end(end.side.other).name
        pods, topologies = self.store.pods.list(namespace), self.store.topologies.list(namespace)
        wanted = self.store.resolve(pod, pods, topologies, reserved)
        unread = any(one.ref.uid in wanted.refused and peer in names_of(one) for one in pods)
        if unread or not all(names_every_pod(one, {*reserved, "lo"}) for one in topologies):
            return None
        own = list(wanted.ends_of(pod))
        if end.live and end.link not in _by_record(own):
            unread = not self.store.topologies.enabled or is_drawn(end, pod.ref.name, pods, topologies)
        return None if unread or pod.ref.uid in wanted.refused else own

    # Reporting

    def _report_name(self, pod: Pod, newer: Pod | None) -> None:
        """Report once on both pods that a newer running pod has the pod's name, as replicas with one alias do.

        A pod that is being deleted is not reported: its successor has the name rightly.
        That a pod runs now is seen at the next resync, so most rollouts are over before they are reported.
        """
        key, name = (pod.ref.namespace, pod.ref.name), meant_name(pod)
        if newer is None or newer.phase != "Running" or pod.deleting:
            self._reported_names.pop(key, None)
            return
        if self._reported_names.get(key) == (pod.ref, newer.ref):
            return
        self._reported_names[key] = (pod.ref, newer.ref)
        log.warning("two running pods have one name name=%s pod=%s newer=%s", name, pod.ref, newer.ref)
        text = f"{pod.ref} and {newer.ref} both have the name {name}: only the newer one, {newer.ref}, gets its links"
        for ref in (pod.ref, newer.ref):
            self.announcer.event(ref, Reason.NAME_TAKEN, text)

    def _announce_edits(
        self,
        entry: SandboxEntry,
        pod: Pod,
        by_record: Mapping[str, WantedLink],
        refusal: InvalidIntentError | None,
    ) -> None:
        """Announce on the pod which of its links were edited since it started, if it is their primary."""
        for end in entry.ends:
            record = self.store.links.cache.get(end.link)
            if record is None or not record.holds(Side.PRIMARY, entry.attachment.container_id):
                continue
            wanted = by_record.get(end.link)
            found = edits(record, wanted, refusal)
            follows = end.live and refusal is None and (wanted is None or found.live)
            if found and not follows:
                text = f"link {end.link} {found.text(record)}"
                self.announcer.event(pod.ref, Reason.WANTS_RESTART, text, end.ifname)


def _by_record(own: Iterable[OwnEnd]) -> dict[str, WantedLink]:
    """The links that a pod is to have, by every name that their records may have."""
    return {name: link for link, _ in own for name in link.record_names()}


def reserved_names(entry: SandboxEntry) -> frozenset[str]:
    """The interface names that no end of a sandbox may have."""
    return frozenset({entry.attachment.ifname})
