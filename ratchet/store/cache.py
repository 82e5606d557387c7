"""What is known of the API from watches, so that most questions are answered without asking it.

Nothing here is newer than the API and some of it is older. A write that was decided on what is old is refused (its
resourceVersion), and the next question about that object goes to the API; whoever is about to destroy something asks
there in any case (`Records.link`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue

from ratchet.core.intent import Wanted, wanted_links
from ratchet.core.model import Link, Pod, Side, Topology
from ratchet.core.naming import in_order, node_label
from ratchet.errors import ApiUnavailableError, ConflictError, MalformedRecordError, TopologiesUnknownError
from ratchet.store.apiserver import ApiServer, ForbiddenError
from ratchet.store.formats import RecordFormats
from ratchet.store.listwatch import SyncState, vanished
from ratchet.store.namespace import NamespaceCache
from ratchet.store.records import LinkChange, PodChange, Records
from ratchet.store.vni import VniAllocator

log = logging.getLogger(__name__)

GONE_KEPT = 4096
ADDRESSES_SECONDS = 300.0
# For a watch to tell of a pod that the API has; it is mostly some milliseconds behind.
CATCH_UP_SECONDS = 1.0


class KeyedNotifier:
    """Rings for those who wait for a key: nobody wakes for what others wait for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, list[SimpleQueue[str]]] = {}

    def notify(self, key: str) -> None:
        with self._lock:
            queues = list(self._queues.get(key, ()))
        for queue in queues:
            queue.put(key)

    @contextmanager
    def subscribed(self, keys: Collection[str]) -> Iterator[Callable[[float], set[str]]]:
        """Within the block, a function that waits until a monotonic time for rings, and tells which keys rang."""
        queue: SimpleQueue[str] = SimpleQueue()
        with self._lock:
            for key in keys:
                self._queues.setdefault(key, []).append(queue)
        try:
            yield lambda until: _drained(queue, until)
        finally:
            with self._lock:
                for key in keys:
                    self._queues[key].remove(queue)
                    if not self._queues[key]:
                        del self._queues[key]


def _drained(queue: SimpleQueue[str], until: float) -> set[str]:
    keys: set[str] = set()
    try:
        keys.add(queue.get(timeout=max(0.0, until - time.monotonic())))
        while True:
            keys.add(queue.get_nowait())
    except Empty:
        return keys


