"""The agent's caches: newer versions replace older ones, and wanted links follow pods and topologies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest

from ratchet.core.intent import Wanted, wanted_links
from ratchet.core.intent.index import IntentIndex
from ratchet.core.model import End, Link
from ratchet.core.pod import Pod, PodRef, Topology
from ratchet.core.sandbox import Sandbox
from ratchet.errors import ApiUnavailableError, TopologiesUnknownError
from ratchet.store import cached_store as cached_store_module
from ratchet.store import intents as intents_module
from ratchet.store import link_cache
from ratchet.store.api_errors import ForbiddenError
from ratchet.store.cached_store import CachedStore
from ratchet.store.caches import Caches, PodCache
from ratchet.store.interface import Store
from ratchet.store.link_cache import LinkCache, is_newer
from ratchet.store.namespace import NamespaceCache
from ratchet.store.nodes import ADDRESSES_SECONDS, NodeAddressCache
from ratchet.store.notifier import KeyedNotifier
from ratchet.store.pods import PodChange
from ratchet.store.store import ApiStore
from ratchet.store.topologies import TopologyChange
from ratchet.store.vni import VniAllocator
from tests.support.links import NOW


def link(version: str, name: str = "l", ifname: str = "in1") -> Link:
    return Link(name, "ns", End("a", ifname), End("b", "in2"), uid="u", resource_version=version)


@pytest.fixture
def changed_links() -> list[str]:
    return []


@pytest.fixture
def known(changed_links: list[str]) -> LinkCache:
    return LinkCache(changed_links.append)


@pytest.mark.parametrize(
    ("version", "than", "newer"),
    [("2", "1", True), ("10", "9", True), ("1", "1", False), ("1", "2", False), ("7", "", True), ("a", "b", True)],
)
def test_resource_versions_are_compared_as_numbers(version: str, than: str, newer: bool) -> None:
    assert is_newer(version, than) is newer


def test_an_older_record_never_replaces_a_newer_one(known: LinkCache, changed_links: list[str]) -> None:
    """A lagging watch reports a version that this node's own write has replaced."""
    known.put(link("10"))
    known.put(link("9"))
    known.put(link("10"))
    found = known.get("l")
    assert found is not None
    assert found.resource_version == "10"
    assert changed_links == ["l"]


def test_an_older_version_does_not_restore_a_deleted_record(known: LinkCache) -> None:
    known.put(link("10"))
    known.delete("l", "12")
    known.put(link("11"))
    assert known.get("l") is None
    known.put(link("13"))
    assert known.get("l") is not None


def test_an_older_deletion_does_not_remove_a_newer_record(known: LinkCache, changed_links: list[str]) -> None:
    """This node left the link and joined it again before the watch reports the deletion."""
    known.put(link("13"))
    known.delete("l", "12")
    assert known.get("l") is not None
    assert changed_links == ["l"]


def test_a_dropped_record_is_accepted_again_at_the_same_version(known: LinkCache) -> None:
    known.put(link("10"))
    known.drop("l")
    assert known.get("l") is None
    known.put(link("10"))
    assert known.get("l") is not None


def test_the_number_of_remembered_deletions_is_bounded(known: LinkCache) -> None:
    for number in range(5000):
        known.delete(f"l{number}", "5")
    known.put(link("4", "l4999"))
    known.put(link("4", "l0"))
    assert known.names() == ["l0"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, changed_links: list[str]) -> LinkCache:
    """A synced cache of node a, which keeps two records in which no sandbox of the node has joined."""
    monkeypatch.setattr(link_cache, "EXPECTED_MOST", 2)
    cache = LinkCache(changed_links.append, "a")
    cache.state.set_synced()
    return cache


def held_by(node: str, version: str, name: str) -> Link:
    made = link(version, name)
    own = Sandbox(f"{name}-c", PodRef("ns", name, "u"), node, "/n", "10.0.0.1")
    return replace(made, primary=replace(made.primary, sandbox=own))


