"""The agent's informers: links and pods of the node, pods and topologies of namespaces with links."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from ratchet.agent.priority import ForegroundGate
from ratchet.core.model import Link
from ratchet.core.pod import Pod
from ratchet.core.schemas import EARLIER_SCHEMA
from ratchet.errors import TopologiesUnknownError
from ratchet.store.caches import Caches, PodCache
from ratchet.store.declaration_budget import DeclarationBudget
from ratchet.store.link_cache import LinkCache
from ratchet.store.links import LinkChange
from ratchet.store.listwatch import Informer, Source
from ratchet.store.namespace import NamespaceCache
from ratchet.store.nodes import NodeAddressCache
from ratchet.store.notifier import KeyedNotifier
from ratchet.store.pods import PodChange
from ratchet.store.store import ApiStore
from ratchet.store.topologies import Declared, DeclaredChange, OperationsChange
from ratchet.store.topology_cache import TopologyCache
from ratchet.store.vni import VniAllocator

Object = TypeVar("Object")
Change = TypeVar("Change")

# Seconds after which the declarations of a namespace that is over a limit are listed again, if there is room for more.
WITHHELD_SECONDS = 10.0
# Namespaces that are listed at once. A list has up to some 2 MB of text.
LISTS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Namespace:
    """A followed namespace: its cache, and the informers that keep the cache up to date."""

    known: NamespaceCache
    informers: list[Informer[Any, Any]]

    def stop(self) -> None:
        for informer in self.informers:
            informer.stop()
        self.known.close()


class EventHandler(Protocol):
    """The handler of changes, called from the informers' threads."""

    def link_changed(self, link: str) -> None:
        """Handle a created, changed or deleted record of a link."""
        ...

    def pods_changed(self, namespace: str, names: Collection[str]) -> None:
        """Handle a change that can concern the links of these pods of a namespace."""
        ...

    def pod_deleted(self, change: PodChange) -> None:
        """Handle the deletion of a pod of this node."""
        ...

    def operations_changed(self, namespace: str, change: OperationsChange) -> None:
        """Handle the operations of a namespace."""
        ...


