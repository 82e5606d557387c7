"""The caches that an agent's informers keep up to date."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from ratchet.core.pod import Pod
from ratchet.store.formats import RecordFormats
from ratchet.store.link_cache import LinkCache
from ratchet.store.listwatch import SyncState, vanished
from ratchet.store.namespace import NamespaceCache
from ratchet.store.nodes import NodeAddressCache
from ratchet.store.notifier import KeyedNotifier
from ratchet.store.pods import PodChange
from ratchet.store.vni import VniAllocator


class PodCache:
    """The pods of this node, by namespace and name; safe between threads."""

    def __init__(self) -> None:
        self.state = SyncState()
        self._lock = threading.Lock()
        self._pods: dict[tuple[str, str], Pod] = {}

    def replace(self, pods: Collection[Pod], version: str = "") -> list[PodChange]:  # noqa: ARG002  # `listwatch.Cache`
        """Hold these pods and no others. Returns the deletions, also of a pod whose name another pod has now."""
        with self._lock:
            before = {pod.ref: pod for pod in self._pods.values()}
            self._pods = {(pod.ref.namespace, pod.ref.name): pod for pod in pods}
        return [PodChange(pod, gone=True) for pod in vanished(before, {pod.ref: pod for pod in pods})]

    def apply(self, change: PodChange) -> bool:
        """Apply one change. Returns whether it changed anything that Ratchet reads."""
        ref = change.pod.ref
        key = (ref.namespace, ref.name)
        with self._lock:
            before, after = self._pods.get(key), None if change.gone else change.pod
            if before == after:
                return False
            if after is None:
                del self._pods[key]
            else:
                self._pods[key] = after
            return True

    def get(self, namespace: str, name: str) -> Pod | None:
        return self._pods.get((namespace, name))

    def all(self) -> list[Pod]:
        """All cached pods."""
        with self._lock:
            return list(self._pods.values())


@dataclass(frozen=True, slots=True)
class Caches:
    """All caches of an agent.

    `namespace_cache` returns the pods and topologies of a namespace; the first call starts their informers.
    `pods_notifier` has the namespaces as keys. A thread waits for a change within `waiting`. One thread at a time reads
    all declarations of a namespace, with the lock `resolving`: they take up to some 50 MB.
    """

    links: LinkCache
    node_pods: PodCache
    namespace_cache: Callable[[str], NamespaceCache]
    pods_notifier: KeyedNotifier
    vni_allocator: VniAllocator
    addresses: NodeAddressCache
    formats: RecordFormats = field(default_factory=RecordFormats)
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext
    resolving: AbstractContextManager[object] = field(default_factory=threading.Lock)