def test_the_number_of_records_that_are_only_expected_is_bounded(few: LinkCache, changed_links: list[str]) -> None:
    """The others are unknown: no create relies on their absence. The node's own records are all kept."""
    for number in range(4):
        few.put(held_by("b", "10", f"l{number}"))
        few.put(held_by("a", "10", f"own{number}"))
        assert few.expects_none("missing") == (number < 2)
    assert {one.name for one in few.all()} == {"l0", "l1", *(f"own{number}" for number in range(4))}
    assert not few.expects_none("l3")
    assert "l3" not in changed_links
    with few.notifier.subscribed(["l3"]) as wait:
        few.put(held_by("b", "11", "l3"))
        assert wait(time.monotonic() + 10) == {"l3"}
    few.put(held_by("a", "12", "l3"))
    few.delete("l0", "11")
    few.put(held_by("b", "11", "l2"))
    assert {"l1", "l2", "l3"} <= {one.name for one in few.all()}


def test_a_record_whose_sandbox_of_this_node_leaves_becomes_one_of_those(
    few: LinkCache, changed_links: list[str]
) -> None:
    for name in ("l0", "l1"):
        few.put(held_by("b", "10", name))
    few.put(held_by("a", "10", "own"))
    few.put(held_by("b", "11", "own"))
    assert few.get("own") is None
    assert not few.expects_none("own")
    assert changed_links.count("own") == 2


def test_a_list_leaves_out_what_the_cache_would_not_keep(few: LinkCache, changed_links: list[str]) -> None:
    """A cached record that such a list lacks may exist, so it is dropped and not deleted."""
    few.put(held_by("a", "10", "old"))
    listed = [held_by(node, "20", name) for name, node in [("l0", "b"), ("l1", "b"), ("l2", "b"), ("own", "a")]]
    kept = list(filter(few.listing(), listed))
    assert [one.name for one in kept] == ["l0", "l1", "own"]
    changed_links.clear()
    few.replace(kept, "20")
    assert not few.expects_none("l2")
    assert few.get("old") is None
    assert "old" in changed_links
    few.put(held_by("a", "15", "old"))  # the API still has it
    assert few.get("old") is not None


def test_a_complete_list_makes_the_cache_complete_again(few: LinkCache) -> None:
    for number in range(3):
        few.put(held_by("b", "10", f"l{number}"))
    few.replace(list(filter(few.listing(), [held_by("b", "20", "l2")])), "20")
    assert few.expects_none("l0")
    assert [one.name for one in few.all()] == ["l2"]


def test_a_subscriber_is_woken_only_by_its_own_keys() -> None:
    notifier = KeyedNotifier()
    with notifier.subscribed(["a", "b"]) as wait:
        notifier.notify("c")
        began = time.monotonic()
        assert wait(began + 0.05) == set()
        notifier.notify("b")
        notifier.notify("a")
        assert wait(time.monotonic() + 10) == {"a", "b"}
    notifier.notify("a")  # there is no subscriber, and nothing is kept for later ones


def test_a_subscriber_is_woken_from_another_thread() -> None:
    notifier = KeyedNotifier()
    with notifier.subscribed(["a"]) as wait:
        threading.Timer(0.05, notifier.notify, ["a"]).start()
        assert wait(time.monotonic() + 10) == {"a"}


def test_pods_are_cached_by_name_until_they_are_deleted() -> None:
    pods = PodCache()
    one = Pod(PodRef("ns", "one", "1"))
    assert pods.replace([one]) == []
    again = replace(one, ref=PodRef("ns", "one", "2"))
    pods.apply(PodChange(again, gone=False))
    assert pods.get("ns", "one") == again
    pods.apply(PodChange(again, gone=True))
    assert pods.all() == []