class LinkCache:
    """The records that this node has to do with, as they were last read, watched or written; safe between threads.

    `changed` is told the name of each that becomes another than it was.
    """

    def __init__(self, changed: Callable[[str], None] = lambda _: None) -> None:
        self.notifier = KeyedNotifier()
        self.changed = changed
        self.state = SyncState()
        self._lock = threading.Lock()
        self._links: dict[str, Link] = {}
        # The version at which a record went: what a watch still tells of an older one is not believed.
        self._gone: OrderedDict[str, str] = OrderedDict()
        # The version at which a record was dropped: what a watch still tells of an older one is not believed either.
        self._dropped: dict[str, str] = {}
        # The version at which a record was logged as unreadable.
        self._unreadable: dict[str, str] = {}

    def get(self, name: str) -> Link | None:
        return self._links.get(name)

    def has(self, name: str, version: str) -> bool:
        """Whether a record is known at a version, or at a later one: our own writes come back by the watch."""
        known = self._links.get(name)
        return known is not None and not is_newer(version, known.resource_version)

    def expects_none(self, name: str) -> bool:
        """Whether there is most likely no such record: all records of the node are known, and this is none of them."""
        return self.state.is_synced and not (name in self._links or name in self._dropped or name in self._unreadable)

    def names(self) -> list[str]:
        """The names of the records that are known, and of those that were dropped and not read again since."""
        with self._lock:
            return [*self._links, *(name for name in self._dropped if name not in self._links)]

    def all(self) -> list[Link]:
        with self._lock:
            return list(self._links.values())

    def of_node(self, node: str) -> list[Link]:
        """The records of the links that have an end on a node."""
        return [link for link in self.all() if node in link.nodes]

    def replace(self, links: Collection[Link], version: str) -> list[LinkChange]:
        """Know these records as of `version`; those that are missing are gone. Returns nothing: `changed` is told."""
        for link in links:
            self.put(link)
        listed = {link.name for link in links}
        for name in self.names():
            if name not in listed:
                self.gone(name, version)
        return []

    def apply(self, change: LinkChange) -> bool:
        """Apply what a watch reported; `changed` is told where it makes a difference."""
        if change.error is not None:
            self.unreadable(change.error)
        elif change.link is None:
            self.gone(change.name, change.version)
        else:
            self.put(change.link)
        return False

    def put(self, link: Link) -> None:
        """Know a record as it is at its version, unless it is known at a later one."""
        with self._lock:
            known = self._links.get(link.name)
            if known is not None and not is_newer(link.resource_version, known.resource_version):
                return
            if not is_newer(link.resource_version, self._gone.get(link.name, "")):
                return
            dropped = self._dropped.get(link.name, "")
            if is_newer(dropped, link.resource_version) and not is_newer(link.resource_version, dropped):
                return
            self._dropped.pop(link.name, None)
            self._unreadable.pop(link.name, None)
            self._links[link.name] = link
        self._tell(link.name)

    def drop(self, name: str) -> None:
        """Believe no longer what is known of a record, nor what is older; nobody is told, for nothing is known to have
        changed."""
        with self._lock:
            if (known := self._links.pop(name, None)) is not None:
                self._dropped[name] = known.resource_version

    def missing(self, name: str) -> None:
        """Drop a record that the API does not have. One that was dropped before is forgotten.

        The record may have been created again meanwhile, and the watch may have reported it before the answer of the
        API arrived. So a record that was known is read once more (`names`).
        """
        with self._lock:
            if (known := self._links.pop(name, None)) is not None:
                self._dropped[name] = known.resource_version
            else:
                self._dropped.pop(name, None)

    def unreadable(self, error: MalformedRecordError) -> None:
        """Log a record that cannot be read, once for each version. What is known of it stays."""
        with self._lock:
            logged = self._unreadable.get(error.record) == error.version
            self._unreadable[error.record] = error.version
        if not logged:
            log.error('record is malformed record=%s version=%s cause="%s"', error.record, error.version, error)

    def keep_watched(self, node: str) -> None:
        """Forget the records that a node's watch does not report: they were read for a call."""
        with self._lock:
            for name, link in list(self._links.items()):
                if node not in link.nodes and node_label(node) not in link.expected_on:
                    del self._links[name]

    def gone(self, name: str, version: str) -> None:
        """Know that a record is there no more, or no longer this node's affair, since `version`."""
        with self._lock:
            known = self._links.get(name)
            if known is not None and is_newer(known.resource_version, version):
                return
            self._links.pop(name, None)
            self._dropped.pop(name, None)
            self._unreadable.pop(name, None)
            self._gone[name] = version
            self._gone.move_to_end(name)
            while len(self._gone) > GONE_KEPT:
                self._gone.popitem(last=False)
        self._tell(name)

    def _tell(self, name: str) -> None:
        self.notifier.notify(name)
        self.changed(name)


def is_newer(version: str, than: str) -> bool:
    """Whether one resourceVersion of an object is later than another (kubernetes.io, "Resource versions")."""
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than


class PodCache:
    """The pods of this node, by namespace and name; safe between threads."""

    def __init__(self) -> None:
        self.state = SyncState()
        self._lock = threading.Lock()
        self._pods: dict[tuple[str, str], Pod] = {}

    def replace(self, pods: Collection[Pod], version: str = "") -> list[PodChange]:  # noqa: ARG002  # the store's way
        """Hold these pods and no others. Returns the deletions, also of a pod whose name another one has by now."""
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
        with self._lock:
            return list(self._pods.values())


@dataclass(frozen=True, slots=True)
class Caches:
    """All that is known. `namespace_cache` gives a namespace's pods and topologies, followed by somebody from the first
    question on.

    Whoever waits for something to change does so within `waiting`.
    """

    links: LinkCache
    node_pods: PodCache
    namespace_cache: Callable[[str], NamespaceCache]
    pods_notifier: KeyedNotifier
    numbers: VniAllocator
    addresses: NodeAddressCache
    formats: RecordFormats = field(default_factory=RecordFormats)
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext


