"""Indexes of the pods and topologies of one namespace: the cost of a pod's links is its own.

`wanted_links` reads a whole namespace. An agent needs one pod's links at a time, at every pod start. So it keeps the
declarations of pods and topologies, indexed by their names and endpoints. The links of a pod are resolved from its
*dependencies* only:

1. the links that name the pod, and what it declares itself;
2. of each of these, the links that claim one of its endpoints: two links on one interface collide;
3. of each pod that declares one of these, the contested links and the errors of topologies that name it. They can
   refuse the pod, and with it all its declarations. A link is contested if another declaration claims one of its
   endpoints, or if both its ends are one pod.

Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from ratchet.core.intent.pods import names_of
from ratchet.core.intent.resolve import Declared, declared_links, is_eligible, resolve
from ratchet.core.intent.topologies import DrawnLink, Faulty, drawn_links
from ratchet.core.intent.wanted import Wanted, count_links
from ratchet.core.model import SIDES, Link
from ratchet.core.naming import Endpoint
from ratchet.core.pod import Pod, Topology
from ratchet.errors import InvalidIntentError

Key = TypeVar("Key")
Item = TypeVar("Item")

# A unit that is accepted or refused as a whole: the declarations of a pod, by its name; or one line of a topology.
PodSource = str
TopologySource = tuple[str, int]
Source = PodSource | TopologySource


class PodIndex:
    """The pods of one namespace, by all their names."""

    def __init__(self) -> None:
        self._pods: dict[str, Pod] = {}
        self._called: dict[str, tuple[str, ...]] = {}

    def get(self, name: str) -> Pod | None:
        """The pod with this own name."""
        return self._pods.get(name)

    def all(self) -> list[Pod]:
        return list(self._pods.values())

    def called(self, name: str) -> list[Pod]:
        """The pods with a name: their own, or `ratchet.pod_name`."""
        return [self._pods[one] for one in self._called.get(name, ())]

    def aliases(self, name: str) -> set[str]:
        """The name, and every other name of the pods that have it."""
        return {name}.union(*(names_of(one) for one in self.called(name)))

    def put(self, pod: Pod) -> None:
        self.remove(pod.ref.name)
        self._pods[pod.ref.name] = pod
        for name in names_of(pod):
            _add(self._called, name, pod.ref.name)

    def remove(self, name: str) -> None:
        pod = self._pods.pop(name, None)
        if pod is not None:
            for one in names_of(pod):
                _discard(self._called, one, name)


class IntentIndex:
    """The declarations of the pods of a `PodIndex` and of topologies.

    `reserved` are interface names of the runtime.

    The owner of the pods reports each change of a pod (`pod_changed`) and of a topology (`topology_changed`).
    """

    def __init__(self, pods: PodIndex, topologies: Iterable[Topology], reserved: Collection[str]) -> None:
        self._pods = pods
        self._reserved = {*reserved, "lo"}
        self._declared: dict[PodSource, Declared] = {}
        self._drawn: dict[str, tuple[DrawnLink, ...]] = {}
        self._by_name: dict[str, tuple[Source, ...]] = {}
        self._by_endpoint: dict[Endpoint, tuple[Source, ...]] = {}
        self._errors_by_name: dict[str, tuple[TopologySource, ...]] = {}
        # Errors of lines, or of whole topologies, in which no pod's name can be read.
        self._unreadable: dict[TopologySource, Faulty] = {}
        for topology in topologies:
            self.topology_changed(topology.name, topology)
        for pod in pods.all():
            self.pod_changed(pod.ref.name)

    # Changes

    def pod_changed(self, name: str) -> None:
        """Read the declarations of a pod. A pod that is gone has none."""
        self._unlink(name, self._links(name))
        self._declared.pop(name, None)
        pod = self._pods.get(name)
        if pod is not None and is_eligible(pod):
            self._declared[name] = declared_links(pod, self._reserved)
            self._link(name, self._links(name))

    def topology_changed(self, name: str, topology: Topology | None) -> None:
        """Read the links of a topology; None if it was deleted."""
        for number, drawn in enumerate(self._drawn.pop(name, ())):
            source = (name, number)
            if isinstance(drawn, Faulty):
                self._unreadable.pop(source, None)
                for one in drawn.names or ():
                    _discard(self._errors_by_name, one, source)
            else:
                self._unlink(source, [drawn.link])
        if topology is None:
            return
        self._drawn[name] = drawn_links(topology, self._reserved)
        for number, drawn in enumerate(self._drawn[name]):
            source = (name, number)
            if not isinstance(drawn, Faulty):
                self._link(source, [drawn.link])
            elif drawn.names is None:
                self._unreadable[source] = drawn
            else:
                for one in drawn.names:
                    _add(self._errors_by_name, one, source)

    def _link(self, source: Source, links: Iterable[Link]) -> None:
        for name, ifname in _endpoints(links):
            if source not in self._by_name.get(name, ()):
                _add(self._by_name, name, source)
            _add(self._by_endpoint, (name, ifname), source)  # twice, if one source declares a link twice

    def _unlink(self, source: Source, links: Iterable[Link]) -> None:
        for name, ifname in _endpoints(links):
            _discard(self._by_name, name, source)
            _discard(self._by_endpoint, (name, ifname), source)

    # Questions

    def wanted_for(self, pod: Pod) -> Wanted:
        """The wanted links for one pod of the index: its ends, its error, the pod that has its name.

        Of `pod` itself, only the names count (`names_of`).
        """
        sources, errors = self._dependencies(pod)
        declared = {source: self._declared[source] for source in sources if isinstance(source, PodSource)}
        names = {name for source in sources for name, _ in _endpoints(self._links(source))} | names_of(pod)
        declarers = [one for name in declared if (one := self._pods.get(name)) is not None]
        names.update(name for one in declarers for name in names_of(one))
        called = {one.ref.name: one for name in names for one in self._pods.called(name)}
        drawn = sorted({source for source in sources if not isinstance(source, PodSource)} | errors)
        return resolve(
            filter(is_eligible, called.values()),
            ((one, declared[one.ref.name]) for one in declarers),
            (self._drawn[topology][number] for topology, number in drawn),
            count_links(self._by_endpoint),
        )

    def dependents(self, names: Iterable[str]) -> set[str]:
        """The names of pods whose links can depend on the pods of these names or on their declarations."""
        changed = set(names)
        found = {one.ref.name for name in changed for one in self._pods.called(name)}
        pending: list[Source] = [source for name in changed for source in self._by_name.get(name, ())]
        pending += [name for name in found if name in self._declared]
        visited = set[Source]()
        while pending:
            source = pending.pop()
            if source in visited:
                continue
            visited.add(source)
            pods = {one.ref.name for name, _ in _endpoints(self._links(source)) for one in self._pods.called(name)}
            found |= pods
            for link in self._links(source):
                pending += self._claiming(link)
                if self._is_contested(link):
                    pending += [name for name in pods if name in self._declared]
        return found

    def names_drawn(self, topology: str) -> set[str] | None:
        """The names of pods in a topology; None if one cannot be read."""
        found = set[str]()
        for drawn in self._drawn.get(topology, ()):
            if not isinstance(drawn, Faulty):
                found.update(name for name, _ in _endpoints([drawn.link]))
            elif drawn.names is None:
                return None
            else:
                found |= drawn.names
        return found

    def _dependencies(self, pod: Pod) -> tuple[set[Source], set[TopologySource]]:
        """The sources on which the links of a pod depend, and the errors of topologies among them."""
        found, errors = set[Source](), set[TopologySource](self._unreadable)
        # The pod's own declaration is visited last: links that are found by then need no check (`_may_refuse`).
        pending: list[Source] = [pod.ref.name] if pod.ref.name in self._declared else []
        for name in names_of(pod):
            pending += self._by_name.get(name, ())
            errors.update(self._errors_by_name.get(name, ()))
        while pending:
            source = pending.pop()
            if source in found:
                continue
            found.add(source)
            for link in self._links(source):
                pending += self._claiming(link)
            declarer = self._pods.get(source) if isinstance(source, PodSource) else None
            for name in names_of(declarer) if declarer is not None else ():
                errors.update(self._errors_by_name.get(name, ()))
                pending += [one for one in self._by_name.get(name, ()) if one not in found and self._may_refuse(one)]
        return found, errors

    def _may_refuse(self, source: Source) -> bool:
        """Whether a source can refuse a pod that it names."""
        return any(self._is_contested(link) for link in self._links(source))

    def _is_contested(self, link: Link) -> bool:
        if len(self._claiming(link)) > len(SIDES):
            return True
        primary, pair = ({one.ref for one in self._pods.called(end.name)} for end in (link.primary, link.pair))
        return not primary.isdisjoint(pair)

    def _claiming(self, link: Link) -> list[Source]:
        """The sources that claim an endpoint of a link, by any name of its pod; one for each claim."""
        found = list[Source]()
        for end in (link.primary, link.pair):
            for alias in self._pods.aliases(end.name):
                found += self._by_endpoint.get((alias, end.ifname), ())
        return found

    def _links(self, source: Source) -> list[Link]:
        if not isinstance(source, PodSource):
            topology, number = source
            drawn = self._drawn[topology][number]
            return [] if isinstance(drawn, Faulty) else [drawn.link]
        declared = self._declared.get(source, ())
        return [] if isinstance(declared, InvalidIntentError) else [one.link for one in declared]


def _endpoints(links: Iterable[Link]) -> Iterator[Endpoint]:
    for link in links:
        yield link.primary.name, link.primary.ifname
        yield link.pair.name, link.pair.ifname


def _add(index: dict[Key, tuple[Item, ...]], key: Key, item: Item) -> None:
    index[key] = (*index.get(key, ()), item)


def _discard(index: dict[Key, tuple[Item, ...]], key: Key, item: Item) -> None:
    left = tuple(one for one in index.get(key, ()) if one != item)
    if left:
        index[key] = left
    else:
        index.pop(key, None)