class Informers:
    """Keeps `caches` up to date, in threads that end with the process, and reports changes to `handler`.

    A call that waits for a change lets background work go on meanwhile (`foreground`). The namespaces share the
    `budget` of memory for their declarations (None: it is unlimited).
    """

    def __init__(
        self,
        store: ApiStore,
        node: str,
        handler: EventHandler,
        foreground: ForegroundGate,
        budget: DeclarationBudget | None = None,
    ) -> None:
        self._store = store
        self._budget = budget
        self._lists = threading.BoundedSemaphore(LISTS_AT_ONCE)
        self._node = node
        self._handler = handler
        self.caches = Caches(
            links=LinkCache(self._link_changed, node),
            node_pods=PodCache(),
            namespace_cache=self.namespace_cache,
            pods_notifier=KeyedNotifier(),
            vni_allocator=VniAllocator(),
            addresses=NodeAddressCache(),
            waiting=foreground.waiting,
        )
        self._links = Informer(self._links_source(), self.caches.links)
        self._node_pods = Informer(self._node_pods_source(), self.caches.node_pods, self._node_pods_changed)
        self._lock = threading.Lock()
        self._namespaces: dict[str, _Namespace] = {}

    def start(self) -> None:
        """Start the informers of the node's links and pods."""
        self._links.start()
        self._node_pods.start()

    def namespace_cache(self, namespace: str) -> NamespaceCache:
        """The cache of a namespace's pods and topologies. The namespace is followed from the first call on."""
        with self._lock:
            followed = self._namespaces.get(namespace)
            if followed is None:
                followed = self._follow(namespace)
                self._namespaces[namespace] = followed
            return followed.known

    def keep_namespaces(self, wanted: set[str]) -> None:
        """Follow these namespaces and no others."""
        with self._lock:
            for namespace in set(self._namespaces) - wanted:
                self._namespaces.pop(namespace).stop()
                self._handler.operations_changed(namespace, OperationsChange(None))
        for namespace in wanted:
            self.namespace_cache(namespace)

    @property
    def links_listed(self) -> bool:
        """Whether the records of this node's links have been listed at least once."""
        return self._links.state.was_listed

    def forbidden_topologies(self) -> TopologiesUnknownError | None:
        """The error of a followed namespace whose topologies the account may not list; None if there is none."""
        with self._lock:
            causes = [one.known.topologies_state.cause for one in self._namespaces.values()]
        return next((cause for cause in causes if isinstance(cause, TopologiesUnknownError)), None)

    def _follow(self, namespace: str) -> _Namespace:
        def notify(_: Sequence[object]) -> None:
            self.caches.pods_notifier.notify(namespace)

        topologies = self._store.topologies
        known = NamespaceCache(
            partial(self._handler.pods_changed, namespace),
            with_topologies=topologies.enabled,
            limits=topologies.limits,
            annotation_limits=self._store.pods.limits,
            budget=self._budget,
        )
        followed = _Namespace(known, [Informer(self._pods_source(namespace, known), known, notify)])
        if topologies.enabled:
            cache = TopologyCache(known, partial(self._handler.operations_changed, namespace))
            followed.informers.append(Informer(self._topologies_source(namespace, known), cache, notify))
        try:
            for informer in followed.informers:
                informer.start()
        except RuntimeError:  # no thread could be started for one of them: follow all or none
            followed.stop()
            raise
        return followed

    def _link_changed(self, name: str) -> None:
        link = self.caches.links.get(name)
        if link is not None and link.vni is not None:
            self.caches.vni_allocator.note(link.vni, link.uid, link.name)
        if link is not None and link.schema == EARLIER_SCHEMA:
            self.caches.formats.note_earlier()
            if link.kind is None:  # the peer may wait in a record of the current format (`store.formats`)
                self._handler.pods_changed(link.namespace, {link.primary.name, link.pair.name})
        self._handler.link_changed(name)

    def _node_pods_changed(self, changes: Sequence[PodChange]) -> None:
        for change in changes:
            if change.gone:
                self._handler.pod_deleted(change)

    # Sources

    def _links_source(self) -> Source[Link, LinkChange]:
        def list_links() -> tuple[list[Link], str]:
            links, malformed, version = self._store.links.list_of_node(self._node, self.caches.links.listing())
            for error in malformed:
                self.caches.links.log_malformed(error)
            # A record that cannot be decoded still exists: the cache keeps its last version.
            unread = (self.caches.links.get(error.record) for error in malformed)
            return [*links, *(link for link in unread if link is not None)], version

        return Source(
            f"records of node {self._node}",
            list=list_links,
            watch=lambda version, seconds: self._store.links.watch_of_node(
                self._node, version, seconds, self.caches.links.has
            ),
        )

    def _node_pods_source(self) -> Source[Pod, PodChange]:
        return Source(
            f"pods of node {self._node}",
            list=lambda: self._store.pods.list_of_node(self._node),
            watch=lambda version, seconds: self._store.pods.watch_of_node(self._node, version, seconds),
        )

    def _pods_source(self, namespace: str, known: NamespaceCache) -> Source[Pod, PodChange]:
        source = self._store.pods.source(namespace)
        return self._bounded(source, known.withholds_lists, known.lacks_lists)

    def _topologies_source(self, namespace: str, known: NamespaceCache) -> Source[Declared, DeclaredChange]:
        topologies = self._store.topologies
        source: Source[Declared, DeclaredChange] = Source(
            f"topologies of namespace {namespace}",
            list=lambda: topologies.list_with_version(namespace),
            watch=partial(topologies.watch, namespace),
        )
        return self._bounded(source, known.withholds_topologies, known.lacks_topologies)

    def _bounded(
        self, source: Source[Object, Change], withholds: Callable[[], bool], lacks: Callable[[], bool]
    ) -> Source[Object, Change]:
        """The source of a namespace's declarations, which is listed again if the namespace `lacks` some of them.

        While the namespace `withholds` some, its watches are short.
        """

        def list_bounded() -> tuple[Collection[Object], str]:
            with self._lists:
                return source.list()

        def watch(version: str, seconds: float) -> Iterator[tuple[Change | None, str]]:
            is_short = withholds()
            for change in source.watch(version, min(seconds, WITHHELD_SECONDS) if is_short else seconds):
                yield change
                if not is_short and withholds():
                    return  # the next watch is short
            if lacks():
                yield None, ""  # without a version, the declarations are listed

        return Source(source.name, list=list_bounded, watch=watch)
