"""The cache of a namespace's topologies and operations, which one informer keeps up to date."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ratchet.core.operations import Operations
from ratchet.store.namespace import NamespaceCache
from ratchet.store.topologies import Declared, OperationsChange, TopologyChange


class TopologyCache:
    """The topologies of a `NamespaceCache`, as the cache of their own informer.

    Operations are not kept, but passed to `operations_changed`.
    """

    def __init__(self, cache: NamespaceCache, operations_changed: Callable[[OperationsChange], None]) -> None:
        self._cache = cache
        self._operations_changed = operations_changed
        self.state = cache.topologies_state

    def replace(self, objects: Collection[Declared], version: str) -> list[TopologyChange]:  # noqa: ARG002
        operations = [one for one in objects if isinstance(one, Operations)]
        self._operations_changed(OperationsChange(operations[0] if operations else Operations({}, {})))
        return self._cache.replace_topologies([one for one in objects if not isinstance(one, Operations)])

    def apply(self, change: TopologyChange | OperationsChange) -> bool:
        if isinstance(change, TopologyChange):
            return self._cache.apply_topology(change)
        self._operations_changed(change)
        return True
