"""The store of an agent: most questions are answered from the caches of its informers."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

from ratchet.core.intent import Wanted, WantedLink, wanted_links
from ratchet.core.intent.annotation_limits import declares_alike
from ratchet.core.kinds import DEFAULT_WIRING, Wiring
from ratchet.core.limits import (
    DEFAULT_ANNOTATION_LIMITS,
    DEFAULT_LIMITS,
    DEFAULT_TOPOLOGY_LIMITS,
    AnnotationLimits,
    LinkLimits,
    TopologyLimits,
)
from ratchet.core.model import Link
from ratchet.core.pod import Pod, PodRef, Topology
from ratchet.errors import TopologiesUnknownError
from ratchet.store.api_errors import ForbiddenError
from ratchet.store.apiserver import ApiServer
from ratchet.store.cached_links import CachedLinks
from ratchet.store.caches import Caches
from ratchet.store.namespace import NamespaceCache
from ratchet.store.pods import PodStore
from ratchet.store.store import ApiStore
from ratchet.store.topologies import TopologyStore

PodList = list[Pod]
TopologyList = list[Topology]

# How long a watch is waited for that has not reported a pod yet. It is mostly some milliseconds behind.
CATCH_UP_SECONDS = 1.0


class CachedPods:
    """Pods that are looked up in the caches of this node and of namespaces."""

    def __init__(self, pods: PodStore, caches: Caches) -> None:
        self._pods = pods
        self._caches = caches

    def get(self, namespace: str, name: str) -> Pod | None:
        """The pod in the API; None if there is none."""
        return self._pods.get(namespace, name)

    def lookup(self, namespace: str, name: str, uid: str) -> Pod | None:
        """The pod of this UID from the node's cache. If the cache does not have it, the pod from the API."""
        cached = self._caches.node_pods.get(namespace, name)
        return cached if cached is not None and cached.ref.uid == uid else self.get(namespace, name)

    def is_cached(self, pod: PodRef | None) -> bool:
        """Whether the node's cache has this pod."""
        cached = self._caches.node_pods.get(pod.namespace, pod.name) if pod is not None else None
        return cached is not None and cached.ref == pod

    def refresh(self, pod: Pod) -> Pod | None:
        """The pod of this name as the API has it now; None if there is none."""
        return self.get(pod.ref.namespace, pod.ref.name)

    def list(self, namespace: str) -> PodList:
        """The pods of a namespace in the API."""
        return self._pods.list(namespace)

    def lookup_all(self, namespace: str) -> PodList:
        """The pods of a namespace from its cache. If that is not synced, those in the API."""
        cache = self._caches.namespace_cache(namespace)
        return cache.all() if cache.state.is_synced else self.list(namespace)

    def lookup_named(self, namespace: str, names: Collection[str]) -> PodList:
        """The pods that have one of these names, as by `lookup_all`."""
        cache = self._caches.namespace_cache(namespace)
        if not cache.state.is_synced:
            return self._pods.lookup_named(namespace, names)
        return list({pod.ref: pod for name in names for pod in cache.called(name)}.values())


class CachedTopologies:
    """Topologies that are looked up in the caches of namespaces."""

    def __init__(self, topologies: TopologyStore, caches: Caches) -> None:
        self._topologies = topologies
        self._caches = caches

    @property
    def enabled(self) -> bool:
        return self._topologies.enabled

    def list(self, namespace: str) -> TopologyList:
        """The topologies of a namespace in the API.

        Raises TopologiesUnknownError if the account may not list them.
        """
        return self._topologies.list(namespace)

    def lookup_all(self, namespace: str) -> TopologyList:
        """The topologies of a namespace from its cache. If that is not synced, those in the API."""
        cache = self._caches.namespace_cache(namespace)
        return cache.topologies() if cache.topologies_state.is_synced else self.list(namespace)