class CachedStore(Records):
    """Records that are answered from memory where that is good enough, and by the API where it is not."""

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        vni_range: tuple[int, int],
        caches: Caches,
        *,
        use_topologies: bool = True,
    ) -> None:
        super().__init__(api, namespace, vni_range, caches.numbers, caches.formats, use_topologies=use_topologies)
        self.caches = caches
        self.known = caches.links

    def patient(self, seconds: float) -> CachedStore:
        """The same, where each request may go on being retried for `seconds`."""
        api = self.api.patient(seconds)
        return CachedStore(api, self.namespace, self.vni_range, self.caches, use_topologies=self.use_topologies)

    # Links

    def known_link(self, name: str) -> tuple[Link | None, bool]:
        known = self.known.get(name)
        return (known, False) if known is not None else (self.link(name), True)

    def link(self, name: str) -> Link | None:
        link = super().link(name)
        if link is None:
            self.known.missing(name)
        else:
            self.known.put(link)
        return link

    def expected_link(self, name: str) -> tuple[Link | None, bool]:
        return (None, False) if self.known.expects_none(name) else self.known_link(name)

    def has_changed(self, record: Link) -> bool:
        cached = self.known.get(record.name)
        return cached is None or cached.resource_version != record.resource_version

    def is_created_by_peer(self, wanted: Link, side: Side, node: str) -> bool:
        """Of two nodes that start a link at the same time, the node of the lesser end creates the record."""
        if not self.known.expects_none(wanted.name):
            return False
        own, peer = ((end.name, end.ifname) for end in (wanted.end(side), wanted.end(side.other)))
        nodes = self._nodes_of(wanted, side.other)
        return bool(nodes) and node not in nodes and in_order(own, peer)[0] == peer

    def create(self, link: Link) -> Link:
        absent = [side for side in Side if link.sandbox(side) is None]
        nodes = {node for side in absent for node in self._nodes_of(link, side)} - link.nodes
        try:
            created = super().create(replace(link, expected_on=tuple(sorted(map(node_label, nodes)))))
        except ConflictError:
            self.link(link.name)  # the next try decides on the record that another node has created
            raise
        self.known.put(created)
        return created

    def _nodes_of(self, link: Link, side: Side) -> set[str]:
        """The nodes on which pods are that answer to the name of an end, as far as is known."""
        pods = self.caches.namespace_cache(link.namespace).called(link.end(side).name)
        return {pod.node for pod in pods if pod.node and not pod.deleting and not pod.finished}

    def update(self, before: Link, after: Link) -> Link:
        return self._stored(super().update, before, after, name=before.name)

    def delete(self, link: Link) -> None:
        try:
            super().delete(link)
        except ConflictError:
            self.known.drop(link.name)
            raise
        self.known.gone(link.name, link.resource_version)

    def names_of_changed_links(
        self,
        namespace: str,  # noqa: ARG002  # as the API is asked
        pod: str,  # noqa: ARG002
        names: Collection[str],
        version: str,  # noqa: ARG002
        until: float,
    ) -> Iterator[set[str] | None]:
        with self.known.notifier.subscribed(names) as wait:
            yield None  # what changed before there was a bell
            while time.monotonic() < until:
                with self.caches.waiting():
                    notified = wait(until)
                if notified:
                    yield notified

    def _stored(self, write: Callable[..., Link], *arguments: Link, name: str) -> Link:
        try:
            link = write(*arguments)
        except ConflictError:
            self.known.drop(name)
            raise
        self.known.put(link)
        return link

    # Pods

    def pod(self, namespace: str, name: str, uid: str = "") -> Pod | None:
        known = self.caches.node_pods.get(namespace, name)
        return known if known is not None and known.ref.uid == uid else super().pod(namespace, name, uid)

    def pods_and_version(self, namespace: str | None = None) -> tuple[list[Pod], str]:
        if namespace is not None and (known := self.caches.namespace_cache(namespace)).state.is_synced:
            return known.all(), ""
        return super().pods_and_version(namespace)

    def pods_now(self, namespace: str) -> list[Pod]:
        """The pods of a namespace as the API has them, whatever is known of them."""
        return super().pods_and_version(namespace)[0]

    def watch_wanted(self, pod: Pod, reserved: frozenset[str], seconds: float, until: float) -> Iterator[Wanted]:
        namespace = pod.ref.namespace
        known = self.caches.namespace_cache(namespace)
        with self.caches.pods_notifier.subscribed([namespace]) as wait:
            if self._knows(known, pod, seconds):
                yield known.wanted_for(pod, reserved)
                while time.monotonic() < until:
                    with self.caches.waiting():
                        notified = wait(until)
                    if notified:
                        yield known.wanted_for(pod, reserved)
                return
        pods, version = super().pods_and_version(namespace)
        yield wanted_links(pods, reserved, topologies=self.topologies_now(namespace))
        for changed in self.pods_as_they_change(namespace, pods, version, until):
            yield wanted_links(changed, reserved, topologies=self.topologies(namespace))

    def pods_called(self, namespace: str, names: Collection[str]) -> list[Pod]:
        known = self.caches.namespace_cache(namespace)
        if not known.state.is_synced:
            return super().pods_called(namespace, names)
        return list({pod.ref: pod for name in names for pod in known.called(name)}.values())

    def topologies(self, namespace: str) -> list[Topology]:
        known = self.caches.namespace_cache(namespace)
        return known.topologies() if known.topologies_state.is_synced else super().topologies(namespace)

    def topologies_now(self, namespace: str) -> list[Topology]:
        """The topologies of a namespace as the API has them, whatever is known of them."""
        return super().topologies(namespace)

    def _knows(self, known: NamespaceCache, pod: Pod, seconds: float) -> bool:
        """Whether what is known of a namespace's pods is no older than a pod, or will be in a moment.

        A watch lags behind most when many pods start, which is when to list them all for each would be worst. Forbidden
        topologies are waited for longer, for `seconds`.
        """
        began = time.monotonic()
        with self.caches.pods_notifier.subscribed([pod.ref.namespace]) as wait:
            while True:
                current = known.get(pod.ref.name)
                if known.knows_what_is_wanted and current is not None and current.ref == pod.ref:
                    return True
                forbidden = isinstance(known.topologies_state.cause, TopologiesUnknownError | ForbiddenError)
                until = began + (max(seconds, CATCH_UP_SECONDS) if forbidden else CATCH_UP_SECONDS)
                if time.monotonic() >= until:
                    return False
                with self.caches.waiting():
                    wait(until)

    def wanted_for(self, pod: Pod, reserved: frozenset[str]) -> Wanted:
        """The wanted links as far as they hold for one pod, from memory where its namespace is followed."""
        namespace = pod.ref.namespace
        known = self.caches.namespace_cache(namespace)
        if known.knows_what_is_wanted:
            return known.wanted_for(pod, reserved)
        return wanted_links(self.pods(namespace), reserved, topologies=self.topologies(namespace))

    # Nodes

    def node_addresses(self, node: str) -> tuple[str, ...]:
        return self.caches.addresses.of(node, super().node_addresses)

    def refresh_node_addresses(self, node: str) -> bool:
        return self.caches.addresses.refresh(node, super().node_addresses)


class NodeAddressCache:
    """The addresses of nodes as the API has them, read again after a while or by `refresh`. No empty list is kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}

    def of(self, node: str, ask: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
        asked, addresses = self._known.get(node, (float("-inf"), ()))
        if self._clock() - asked > ADDRESSES_SECONDS:
            try:
                addresses = ask(node)
            except ApiUnavailableError:
                if not addresses:
                    raise
                return addresses  # an API that is away is no word that they have changed
            self._keep(node, addresses)
        return addresses

    def refresh(self, node: str, ask: Callable[[str], tuple[str, ...]]) -> bool:
        """Read a node's addresses; whether they differ from those that were known."""
        addresses = ask(node)
        _, known = self._known.get(node, (0.0, ()))
        self._keep(node, addresses)
        return addresses != known

    def _keep(self, node: str, addresses: tuple[str, ...]) -> None:
        if addresses:
            self._known[node] = (self._clock(), addresses)
        else:
            self._known.pop(node, None)
