"""Creation of records: which node creates one, which nodes watch it, and which reads the cache saves."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ratchet.core import record_updates
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link, Side
from ratchet.core.naming import node_label
from ratchet.core.plan import Attempt
from ratchet.core.pod import Pod
from ratchet.errors import ConflictError
from ratchet.node import attach
from ratchet.node.attach import link_all
from ratchet.node.endpoint_progress import EndpointResult
from ratchet.store.api_errors import AlreadyExistsError
from ratchet.store.cached_store import CachedStore
from ratchet.store.caches import Caches, PodCache
from ratchet.store.codec.links import decode_link, encode_link
from ratchet.store.link_cache import LinkCache
from ratchet.store.links import Lookup
from ratchet.store.namespace import NamespaceCache
from ratchet.store.nodes import NodeAddressCache
from ratchet.store.notifier import KeyedNotifier
from ratchet.store.session import Json, Watched
from ratchet.store.store import ApiStore
from ratchet.store.vni import VniAllocator
from tests.support.links import NOW, joined, own, pod, veth, wanted

LINK = wanted()  # pair-pod:in2 is the lesser end, primary-pod:in1 the greater one
CREATED = joined(own(Side.PRIMARY), None)


class Api:
    """An API server that stores one object and counts the reads."""

    def __init__(self, stored: Json | None = None) -> None:
        self.stored = stored
        self.reads = 0

    def get(self, _: str) -> Json:
        self.reads += 1
        assert self.stored is not None
        return self.stored

    def create(self, _: str, body: Json) -> Json:
        if self.stored is not None:
            raise AlreadyExistsError("it exists")
        self.stored = body | {"metadata": body["metadata"] | {"uid": "u", "resourceVersion": "7"}}
        return self.stored


def stored(link: Link) -> Json:
    encoded = encode_link(link)
    return encoded | {"metadata": encoded["metadata"] | {"uid": "u", "resourceVersion": "5"}}


def records_with(api: Api, *pods: Pod, synced: bool = True) -> CachedStore:
    cache, links = NamespaceCache(), LinkCache()
    cache.replace(pods)
    cache.state.set_synced()
    if synced:
        links.state.set_synced()
    caches = Caches(links, PodCache(), lambda _: cache, KeyedNotifier(), VniAllocator(), NodeAddressCache())
    return CachedStore(api, "ratchet", (1, 2), caches)  # type: ignore[arg-type]


def on(node: str, name: str, **more: Any) -> Pod:
    return replace(pod(name), node=node, **more)


PRIMARY_POD, PAIR_POD = on("node-a", "primary-pod"), on("node-b", "pair-pod")


def test_a_record_that_no_watch_reported_counts_as_missing() -> None:
    api = Api()
    assert records_with(api).links.lookup_cached(LINK.name) == (None, False)
    assert api.reads == 0


def test_a_record_is_read_while_the_cache_is_not_synced() -> None:
    api = Api(stored(CREATED))
    assert records_with(api, synced=False).links.lookup_cached(LINK.name) == (CREATED, True)
    assert api.reads == 1


def test_a_record_of_another_node_is_read_when_the_create_conflicts() -> None:
    api = Api(stored(CREATED))
    store = records_with(api)
    with pytest.raises(ConflictError):
        store.links.create(joined(None, own(Side.PAIR)))
    assert api.reads == 1
    assert store.links.lookup_cached(LINK.name) == (CREATED, False)
    assert api.reads == 1


@pytest.mark.parametrize(
    ("peer", "labels"),
    [
        (PAIR_POD, {"node-a", "node-b"}),
        (replace(PAIR_POD, node="node-a"), {"node-a"}),
        (replace(PAIR_POD, node=""), {"node-a"}),
        (replace(PAIR_POD, deleting=True), {"node-a"}),
        (replace(PAIR_POD, phase="Failed"), {"node-a"}),
    ],
    ids=["scheduled", "on the same node", "not scheduled", "deleted", "finished"],
)
def test_a_new_record_has_the_labels_of_the_nodes_of_its_pods(peer: Pod, labels: set[str]) -> None:
    api = Api()
    created = records_with(api, PRIMARY_POD, peer).links.create(CREATED)
    assert api.stored is not None
    found = {label for label in api.stored["metadata"]["labels"] if label.startswith("node.ratchet/")}
    assert found == set(map(node_label, labels))
    assert created.expected_on == tuple(map(node_label, labels - {"node-a"}))


@pytest.mark.parametrize(
    ("side", "pods", "known", "synced", "left"),
    [
        (Side.PRIMARY, [PRIMARY_POD, PAIR_POD], None, True, True),
        (Side.PAIR, [PRIMARY_POD, PAIR_POD], None, True, False),
        (Side.PRIMARY, [PRIMARY_POD, PAIR_POD], CREATED, True, False),
        (Side.PRIMARY, [PRIMARY_POD, PAIR_POD], None, False, False),
        (Side.PRIMARY, [PRIMARY_POD, replace(PAIR_POD, node="node-a")], None, True, False),
        (Side.PRIMARY, [PRIMARY_POD, replace(PAIR_POD, node="")], None, True, False),
        (Side.PRIMARY, [PRIMARY_POD, replace(PAIR_POD, deleting=True)], None, True, False),
        (Side.PRIMARY, [PRIMARY_POD], None, True, False),
    ],
    ids=[
        "the greater end",
        "the lesser end",
        "the record is there",
        "the records are unknown",
        "one node",
        "the peer is not scheduled",
        "the peer is deleted",
        "no peer",
    ],
)
def test_the_node_of_the_lesser_endpoint_creates_the_record(
    side: Side, pods: list[Pod], known: Link | None, synced: bool, left: bool
) -> None:
    store = records_with(Api(), *pods, synced=synced)
    if known is not None:
        store.links.cache.put(replace(known, resource_version="5"))
    node = "node-a" if side is Side.PRIMARY else "node-b"
    assert store.links.is_created_by_peer(LINK, side, node) is left


def test_the_label_of_the_peers_node_stays_until_its_pod_joins() -> None:
    """A record has the labels of the nodes that have or expect one of its ends, and no others."""

    def nodes(link: Link) -> set[str]:
        return {label for label in encode_link(link)["metadata"]["labels"] if label.startswith("node.ratchet/")}

    a, b, c = (node_label(node) for node in ("node-a", "node-b", "node-c"))
    left, right = own(Side.PRIMARY, "node-a"), own(Side.PAIR, "node-b")
    created = replace(record_updates.join(None, LINK, Side.PRIMARY, left, NOW), expected_on=(b,))
    assert decode_link(stored(created)) == created
    both = record_updates.join(created, LINK, Side.PAIR, right, NOW)
    assert (nodes(created), nodes(both), both.expected_on) == ({a, b}, {a, b}, ())
    gone = record_updates.leave(both, Side.PAIR, right.container_id, "the runtime deleted the sandbox", NOW)
    assert (nodes(gone), gone.expected_on) == ({a, b}, (b,))
    assert decode_link(stored(gone)) == gone
    elsewhere = record_updates.join(gone, LINK, Side.PAIR, replace(right, container_id="new", node="node-c"), NOW)
    assert nodes(elsewhere) == {a, c}
    one_node = record_updates.join(created, LINK, Side.PAIR, replace(right, node="node-a"), NOW)
    assert nodes(record_updates.leave(one_node, Side.PAIR, right.container_id, "it was deleted", NOW)) == {a}


def test_a_cached_version_of_a_record_is_not_decoded_again() -> None:
    """An agent's watch also reports the agent's own writes."""
    own_write, news = (stored(CREATED) for _ in range(2))
    news["metadata"]["resourceVersion"] = "6"

    def watch_decoded(_path: str, _version: str, _seconds: float, decode: Any, **_query: str) -> Iterator[Any]:
        return map(decode, [Watched("MODIFIED", own_write), Watched("MODIFIED", news), Watched("DELETED", own_write)])

    links = LinkCache()
    links.put(replace(CREATED, resource_version="5"))
    store = ApiStore(SimpleNamespace(watch_decoded=watch_decoded))  # type: ignore[arg-type]
    changes = list(store.links.watch_of_node("node-a", "1", 1.0, links.has))
    assert [(change and change.link, version) for change, version in changes] == [
        (None, "5"),
        (CREATED, "6"),
        (None, "5"),
    ]
    assert [change is None for change, _ in changes] == [True, False, False]


def test_without_a_cache_the_peers_node_is_not_expected_to_create_the_record() -> None:
    store = ApiStore(Api())  # type: ignore[arg-type]
    assert not store.links.is_created_by_peer(LINK, Side.PRIMARY, "node-a")


# ADD


class FakeReconciler:
    """A reconciler in memory. If `created`, the peer's node creates the record while the ADD waits for it."""

    def __init__(self, *, created: bool) -> None:
        self.store = SimpleNamespace(links=self)
        self.reconciled: list[tuple[str, bool]] = []
        self._created = created
        self.waited = False

    def is_created_by_peer(self, link: Link, *_: object) -> bool:
        return link.name == LINK.name

    def lookup_cached(self, _: str) -> Lookup:
        return Lookup(CREATED if self._created and self.waited else None, certain=False)

    def watch_names(self, *given: Any) -> Iterator[set[str] | None]:
        yield None
        self.waited = True
        if self._created:
            yield {LINK.name}
        assert given[-1] <= time.monotonic() + attach.CREATION_SECONDS, "it waits for longer than a moment"

    def reconcile(self, attempt: Attempt, _: object, *, joined: bool) -> EndpointResult:
        self.reconciled.append((attempt.name, joined))
        record = replace(veth(), name=attempt.name)
        return EndpointResult(record, SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize("created", [True, False], ids=["the peer's node creates it", "nobody creates it"])
def test_an_add_uses_the_record_of_the_peers_node_or_creates_it_after_a_wait(created: bool) -> None:
    """The record exists when ADD ends, also if ADD does not wait for its peers."""
    reconciler = FakeReconciler(created=created)
    attempts = [
        Attempt(replace(LINK, name=name), Side.PRIMARY, own(Side.PRIMARY), index=1) for name in (LINK.name, "other")
    ]
    underlay: Any = SimpleNamespace(node="node-a")
    given: Any = reconciler
    found = link_all(given, attempts, underlay, time.monotonic(), require=False)
    assert [device is not None for _, device in found] == [True, True]
    assert reconciler.reconciled == [("other", False), (LINK.name, False)]
    assert reconciler.waited


class FakePeerlessReconciler(FakeReconciler):
    """A reconciler of ends without peers. The records named in `changed` differ from the reconciled ones."""

    def __init__(self, reported: Sequence[set[str] | None], changed: Collection[str]) -> None:
        super().__init__(created=False)
        self.reported = reported
        self.changed = changed

    def is_created_by_peer(self, *_: object) -> bool:
        return False

    def watch_names(self, *_: Any) -> Iterator[set[str] | None]:
        yield from self.reported

    def has_changed(self, record: Link) -> bool:
        return record.name in self.changed

    def reconcile(self, attempt: Attempt, underlay: object, *, joined: bool) -> EndpointResult:
        return replace(super().reconcile(attempt, underlay, joined=joined), device=None)


@pytest.mark.parametrize("reported", [None, {"one", "two"}], ids=["any may have changed", "both are named"])
def test_an_add_reconciles_again_only_the_ends_whose_records_have_changed(reported: set[str] | None) -> None:
    """The watch also reports the writes of the ADD itself, which need no further reconciliation."""
    reconciler = FakePeerlessReconciler([reported], {"two"})
    attempts = [Attempt(replace(LINK, name=name), Side.PRIMARY, own(Side.PRIMARY), index=1) for name in ("one", "two")]
    underlay: Any = SimpleNamespace(node="node-a")
    given: Any = reconciler
    link_all(given, attempts, underlay, time.monotonic(), require=False)
    assert sorted(reconciler.reconciled) == [("one", False), ("two", False), ("two", True)]


class FakeCables(FakePeerlessReconciler):
    """A reconciler of ends without peers: the link "cable" is in panel wiring, the others are not."""

    def __init__(self) -> None:
        super().__init__([{"cable"}], {"cable"})
        self.waits = 0

    def watch_names(self, *_: Any) -> Iterator[set[str] | None]:
        self.waits += 1
        yield from self.reported

    def reconcile(self, attempt: Attempt, underlay: object, *, joined: bool) -> EndpointResult:
        result = super().reconcile(attempt, underlay, joined=joined)
        wiring = Wiring.PANEL if attempt.name == "cable" else Wiring.DIRECT
        return replace(result, record=replace(result.record, wiring=wiring))


@pytest.mark.parametrize(
    ("names", "waits_for_cables", "waits"),
    [(["cable"], False, 0), (["cable"], True, 1), (["cable", "direct"], False, 1), (["direct"], False, 1)],
)
def test_an_add_waits_for_the_peers_of_cables_only_if_it_has_to(
    names: list[str], waits_for_cables: bool, waits: int
) -> None:
    reconciler: Any = FakeCables()
    attempts = [Attempt(replace(LINK, name=name), Side.PRIMARY, own(Side.PRIMARY), index=1) for name in names]
    underlay: Any = SimpleNamespace(node="node-a")
    until = time.monotonic()
    link_all(reconciler, attempts, underlay, until, require=False, waits_for_cables=waits_for_cables)
    assert reconciler.waits == waits


def test_a_record_has_changed_if_the_cache_has_another_version_or_none() -> None:
    store, link = records_with(Api()), replace(CREATED, resource_version="5")
    assert store.links.has_changed(link), "the cache has none"
    store.links.cache.put(link)
    assert not store.links.has_changed(link)
    store.links.cache.put(replace(link, resource_version="6"))
    assert store.links.has_changed(link)
    store.links.cache.drop(link.name)
    assert store.links.has_changed(replace(link, resource_version="6")), "what was dropped is not known any more"
