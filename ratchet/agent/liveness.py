"""Sandboxes of this node that are dead: removal from the journal and from the records of their links.

A sandbox is dead if the runtime has deleted it, its network namespace is gone, or its pod is gone or finished.
Normally DEL removes it. These checks cover a runtime that did not call DEL, for example because the plugin was missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ratchet import datapath
from ratchet.core.model import Link, Side
from ratchet.core.pod import Pod
from ratchet.core.sandbox import Location, Sandbox
from ratchet.node.journal import HeldEnd, Journal, SandboxEntry
from ratchet.node.record_writer import RecordWriter
from ratchet.store.cached_store import CachedStore

log = logging.getLogger(__name__)

NO_DEL = "its pod and its namespace are gone, and no DEL came"
REPLACED = "its namespace is gone, its pod has a later sandbox, and no DEL came"

HeldEnds = Sequence[tuple[SandboxEntry, HeldEnd]]
"""The ends of one link that this node's sandboxes hold, each with its journal entry."""


class Calls(Protocol):
    """The CNI calls that this node's agent serves."""

    def is_adding(self, container_id: str) -> bool:
        """Whether an ADD of this container runs. Until it ends, only that call changes the container's links."""
        ...


@dataclass(frozen=True, slots=True)
class SandboxLiveness:
    """Decides which sandboxes of `node` are alive, and removes the dead ones. Methods raise RatchetError."""

    node: str
    journal: Journal
    store: CachedStore
    calls: Calls

    def is_running(self, entry: SandboxEntry) -> bool:
        """Whether the sandbox's pod runs, as read from the API.

        The cache may still have a pod whose end garbage collection has removed from the record.
        """
        if entry.pod is None:
            return False
        pod = self.store.pods.get(entry.pod.namespace, entry.pod.name)
        return pod is not None and pod.ref.is_same_pod(entry.pod) and not pod.finished and not pod.deleting

    def may_join(self, entry: SandboxEntry) -> bool:
        """Whether the sandbox may take a free end of a record: its pod runs and its namespace exists."""
        return self.is_running(entry) and datapath.namespace_is_there(_namespace(entry))

    def pod_of(self, entry: SandboxEntry) -> Pod | None:
        """The sandbox's pod, from the cache if possible; None if it is gone."""
        if entry.pod is None:
            return None
        pod = self.store.pods.lookup(entry.pod.namespace, entry.pod.name, entry.pod.uid)
        return pod if pod is not None and pod.ref.is_same_pod(entry.pod) else None

    def why_dead(self, sandbox: Sandbox) -> str | None:
        """Why a sandbox that a record places on this node is dead; None if it may be alive."""
        if self.calls.is_adding(sandbox.container_id):
            return None
        if self.journal.is_deleted(sandbox.container_id):
            return "the sandbox was deleted"
        if not datapath.namespace_is_there(Location(sandbox.netns, sandbox.cookie)):
            return "its sandbox is gone, and no DEL came"
        pod = self.store.pods.get(sandbox.pod.namespace, sandbox.pod.name)
        if pod is None or not pod.ref.is_same_pod(sandbox.pod) or pod.finished:
            return "its pod is gone, and no DEL came"
        return None

    def remove_dead(self, link: str, entry: SandboxEntry) -> None:
        """Remove a sandbox from the record of a link, and from the journal, if it is dead and no DEL came.

        Its namespace is gone, and its pod is gone too or has a later sandbox. It is forgotten once no record has it. An
        entry with delegate results stays: DEL needs them.
        """
        if self.calls.is_adding(_id_of(entry)):
            return
        is_replaced = self._is_replaced(entry)
        # The cache first: the only sandbox of a pod that is there costs no look into the namespace and no API request.
        if not is_replaced and self.store.pods.is_cached(entry.pod):
            return
        if datapath.namespace_is_there(_namespace(entry)):
            return
        if not is_replaced and self.pod_of(entry) is not None:
            return
        reason = REPLACED if is_replaced else NO_DEL
        with self.journal.lock(link):
            RecordWriter(self.store).leave(link, _id_of(entry), reason)
        if entry.delegations or _has_end(entry, [self.store.links.lookup(end.link).link for end in entry.ends]):
            return
        self.journal.forget(entry.attachment)
        log.info('sandbox forgotten sandbox=%s reason="%s"', _id_of(entry), reason)

    def _is_replaced(self, entry: SandboxEntry) -> bool:
        """Whether the sandbox's pod has a later sandbox on this node. A pod has one sandbox at a time.

        Of sandboxes of different boots, `began` does not tell which one is later.
        """
        if entry.pod is None:
            return False
        others = self.journal.of_pod(entry.pod.namespace, entry.pod.name)
        same = (one for one in others if (one.pod, one.boot) == (entry.pod, entry.boot))
        return any(_id_of(one) != _id_of(entry) and one.began > entry.began for one in same)

    def remove_strays(self, record: Link, held: HeldEnds) -> None:
        """Remove the dead sandboxes of this node that are in a record but not in the journal.

        Their interfaces stay in their namespaces: the namespace paths of a record are not this node's own knowledge.
        """
        journaled = {_id_of(entry) for entry, _ in held}
        for side in Side:
            sandbox = record.sandbox(side)
            if sandbox is None or sandbox.node != self.node or sandbox.container_id in journaled:
                continue
            if self.why_dead(sandbox) is not None:
                self._remove_stray(record.name, sandbox)

    def _remove_stray(self, link: str, sandbox: Sandbox) -> None:
        with self.journal.lock(link):
            # Decide again under the lock: meanwhile, a new sandbox may have the same container ID.
            reason = self.why_dead(sandbox)
            if reason is None or any(_id_of(entry) == sandbox.container_id for entry, _ in self.journal.holding(link)):
                return
            log.info('removing sandbox from record link=%s sandbox=%s reason="%s"', link, sandbox.container_id, reason)
            RecordWriter(self.store).leave(link, sandbox.container_id, reason)


def _id_of(entry: SandboxEntry) -> str:
    return entry.attachment.container_id


def _namespace(entry: SandboxEntry) -> Location:
    return Location(entry.netns, entry.cookie)


def _has_end(entry: SandboxEntry, records: Iterable[Link | None]) -> bool:
    """Whether one of the records holds the sandbox."""
    return any(record is not None and record.side_of(_id_of(entry)) is not None for record in records)