def test_pods_missing_from_a_new_list_are_deletions_even_if_their_name_is_reused() -> None:
    pods = PodCache()
    unchanged, predecessor, deleted = (Pod(PodRef("ns", name, "1")) for name in ("stays", "again", "goes"))
    pods.replace([unchanged, predecessor, deleted])
    successor = replace(predecessor, ref=PodRef("ns", "again", "2"))
    assert pods.replace([unchanged, successor]) == [PodChange(predecessor, gone=True), PodChange(deleted, gone=True)]
    assert pods.all() == [unchanged, successor]


def test_records_missing_from_a_new_list_are_removed_unless_they_are_newer(
    known: LinkCache, changed_links: list[str]
) -> None:
    known.replace([link("3", "a"), link("4", "b")], "5")
    known.put(link("9", "own"))
    changed_links.clear()
    known.replace([link("4", "b")], "8")
    assert known.names() == ["b", "own"]
    assert changed_links == ["a"]


def test_a_record_that_was_recreated_before_its_404_arrives_is_read_again(known: LinkCache) -> None:
    """GET answers 404, the record is created again, the watch reports it, and then the answer arrives."""
    known.put(link("12"))
    known.drop_missing("l")
    assert known.get("l") is None
    assert known.names() == ["l"], "whoever reconciles all links asks the API for it"
    known.put(link("12"))
    assert (known.get("l"), known.names()) == (link("12"), ["l"])


def test_a_record_that_is_missing_twice_is_forgotten(known: LinkCache) -> None:
    known.put(link("12"))
    known.drop_missing("l")
    known.drop_missing("l")
    assert known.names() == []


def test_a_record_that_was_dropped_after_a_rejected_write_is_read_again(known: LinkCache) -> None:
    known.put(link("12"))
    known.drop("l")
    assert known.names() == ["l"]
    known.delete("l", "13")
    assert known.names() == []


def test_records_that_are_not_watched_are_not_kept(known: LinkCache) -> None:
    """A call reads a record before its pod joins. No watch reports changes of that record."""
    sandboxes = [Sandbox(f"c-{node}", PodRef("ns", "a", "1"), node, "/netns", "192.0.2.1") for node in ("n", "m")]
    mine, others = (
        replace(link("1", one.node), primary=End("a", "in1", sandbox=one), pair=End("b", "in2")) for one in sandboxes
    )
    for one in (mine, others, link("1", "nobodys")):
        known.put(one)
    known.keep_watched("n")
    assert known.all() == [mine]
    assert known.of_node("n") == [mine]
    known.put(others)
    assert known.get("m") == others


# Wanted links of pods


DECLARING = {"ratchet": "true", "ratchet.primary": "true", "ratchet.local_ifname": "in1", "ratchet.pair_ifname": "in2"}


def declaring(name: str, uid: str = "1", pair: str = "b") -> Pod:
    return Pod(PodRef("ns", name, uid), {**DECLARING, "ratchet.pair_name": pair})


ETH0 = frozenset({"eth0"})
ALONE, BOTH = ["ns.a.in1.b.in2"], ["ns.a.in1.b.in2", "ns.a.in2.c.in1"]


def links_of(cache: NamespaceCache, pod: Pod) -> list[str]:
    return [one.link.name for one in cache.wanted_for(pod, ETH0).links]


def test_the_wanted_links_follow_the_pods() -> None:
    concerned: list[Collection[str]] = []
    cache = NamespaceCache(concerned.append)
    cache.replace([declaring("a")])
    cache.state.set_synced()
    assert links_of(cache, declaring("a")) == ["ns.a.in1.b.in2"]
    cache.apply(PodChange(declaring("c", pair="d"), gone=False))
    assert links_of(cache, declaring("c")) == ["ns.c.in1.d.in2"]
    cache.apply(PodChange(declaring("c", pair="a"), gone=False))
    assert links_of(cache, declaring("a")) == ["ns.a.in1.b.in2", "ns.a.in2.c.in1"]
    assert cache.apply(PodChange(replace(declaring("c", pair="a"), node="n", phase="Running"), gone=False))
    cache.apply(PodChange(declaring("a"), gone=True))
    assert links_of(cache, declaring("c")) == ["ns.a.in2.c.in1"]
    assert concerned == [{"a"}, {"c"}, {"a", "c"}, set(), {"a", "c"}]


