"""The handler of the informers' changes: it queues the links and pods that a change concerns."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ratchet.agent.announce import Announcer
from ratchet.agent.link_operations import LinkOperations
from ratchet.agent.queue import ReconcileQueue
from ratchet.node.journal import Journal
from ratchet.node.verified import VerifiedEnds
from ratchet.store.pods import PodChange
from ratchet.store.topologies import OperationsChange


@dataclass(frozen=True, slots=True)
class ChangeHandler:
    """Queues links and pods after changes in the API. Thread-safe."""

    journal: Journal
    queue: ReconcileQueue
    verified: VerifiedEnds
    announcer: Announcer
    operations: LinkOperations

    def link_changed(self, link: str) -> None:
        """Queue a link whose record was created, changed or deleted."""
        self.queue.enqueue_link(link)

    def pods_changed(self, namespace: str, names: Collection[str]) -> None:
        """Queue those of the pods that have a sandbox on this node; their links may have changed."""
        for name in names:
            if self.journal.of_pod(namespace, name):
                self.queue.enqueue_pod(namespace, name)

    def operations_changed(self, namespace: str, change: OperationsChange) -> None:
        """Queue the links that the operations of a namespace concern."""
        self.operations.changed(namespace, change)

    def pod_deleted(self, change: PodChange) -> None:
        """Queue the links of a deleted pod, and drop its announcements."""
        ref = change.pod.ref
        self.announcer.forget(ref.uid)
        for entry in self.journal.of_pod(ref.namespace, ref.name):
            if entry.pod == ref:
                for end in entry.ends:
                    self.verified.forget(end.link)  # the pod's namespace may be gone too
                    self.queue.enqueue_link(end.link)