class CachedStore:
    """The store behind caches. VNIs and Leases are not cached, except for the allocator's numbers."""

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        vni_range: tuple[int, int],
        caches: Caches,
        *,
        use_topologies: bool = True,
        limits: LinkLimits = DEFAULT_LIMITS,
        topology_limits: TopologyLimits = DEFAULT_TOPOLOGY_LIMITS,
        annotation_limits: AnnotationLimits = DEFAULT_ANNOTATION_LIMITS,
        default_wiring: Wiring = DEFAULT_WIRING,
    ) -> None:
        self._store = store = ApiStore(
            api,
            namespace,
            vni_range,
            caches.vni_allocator,
            caches.formats,
            caches.addresses,
            use_topologies=use_topologies,
            limits=limits,
            topology_limits=topology_limits,
            annotation_limits=annotation_limits,
            default_wiring=default_wiring,
        )
        self._caches = caches
        self.limits = limits
        self.default_wiring = default_wiring
        self.links = CachedLinks(store.links, caches)
        self.vnis = store.vnis
        self.pods = CachedPods(store.pods, caches)
        self.topologies = CachedTopologies(store.topologies, caches)
        self.nodes = store.nodes
        self.formats = store.formats

    def patient(self, seconds: float) -> CachedStore:
        """The same store, whose requests are retried for `seconds`."""
        store = self._store
        return CachedStore(
            store.api.patient(seconds),
            store.namespace,
            self.vnis.vni_range,
            self._caches,
            use_topologies=store.topologies.enabled,
            limits=self.limits,
            topology_limits=store.topologies.limits,
            annotation_limits=store.pods.limits,
            default_wiring=self.default_wiring,
        )

    def ready(self) -> None:
        """Check that the API serves Ratchet's namespace and, if they are used, topologies.

        Raises RatchetError.
        """
        self._store.ready()

    def as_recorded(self, wanted: WantedLink) -> Link:
        """The wanted link under the name of its record; see `RecordFormats.as_recorded`."""
        return self.formats.as_recorded(wanted, self)

    def wanted_for(self, pod: Pod, reserved: frozenset[str]) -> Wanted:
        """The wanted links that concern a pod, from its namespace's cache.

        If that is not synced, those in the API.
        """
        namespace = pod.ref.namespace
        cache = self._caches.namespace_cache(namespace)
        if cache.is_synced:
            return cache.wanted_for(pod, reserved)
        return self.resolve(pod, self.pods.lookup_all(namespace), self.topologies.lookup_all(namespace), reserved)

    def resolve(
        self, pod: Pod, pods: Collection[Pod], topologies: Collection[Topology], reserved: frozenset[str]
    ) -> Wanted:
        """The wanted links of a pod by the declarations of all pods and topologies of its namespace."""
        with self._caches.resolving:
            return wanted_links(pods, reserved, topologies=topologies).of(pod)

    def watch_wanted(self, pod: Pod, reserved: frozenset[str], seconds: float, until: float) -> Iterator[Wanted]:
        """The wanted links that concern a pod, now and after each change, until `until` (monotonic seconds).

        The first are of a time when the pod declared what `pod` declares, or later. `reserved` are the interface names
        that no link may have. Waits up to `seconds` for forbidden topologies, then raises TopologiesUnknownError.
        """
        namespace = pod.ref.namespace
        cache = self._caches.namespace_cache(namespace)
        with self._caches.pods_notifier.subscribed([namespace]) as wait:
            if self._catches_up(cache, pod, seconds):
                yield cache.wanted_for(pod, reserved)
                while time.monotonic() < until:
                    with self._caches.waiting():
                        notified = wait(until)
                    if notified:
                        yield cache.wanted_for(pod, reserved)
                return
        pods, version = self._store.pods.list_with_version(namespace)
        yield self.resolve(pod, pods, self.topologies.list(namespace), reserved)
        for changed in self._store.pods.watch_lists(namespace, pods, version, until):
            yield self.resolve(pod, changed, self.topologies.lookup_all(namespace), reserved)

    def _catches_up(self, cache: NamespaceCache, pod: Pod, seconds: float) -> bool:
        """Wait until a namespace's cache is synced and has a pod with these declarations. Returns whether it has.

        Watches lag most when many pods start. Listing the namespace for each of them would delay the watches further.
        Forbidden topologies are waited for longer, up to `seconds`.
        """
        began = time.monotonic()
        with self._caches.pods_notifier.subscribed([pod.ref.namespace]) as wait:
            while True:
                current = cache.get(pod.ref.name)
                if cache.is_synced and current is not None and declares_alike(current, pod):
                    return True
                forbidden = isinstance(cache.topologies_state.cause, TopologiesUnknownError | ForbiddenError)
                until = began + (max(seconds, CATCH_UP_SECONDS) if forbidden else CATCH_UP_SECONDS)
                if time.monotonic() >= until:
                    return False
                with self._caches.waiting():
                    wait(until)
