"""The agent's informers: its links, its node's pods, and the pods and topologies of the namespaces that matter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ratchet.core.model import EARLIER_SCHEMA, Link, Pod, Topology
from ratchet.errors import TopologiesUnknownError
from ratchet.store.caches import Caches, PodCache
from ratchet.store.link_cache import LinkCache
from ratchet.store.links import LinkChange
from ratchet.store.listwatch import Informer, Source
from ratchet.store.namespace import NamespaceCache
from ratchet.store.nodes import NodeAddressCache
from ratchet.store.notifier import KeyedNotifier
from ratchet.store.pods import PodChange
from ratchet.store.store import ApiStore
from ratchet.store.topologies import TopologyChange
from ratchet.store.vni import VniAllocator


@dataclass(frozen=True, slots=True)
class _Namespace:
    """A namespace that is followed: what is known of it, and the informers that keep it up to date."""

    known: NamespaceCache
    informers: list[Informer[Any, Any]]

    def stop(self) -> None:
        for informer in self.informers:
            informer.stop()


class Informers:
    """Keeps the caches up to date, in threads that end with the process.

    `caches` has the caches. `enqueue_link` is called for each changed link. `enqueue_pods` is called with the names of
    the pods of a namespace whose links can have changed, `pod_deleted` for each deleted pod of this node. A call waits
    for a change within `waiting`.
    """

    def __init__(
        self,
        records: ApiStore,
        node: str,
        enqueue_link: Callable[[str], None],
        enqueue_pods: Callable[[str, Collection[str]], None],
        pod_deleted: Callable[[PodChange], None],
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._records = records
        self._node = node
        self._enqueue_link = enqueue_link
        self._enqueue_pods = enqueue_pods
        self._pod_deleted = pod_deleted
        self.caches = Caches(
            links=LinkCache(self._link_changed),
            node_pods=PodCache(),
            namespace_cache=self.namespace_cache,
            pods_notifier=KeyedNotifier(),
            vni_allocator=VniAllocator(),
            addresses=NodeAddressCache(),
            waiting=waiting,
        )
        self._links = Informer(self._links_source(), self.caches.links)
        self._node_pods = Informer(self._node_pods_source(), self.caches.node_pods, self._node_pods_changed)
        self._lock = threading.Lock()
        self._namespaces: dict[str, _Namespace] = {}

    def start(self) -> None:
        self._links.start()
        self._node_pods.start()

    def namespace_cache(self, namespace: str) -> NamespaceCache:
        """The pods and topologies of a namespace, followed from the first question on."""
        with self._lock:
            followed = self._namespaces.get(namespace)
            if followed is None:
                followed = self._follow(namespace)
                self._namespaces[namespace] = followed
            return followed.known

    def keep_namespaces(self, wanted: set[str]) -> None:
        """Follow the pods of these namespaces and of no others."""
        with self._lock:
            for namespace in set(self._namespaces) - wanted:
                self._namespaces.pop(namespace).stop()
        for namespace in wanted:
            self.namespace_cache(namespace)

    @property
    def links_listed(self) -> bool:
        """Whether this node's records have been read at least once."""
        return self._links.state.was_listed

    def forbidden_topologies(self) -> TopologiesUnknownError | None:
        """Why the topologies of a followed namespace are unknown, where the account may not list them."""
        with self._lock:
            causes = [one.known.topologies_state.cause for one in self._namespaces.values()]
        return next((cause for cause in causes if isinstance(cause, TopologiesUnknownError)), None)

    def _follow(self, namespace: str) -> _Namespace:
        def notify(_: Sequence[object]) -> None:
            self.caches.pods_notifier.notify(namespace)

        known = NamespaceCache(partial(self._enqueue_pods, namespace), with_topologies=self._records.topologies.enabled)
        followed = _Namespace(known, [Informer(self._records.pods.source(namespace), known, notify)])
        if self._records.topologies.enabled:
            followed.informers.append(Informer(self._topologies_source(namespace), known.topologies_cache, notify))
        try:
            for informer in followed.informers:
                informer.start()
        except RuntimeError:  # no thread is left for one of them: the namespace is not followed by halves
            followed.stop()
            raise
        return followed

    def _link_changed(self, name: str) -> None:
        link = self.caches.links.get(name)
        if link is not None and link.vni is not None:
            self.caches.vni_allocator.note(link.vni, link.uid)
        if link is not None and link.schema == EARLIER_SCHEMA:
            self.caches.formats.note_earlier()
            if link.kind is None:  # its peer may wait in a record of the current format (`store.formats`)
                self._enqueue_pods(link.namespace, {link.primary.name, link.pair.name})
        self._enqueue_link(name)

    def _node_pods_changed(self, changes: Sequence[PodChange]) -> None:
        for change in changes:
            if change.gone:
                self._pod_deleted(change)

    # What is listed and watched

    def _links_source(self) -> Source[Link, LinkChange]:
        def list_links() -> tuple[list[Link], str]:
            links, malformed, version = self._records.links.list_of_node(self._node)
            for error in malformed:
                self.caches.links.log_malformed(error)
            # A record that cannot be read is still there: what is known of it stays.
            unread = (self.caches.links.get(error.record) for error in malformed)
            return [*links, *(link for link in unread if link is not None)], version

        return Source(
            f"records of node {self._node}",
            list=list_links,
            watch=lambda version, seconds: self._records.links.watch_of_node(
                self._node, version, seconds, self.caches.links.has
            ),
        )

    def _node_pods_source(self) -> Source[Pod, PodChange]:
        return Source(
            f"pods of node {self._node}",
            list=lambda: self._records.pods.list_of_node(self._node),
            watch=lambda version, seconds: self._records.pods.watch_of_node(self._node, version, seconds),
        )

    def _topologies_source(self, namespace: str) -> Source[Topology, TopologyChange]:
        return Source(
            f"topologies of namespace {namespace}",
            list=lambda: self._records.topologies.list_with_version(namespace),
            watch=lambda version, seconds: self._records.topologies.watch(namespace, version, seconds),
        )
