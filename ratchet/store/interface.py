"""The store as commands and reconcilers use it.

`ApiStore` asks the API. `CachedStore` answers from the agent's caches where it can.

| method | answer |
|---|---|
| `get`, `list` | from the API, as it is now |
| `lookup...` | from a cache if it is synced and has the object, else from the API |
| `lookup_cached` | as `lookup`, but the absence of an object from a synced cache counts too |
| `known` | a cached object; None if there is none or no cache. No request |

Unknown is not absent: a cache that is not synced answers nothing. Before anything is removed, use `get` or `list`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from ratchet.core.intent import Wanted, WantedLink
from ratchet.core.kinds import Wiring
from ratchet.core.limits import LinkLimits
from ratchet.core.model import Link, Side
from ratchet.core.pod import Pod, Topology
from ratchet.store.formats import RecordFormats
from ratchet.store.links import Lookup
from ratchet.store.nodes import NodeStore
from ratchet.store.vni_leases import VniLeases


class Links(Protocol):
    """The records. Writes are conditional on the version that was read, and raise ConflictError."""

    def get(self, name: str) -> Link | None: ...

    def lookup(self, name: str) -> Lookup: ...

    def lookup_cached(self, name: str) -> Lookup: ...

    def known(self, name: str) -> Link | None: ...

    def has_changed(self, record: Link) -> bool: ...

    def is_created_by_peer(self, wanted: Link, side: Side, node: str) -> bool: ...

    def has_earlier(self) -> bool: ...

    def watch_names(
        self, namespace: str, pod: str, names: Collection[str], version: str, until: float
    ) -> Iterator[set[str] | None]: ...

    def create(self, link: Link) -> Link: ...

    def update(self, before: Link, after: Link) -> Link: ...

    def leave_newer(self, name: str, container_id: str) -> None: ...

    def delete(self, link: Link) -> None: ...


class Pods(Protocol):
    """The pods."""

    def get(self, namespace: str, name: str) -> Pod | None: ...

    def lookup(self, namespace: str, name: str, uid: str) -> Pod | None: ...

    def refresh(self, pod: Pod) -> Pod | None: ...

    def list(self, namespace: str) -> Sequence[Pod]: ...

    def lookup_all(self, namespace: str) -> Sequence[Pod]: ...

    def lookup_named(self, namespace: str, names: Collection[str]) -> Sequence[Pod]: ...


class Topologies(Protocol):
    """The topologies. Each method raises TopologiesUnknownError if the account may not list them."""

    def list(self, namespace: str) -> Sequence[Topology]: ...

    def lookup_all(self, namespace: str) -> Sequence[Topology]: ...


class Store(Protocol):
    """One store per kind of object, and the questions that need several of them."""

    @property
    def links(self) -> Links: ...

    @property
    def vnis(self) -> VniLeases: ...

    @property
    def pods(self) -> Pods: ...

    @property
    def topologies(self) -> Topologies: ...

    @property
    def nodes(self) -> NodeStore: ...

    @property
    def formats(self) -> RecordFormats: ...

    @property
    def limits(self) -> LinkLimits: ...

    @property
    def default_wiring(self) -> Wiring: ...

    def ready(self) -> None: ...

    def as_recorded(self, wanted: WantedLink) -> Link: ...

    def watch_wanted(self, pod: Pod, reserved: frozenset[str], seconds: float, until: float) -> Iterator[Wanted]: ...