def test_the_state_of_a_pod_concerns_the_pods_that_share_its_name() -> None:
    concerned: list[Collection[str]] = []
    cache = NamespaceCache(concerned.append)
    labels = {**declaring("a").labels, "ratchet.pod_name": "a"}
    old, new = (Pod(PodRef("ns", name, name), labels, created=NOW) for name in ("a-2", "a-1"))
    for one in (Pod(PodRef("ns", "b", "1"), {"ratchet": "true"}), old, new):
        cache.apply(PodChange(one, gone=False))
    assert cache.wanted_for(new, ETH0).superseding(new) == old
    concerned.clear()
    runs = replace(old, phase="Running", networked=NOW)
    assert cache.apply(PodChange(runs, gone=False))
    assert concerned == [{"b", "a-1", "a-2"}]
    assert cache.wanted_for(new, ETH0).superseding(new) is None


def test_the_first_lists_of_a_namespace_concern_all_its_pods() -> None:
    concerned: list[Collection[str]] = []
    cache = NamespaceCache(concerned.append, with_topologies=True)
    cache.replace([declaring("a"), declaring("c")])
    cache.state.set_synced()
    cache.replace_topologies([])
    cache.topologies_state.set_synced()
    cache.replace([declaring("a"), declaring("c", pair="e")])
    cache.replace_topologies([])
    assert concerned == [{"a", "c"}, {"a", "c"}, {"c"}, set()]


@pytest.mark.parametrize(
    ("text", "names"),
    [("- endpoints: [a:in1, b:in2]", {"a"}), ("- endpoints: [a:in1]", {"a", "c"}), ("[]", set())],
)
def test_a_topology_concerns_the_pods_that_it_names(text: str, names: set[str]) -> None:
    """If its names cannot be read, it concerns all pods."""
    concerned: list[Collection[str]] = []
    cache = NamespaceCache(concerned.append)
    cache.replace([Pod(PodRef("ns", name, "1"), {"ratchet": "true"}) for name in ("a", "c")])
    cache.wanted_for(declaring("a"), ETH0)
    cache.apply_topology(TopologyChange(Topology("ns", "lab", text), gone=False))
    cache.apply_topology(TopologyChange(Topology("ns", "lab", text), gone=True))
    assert concerned[1:] == [names, names]


def test_a_topology_without_links_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    cache = NamespaceCache()
    lab = Topology("ns", "lab", "", fault="it has no key links")
    for topology in (lab, replace(lab, text="x"), replace(lab, name="other"), Topology("ns", "lab", "[]"), lab):
        cache.apply_topology(TopologyChange(topology, gone=False))
    logged = [
        f'topology without links topology=ns/{name} cause="it has no key links"' for name in ("lab", "other", "lab")
    ]
    assert caplog.messages == logged


STARTING = Pod(PodRef("ns", "b", "1"), {"ratchet": "true"})
CHAIN = (declaring("a"), STARTING, declaring("c", pair="d"))
LAB = Topology("ns", "lab", "- endpoints: [a:in3, e:in2]")


