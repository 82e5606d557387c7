"""The watches that the agent works from: its own links, its node's pods, and of the namespaces that matter the pods
and the topologies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from ratchet.errors import RatchetError
from ratchet.store.apiserver import ForbiddenError
from ratchet.store.follow import follow
from ratchet.store.known import Bell, KnownAddresses, KnownLinks, KnownPods, Memory
from ratchet.store.numbers import Numbers
from ratchet.store.records import PodChange, Records

log = logging.getLogger(__name__)

FOREVER = float("inf")
FAULT_SECONDS = 2.0


class Watches:
    """Keeps what is known up to date, in threads that end with the process.

    `memory` is what is known. `tend` is told each link that has changed, `tend_namespace` each namespace in which a pod
    or a topology has, `tend_pod` each pod of this node that has gone. A call that waits for a change does so within
    `waiting`.
    """

    def __init__(
        self,
        records: Records,
        node: str,
        tend: Callable[[str], None],
        tend_namespace: Callable[[str], None],
        tend_pod: Callable[[PodChange], None],
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._records = records
        self._node = node
        self._tend_namespace = tend_namespace
        self._tend_pod = tend_pod
        self.memory = Memory(
            links=KnownLinks(tend),
            node_pods=KnownPods(),
            namespace_pods=self.namespace_pods,
            pods_bell=Bell(),
            numbers=Numbers(),
            addresses=KnownAddresses(),
            waiting=waiting,
        )
        self.links_listed = threading.Event()
        self._lock = threading.Lock()
        self._namespaces: dict[str, KnownPods] = {}

    def start(self) -> None:
        _in_thread("links", self._follow_links)
        _in_thread("node-pods", self._follow_node_pods)

    def namespace_pods(self, namespace: str) -> KnownPods:
        """The pods and topologies of a namespace, followed from the first question on."""
        with self._lock:
            known = self._namespaces.get(namespace)
            if known is not None:
                return known
            known = self._namespaces[namespace] = KnownPods(with_topologies=True)
            try:
                _in_thread(f"pods-of-{namespace}", lambda: self._follow_namespace(namespace, known))
                _in_thread(f"topologies-of-{namespace}", lambda: self._follow_topologies(namespace, known))
            except RuntimeError:  # the system has no more threads for us: nobody would follow them
                del self._namespaces[namespace]
                raise
            return known

    def keep_namespaces(self, wanted: set[str]) -> None:
        """Follow the pods of these namespaces and of no others."""
        with self._lock:
            for namespace in set(self._namespaces) - wanted:
                del self._namespaces[namespace]
        for namespace in wanted:
            self.namespace_pods(namespace)

    def list_links(self) -> str:
        """Read all of this node's records anew; the version from which a watch goes on. Raises RatchetError."""
        links, malformed, version = self._records.links_of_node(self._node)
        for error in malformed:
            log.error("%s", error)
        for link in links:
            self.memory.links.put(link)
        listed = {link.name for link in links}
        for name in self.memory.links.names():
            if name not in listed:
                self.memory.links.gone(name, version)
        self.links_listed.set()
        return version

    def _follow_links(self) -> None:
        for change in follow(
            lambda version, seconds: self._records.node_link_changes(self._node, version, seconds),
            self.list_links,
            self.list_links(),
            FOREVER,
        ):
            if change is None or not change.name:
                continue
            if change.link is None:
                self.memory.links.gone(change.name, change.version)
            else:
                self.memory.links.put(change.link)

    def _follow_node_pods(self) -> None:
        def renew() -> str:
            pods, version = self._records.pods_on_node(self._node)
            self.memory.node_pods.replace(pods)
            return version

        for change in follow(
            lambda version, seconds: self._records.node_pod_changes(self._node, version, seconds),
            renew,
            renew(),
            FOREVER,
        ):
            if change is not None:
                self.memory.node_pods.apply(change)
                if change.gone:
                    self._tend_pod(change)

    def _follow_namespace(self, namespace: str, known: KnownPods) -> None:
        def renew() -> str:
            pods, version = self._records.pods_and_version(namespace)
            known.replace(pods)
            self._told(namespace)
            return version

        for change in follow(
            lambda version, seconds: self._records.pod_changes(namespace, version, seconds),
            renew,
            renew(),
            FOREVER,
        ):
            if self._namespaces.get(namespace) is not known:
                return
            if change is not None and known.apply(change):
                self._told(namespace)

    def _follow_topologies(self, namespace: str, known: KnownPods) -> None:
        def renew() -> str:
            topologies, version = self._records.topologies_and_version(namespace)
            known.replace_topologies(topologies)
            self._told(namespace)
            return version

        try:
            version = renew()
        except ForbiddenError as error:
            log.warning("no topologies are looked at in namespace %s: %s", namespace, error)
            known.replace_topologies(())
            return
        for change in follow(
            lambda version, seconds: self._records.topology_changes(namespace, version, seconds),
            renew,
            version,
            FOREVER,
        ):
            if self._namespaces.get(namespace) is not known:
                return
            if change is not None and known.apply_topology(change):
                self._told(namespace)

    def _told(self, namespace: str) -> None:
        self.memory.pods_bell.ring(namespace)
        self._tend_namespace(namespace)


def _in_thread(name: str, follow_it: Callable[[], None]) -> None:
    """Have something followed for as long as the process lives, or until it is over by itself."""

    def run() -> None:
        while True:
            try:
                follow_it()
            except RatchetError as error:
                log.warning("cannot follow %s: %s; trying again", name, error)
            except Exception:
                log.exception("a fault in following %s", name)
            else:
                return
            time.sleep(FAULT_SECONDS)

    threading.Thread(target=run, name=f"watch-{name}", daemon=True).start()