@pytest.fixture
def chain() -> NamespaceCache:
    cache = NamespaceCache()
    cache.replace(CHAIN)
    cache.state.set_synced()
    return cache


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pods for which the wanted links are computed."""
    names: list[str] = []
    compute = IntentIndex.wanted_for

    def recorded(index: IntentIndex, pod: Pod) -> Wanted:
        names.append(pod.ref.name)
        return compute(index, pod)

    monkeypatch.setattr(IntentIndex, "wanted_for", recorded)
    return names


def test_the_wanted_links_of_a_pod_are_computed_once(chain: NamespaceCache, computed: list[str]) -> None:
    """The ADD and the reconciliation read the pod from different caches."""
    wanted = chain.wanted_for(declaring("a"), ETH0)
    assert chain.wanted_for(replace(declaring("a"), node="n", phase="Running"), frozenset({"eth0"})) is wanted
    chain.wanted_for(STARTING, ETH0)
    assert computed == ["a", "b"]
    assert chain.apply(PodChange(declaring("a"), gone=False)) is False, "nothing has changed"
    chain.wanted_for(declaring("a"), ETH0)
    assert computed == ["a", "b"]


CHANGES: dict[str, Callable[[NamespaceCache], object]] = {
    "declaration of a pod": lambda cache: cache.apply(PodChange(declaring("c", pair="a"), gone=False)),
    "node and phase of a peer": lambda cache: cache.apply(
        PodChange(replace(STARTING, node="n", phase="Running"), gone=False)
    ),
    "deletion of a peer": lambda cache: cache.apply(PodChange(STARTING, gone=True)),
    "deletion of the pod": lambda cache: cache.apply(PodChange(declaring("a"), gone=True)),
    "resync of the pods": lambda cache: cache.replace([declaring("a"), declaring("c", pair="a")]),
    "resync of the same pods": lambda cache: cache.replace(CHAIN),
    "topology": lambda cache: cache.apply_topology(TopologyChange(LAB, gone=False)),
    "resync of the topologies": lambda cache: cache.replace_topologies([LAB]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_the_cache_recompute_the_wanted_links(
    change: str, chain: NamespaceCache, computed: list[str]
) -> None:
    before = chain.wanted_for(declaring("a"), ETH0)
    CHANGES[change](chain)
    after = chain.wanted_for(declaring("a"), ETH0)
    assert computed == ["a", "a"]
    expected = wanted_links(chain.all(), ETH0, topologies=chain.topologies())
    assert after.ends_of(declaring("a")) == expected.ends_of(declaring("a"))
    assert (after.links == before.links) is (change == "resync of the same pods")


def test_the_deletion_of_a_topology_makes_the_cache_recompute_the_wanted_links(chain: NamespaceCache) -> None:
    before = links_of(chain, declaring("a"))
    chain.apply_topology(TopologyChange(LAB, gone=False))
    assert links_of(chain, declaring("a")) != before
    chain.apply_topology(TopologyChange(LAB, gone=True))
    assert links_of(chain, declaring("a")) == before


def test_results_are_cached_by_reserved_names_and_by_the_names_of_the_pod(chain: NamespaceCache) -> None:
    named = replace(STARTING, labels={"ratchet": "true", "ratchet.pod_name": "c"})
    assert not chain.wanted_for(declaring("a"), ETH0).refused
    assert chain.wanted_for(declaring("a"), frozenset({"in1"})).refused.keys() == {"1"}
    assert "c" in chain.wanted_for(named, ETH0).holders
    assert "c" not in chain.wanted_for(STARTING, ETH0).holders


def test_the_number_of_cached_results_is_bounded(
    monkeypatch: pytest.MonkeyPatch, chain: NamespaceCache, computed: list[str]
) -> None:
    monkeypatch.setattr(intents_module, "RESULTS_KEPT", 2)
    for name in ("a", "b", "c", "c", "b", "a"):
        chain.wanted_for(Pod(PodRef("ns", name, "1"), {"ratchet": "true"}), ETH0)
    assert computed == ["a", "b", "c", "a"]


def test_the_links_in_cached_results_are_bounded(
    monkeypatch: pytest.MonkeyPatch, chain: NamespaceCache, computed: list[str]
) -> None:
    monkeypatch.setattr(intents_module, "LINKS_KEPT", 0)
    for _ in range(2):
        chain.wanted_for(declaring("a"), ETH0)  # the latest result is kept
        chain.wanted_for(STARTING, ETH0)
    assert computed == ["a", STARTING.ref.name] * 2


def test_no_thread_gets_a_result_from_before_its_own_change(chain: NamespaceCache) -> None:
    stop, failures = threading.Event(), list[BaseException]()

    def ask() -> None:
        try:
            while not stop.is_set():
                assert links_of(chain, declaring("a")) in (ALONE, BOTH)
        except BaseException as failure:  # noqa: BLE001  # reported by the test
            failures.append(failure)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(200):
            pair, expected = ("a", BOTH) if number % 2 else ("d", ALONE)
            chain.apply(PodChange(declaring("c", pair=pair), gone=False))
            assert links_of(chain, declaring("a")) == expected
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


class FakeApi:
    """An API that counts how often a namespace is listed."""

    def __init__(self, pods: list[Pod]) -> None:
        self.pods = pods
        self.lists = 0

    def list_decoded(self, path: str, decode: Callable[[Any], Any], **_: str) -> tuple[list[Any], str]:
        self.lists += 1
        pods = [
            {"metadata": {"namespace": "ns", "name": pod.ref.name, "uid": pod.ref.uid, "labels": dict(pod.labels)}}
            for pod in self.pods
        ]
        return [decode(pod) for pod in pods], "7"


def recorded(api: FakeApi, pods: NamespaceCache, notifier: KeyedNotifier) -> CachedStore:
    caches = Caches(LinkCache(), PodCache(), lambda _: pods, notifier, VniAllocator(), NodeAddressCache())
    return CachedStore(api, "ratchet", (1, 2), caches)  # type: ignore[arg-type]


def test_a_list_asks_the_api_and_a_lookup_the_synced_cache() -> None:
    """Removals are decided on a list from the API, because a cache may be older."""
    cache, api = NamespaceCache(), FakeApi([declaring("b")])
    cache.replace([declaring("a")])
    cache.state.set_synced()
    store = recorded(api, cache, KeyedNotifier())
    assert [pod.ref.name for pod in store.pods.lookup_all("ns")] == ["a"]
    assert [pod.ref.name for pod in store.pods.lookup_named("ns", ["a", "b"])] == ["a"]
    assert store.topologies.lookup_all("ns") == []
    assert api.lists == 0
    assert [pod.ref.name for pod in store.pods.list("ns")] == ["b"]
    store.topologies.list("ns")
    assert api.lists == 2


def test_a_lookup_asks_the_api_while_the_cache_is_not_synced() -> None:
    cache, api = NamespaceCache(with_topologies=True), FakeApi([declaring("b")])
    cache.replace([declaring("a")])
    store = recorded(api, cache, KeyedNotifier())
    assert [pod.ref.name for pod in store.pods.lookup_all("ns")] == ["b"]
    assert [pod.ref.name for pod in store.pods.lookup_named("ns", ["a", "b"])] == ["b"]
    store.topologies.lookup_all("ns")
    assert api.lists == 3


def test_watch_wanted_waits_for_a_cache_that_lags() -> None:
    pods, notifier, api = NamespaceCache(), KeyedNotifier(), FakeApi([])
    pods.replace([declaring("a", uid="old")])
    pods.state.set_synced()

    def update_cache() -> None:
        pods.apply(PodChange(declaring("a"), gone=False))
        notifier.notify("ns")

    threading.Timer(0.05, update_cache).start()
    wanted = next(recorded(api, pods, notifier).watch_wanted(declaring("a"), ETH0, 0, 0))
    assert [link.primary.ref.uid for link in wanted.links if link.primary] == ["1"]
    assert api.lists == 0


def test_the_wanted_links_follow_the_topologies_once_these_are_synced() -> None:
    known, a = NamespaceCache(with_topologies=True), Pod(PodRef("ns", "a", "1"), {"ratchet": "true"})
    known.replace([a])
    known.state.set_synced()
    before = known.is_synced
    lab = Topology("ns", "lab", "- endpoints: [a:in1, b:in2]")
    known.replace_topologies([lab])
    known.topologies_state.set_synced()
    assert (before, known.is_synced) == (False, True)
    assert links_of(known, a) == ["ns.a.in1.b.in2"]
    assert not known.apply_topology(TopologyChange(lab, gone=False)), "nothing has changed"
    assert known.apply_topology(TopologyChange(replace(lab, text="- endpoints: [a:in1, c:in2]"), gone=False))
    assert links_of(known, a) == ["ns.a.in1.c.in2"]
    assert known.apply_topology(TopologyChange(lab, gone=True))
    assert links_of(known, a) == []
    assert not known.apply_topology(TopologyChange(lab, gone=True))


FORBIDDEN = TopologiesUnknownError("cannot read the topologies of namespace ns: forbidden")


def test_watch_wanted_waits_for_forbidden_topologies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_store_module, "CATCH_UP_SECONDS", 0.0)
    pods, notifier, api = NamespaceCache(with_topologies=True), KeyedNotifier(), FakeApi([])
    pods.replace([declaring("a")])
    pods.state.set_synced()
    pods.topologies_state.set_unknown(FORBIDDEN)

    def update_cache() -> None:
        pods.replace_topologies([Topology("ns", "lab", "- endpoints: [a:in3, d:in2]")])
        pods.topologies_state.set_synced()
        notifier.notify("ns")

    threading.Timer(0.05, update_cache).start()
    wanted = next(recorded(api, pods, notifier).watch_wanted(declaring("a"), ETH0, 10, 0))
    assert [one.link.name for one in wanted.links] == ["ns.a.in1.b.in2", "ns.a.in3.d.in2"]
    assert api.lists == 0


class ForbiddingApi(FakeApi):
    """An API that rejects the first `refusals` lists of topologies with 403."""

    def __init__(self, pods: list[Pod], refusals: int) -> None:
        super().__init__(pods)
        self.refusals = refusals

    def patient(self, _: float) -> ForbiddingApi:
        return self

    def list_decoded(self, path: str, decode: Callable[[Any], Any], **query: str) -> tuple[list[Any], str]:
        if "configmaps" not in path:
            return super().list_decoded(path, decode, **query)
        self.refusals -= 1
        if self.refusals >= 0:
            raise ForbiddenError("cannot GET configmaps: forbidden")
        return [], "7"


def test_the_wanted_links_are_unknown_while_topologies_are_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_store_module, "CATCH_UP_SECONDS", 0.0)
    pods, reserved = NamespaceCache(with_topologies=True), frozenset({"eth0"})
    pods.replace([declaring("a")])
    pods.state.set_synced()
    store = recorded(ForbiddingApi([declaring("a")], 3), pods, KeyedNotifier())
    for ask in (
        lambda: next(store.watch_wanted(declaring("a"), reserved, 0, 0)),
        lambda: store.wanted_for(declaring("a"), reserved),
        lambda: store.topologies.list("ns"),
    ):
        with pytest.raises(
            TopologiesUnknownError, match="cannot read the topologies of namespace ns: forbidden"
        ) as error:
            ask()
        assert error.value.code == 11
    assert [one.link.name for one in store.wanted_for(declaring("a"), reserved).links] == ["ns.a.in1.b.in2"]


@pytest.mark.parametrize("host", ["agent", "daemonless"])
def test_disabled_topologies_are_never_listed(host: str) -> None:
    api: Any = ForbiddingApi([declaring("a")], 10**9)
    caches = Caches(
        LinkCache(), PodCache(), lambda _: NamespaceCache(), KeyedNotifier(), VniAllocator(), NodeAddressCache()
    )
    hosts: dict[str, Callable[[], Store]] = {
        "agent": lambda: CachedStore(api, "ratchet", (1, 2), caches, use_topologies=False).patient(1),
        "daemonless": lambda: ApiStore(api, use_topologies=False),
    }
    store = hosts[host]()
    assert store.topologies.lookup_all("ns") == []
    assert [one.link.name for one in next(store.watch_wanted(declaring("a"), frozenset(), 0, 0)).links]
    assert api.refusals == 10**9


def test_watch_wanted_asks_the_api_if_the_cache_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_store_module, "CATCH_UP_SECONDS", 0.05)
    pods, api = NamespaceCache(), FakeApi([declaring("a")])
    pods.replace([declaring("a", uid="old")])
    pods.state.set_synced()
    wanted = next(recorded(api, pods, KeyedNotifier()).watch_wanted(declaring("a"), ETH0, 0, 0))
    assert [link.primary.ref.uid for link in wanted.links if link.primary] == ["1"]
    assert api.lists == 2  # of pods, and of topologies


def test_watch_wanted_asks_the_api_if_the_cache_has_earlier_labels_of_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_store_module, "CATCH_UP_SECONDS", 0.05)
    now = declaring("a")
    pods, api = NamespaceCache(), FakeApi([now])
    pods.replace([replace(now, labels={**now.labels, "ratchet.pair_name": "c"})])
    pods.state.set_synced()
    wanted = next(recorded(api, pods, KeyedNotifier()).watch_wanted(now, ETH0, 0, 0))
    assert [one.link.name for one in wanted.links] == ["ns.a.in1.b.in2"]
    assert api.lists == 2  # of pods, and of topologies


def test_versions_older_than_a_dropped_one_are_ignored(known: LinkCache) -> None:
    """A write on version 10 was rejected. A lagging watch that reports version 9 does not help."""
    known.put(link("10"))
    known.drop("l")
    known.put(link("9"))
    assert known.get("l") is None
    known.put(link("11"))
    assert known.get("l") is not None
    known.drop("l")
    known.put(link("opaque"))
    assert known.get("l") is not None


def test_addresses_of_a_node_stay_cached_while_the_api_is_unreachable() -> None:
    now = 0.0
    addresses = NodeAddressCache(lambda: now)

    def unreachable(_: str) -> tuple[str, ...]:
        raise ApiUnavailableError("cannot reach the Kubernetes API")

    with pytest.raises(ApiUnavailableError):
        addresses.of("n", unreachable)
    assert addresses.of("n", lambda _: ("10.0.0.1",)) == ("10.0.0.1",)
    now = ADDRESSES_SECONDS + 1
    assert addresses.of("n", unreachable) == ("10.0.0.1",)
    assert addresses.of("n", lambda _: ("10.0.0.2",)) == ("10.0.0.2",)


def test_addresses_of_a_node_are_read_again_on_request() -> None:
    addresses = NodeAddressCache(lambda: 0.0)
    assert addresses.of("n", lambda _: ("10.0.0.1",)) == ("10.0.0.1",)
    assert addresses.of("n", lambda _: ("10.0.0.2",)) == ("10.0.0.1",), "an ADD takes what is cached"
    assert addresses.refresh("n", lambda _: ("10.0.0.1",)) is False
    assert addresses.refresh("n", lambda _: ("10.0.0.2",)) is True
    assert addresses.of("n", lambda _: ("10.0.0.3",)) == ("10.0.0.2",)


def test_an_empty_list_of_addresses_is_not_cached() -> None:
    addresses = NodeAddressCache(lambda: 0.0)
    assert addresses.of("n", lambda _: ()) == ()
    assert addresses.of("n", lambda _: ("10.0.0.1",)) == ("10.0.0.1",)
    assert addresses.refresh("n", lambda _: ()) is True
    assert addresses.of("n", lambda _: ("10.0.0.2",)) == ("10.0.0.2",)


def test_an_unreachable_api_does_not_change_the_cached_addresses() -> None:
    addresses = NodeAddressCache(lambda: 0.0)

    def unreachable(_: str) -> tuple[str, ...]:
        raise ApiUnavailableError("cannot reach the Kubernetes API")

    addresses.of("n", lambda _: ("10.0.0.1",))
    with pytest.raises(ApiUnavailableError):
        addresses.refresh("n", unreachable)
    assert addresses.of("n", unreachable) == ("10.0.0.1",)
