"""The memory for declarations that the namespaces of a node share, and limits on the lists in pods' annotations."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core.declared_memory import memory_of
from ratchet.core.fair_share import fair_share
from ratchet.core.intent import LINKS
from ratchet.core.intent.annotation_limits import (
    ListAdmission,
    admit_lists,
    declares_alike,
    must_list_pods,
    with_bounded_links,
)
from ratchet.core.intent.resolve import declared_links
from ratchet.core.intent.topologies import drawn_links
from ratchet.core.intent.yaml_source import SIZE_MOST
from ratchet.core.limits import AnnotationLimits
from ratchet.core.pod import Pod, PodRef, Topology
from ratchet.errors import InvalidIntentError
from ratchet.store.declaration_budget import DeclarationBudget, Member
from ratchet.store.namespace import NamespaceCache
from ratchet.store.pods import PodChange
from ratchet.store.topologies import TopologyChange
from tests.support.links import NOW

ETH0 = frozenset({"eth0"})


def pod(name: str, age: int = 0, *, peer: str = "x", padding: int = 0, namespace: str = "ns") -> Pod:
    """A pod with a list of one link. An older one has a greater age."""
    text = f"- {{peer: {peer}, ifname: in1, peer_ifname: {name}}}\n#{'.' * padding}"
    ref = PodRef(namespace, name, name)
    return Pod(ref, {"ratchet": "true"}, {LINKS: text}, created=NOW - timedelta(hours=age))


def withheld(pods: list[Pod]) -> list[str]:
    return sorted(one.ref.name for one in pods if one.withheld is not None)


# Fair shares


@pytest.mark.parametrize(
    ("demands", "share"),
    [([], 100), ([40, 60], 100), ([40, 61], 60), ([10, 500, 500], 45), ([500, 500, 500, 500], 25)],
)
def test_those_that_want_the_most_get_less_first(demands: list[int], share: int) -> None:
    assert fair_share(demands, 100) == share


@given(st.lists(st.integers(0, 100), max_size=8))
def test_shares_fit_and_none_is_less_than_an_equal_part(demands: list[int]) -> None:
    share = fair_share(demands, 100)
    assert sum(min(one, share) for one in demands) <= 100
    assert share >= 100 // max(1, len(demands))


# Lists in annotations


def test_the_youngest_lists_over_the_limit_are_withheld() -> None:
    size = len(pod("a").annotations[LINKS])
    pods = [pod("new", 1), pod("old", 3), pod("mid", 2), Pod(PodRef("ns", "none", "none"))]
    found = admit_lists(pods, AnnotationLimits(2 * size + 4))
    assert withheld(found) == ["new"]
    refused = declared_links(next(one for one in found if one.withheld), ETH0)
    assert isinstance(refused, InvalidIntentError)
    assert "annotation_bytes_per_namespace" in str(refused)
    assert "annotation_bytes_per_namespace" in refused.details


def test_a_list_is_admitted_again_only_from_a_new_list_of_the_pods() -> None:
    limits = AnnotationLimits(len(pod("new").annotations[LINKS]))
    found = admit_lists([pod("old", 2), pod("new", 1)], limits)
    assert not must_list_pods(found, limits)
    left = [one for one in found if one.ref.name == "new"]
    assert withheld(admit_lists(left, limits)) == ["new"]  # its text is not kept
    assert must_list_pods(left, limits)


def test_the_order_of_a_list_does_not_matter() -> None:
    limits = AnnotationLimits(150)
    pods = [pod(f"p{age}", age, padding=10 * (age % 3)) for age in range(9)]
    for order in (pods, pods[::-1], pods[4:] + pods[:4]):
        admission = ListAdmission(limits)
        for one in order:
            admission.add(one)
        assert withheld(admission.admitted()) == withheld(admit_lists(pods, limits))


def test_a_list_that_is_too_long_takes_no_room_of_others() -> None:
    long = with_bounded_links(pod("long", 9, padding=SIZE_MOST))
    assert long.withheld
    assert LINKS not in long.annotations
    assert withheld(admit_lists([long, pod("a")], AnnotationLimits(100))) == ["long"]


@pytest.mark.parametrize(
    ("read", "alike"),
    [
        (pod("a"), True),
        (replace(pod("a"), node="b", phase="Running"), True),
        (replace(pod("a"), ref=PodRef("ns", "a", "another")), False),
        (replace(pod("a"), labels={"ratchet": "true", "ratchet.pod_name": "c"}), False),
        (replace(pod("a"), annotations={}), False),
        (replace(pod("a"), annotations={**pod("a").annotations, "ratchet.wait": "5"}), False),
        (pod("a", peer="y"), False),
        (with_bounded_links(pod("a", padding=SIZE_MOST)), False),
    ],
)
@pytest.mark.parametrize("limit", [10**6, 1])
def test_a_kept_pod_declares_what_was_read_also_if_its_list_is_withheld(read: Pod, limit: int, *, alike: bool) -> None:
    (kept,) = admit_lists([pod("a")], AnnotationLimits(limit))
    assert (kept.withheld is not None) == (limit == 1)
    assert declares_alike(kept, read) is alike


def test_an_invalid_list_keeps_nothing_that_was_parsed() -> None:
    """A traceback with the error would keep all frames, and with them the whole list."""
    error = declared_links(Pod(PodRef("ns", "a", "a"), {"ratchet": "true"}, {LINKS: "[" + "a, " * 1000 + "]"}), ETH0)
    assert isinstance(error, InvalidIntentError)
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


ADDRESSES = ", ".join(f"10.0.{number}.1/24" for number in range(16))


@pytest.mark.parametrize(
    "item",
    [
        "- endpoints: [p{0}:x, q{0}:x]\n",
        "- endpoints:\n  - p{0}:x\n  - q{0}:x\n",
        "- x\n",
        "- endpoints: [p{0}:x, q{0}:x]\n  mtu: 1{0}\n  mac: ['02:00:00:00:00:{0}', null]\n",
        "- endpoints: [p{0}:x, q{0}:x]\n  addresses: [[" + ADDRESSES.replace("10.0", "1{0}.{0}") + "], null]\n",
        "- endpoints: [p{0}:x, q{0}:x]\n  routes: [[{{to: 10.{0}.1.0/24}}, {{to: 10.{0}.2.0/24}}], null]\n",
        "- endpoints: [p{0}:x, q{0}:x]\n  sysctls: {{net.ipv4.conf.IFNAME.rp_filter: {0}}}\n",
    ],
)
def test_links_take_no_more_memory_than_their_text_tells(item: str) -> None:
    topology = Topology("ns", "lab", "".join(item.format(number) for number in range(10, 90)))
    tracemalloc.start()
    try:
        drawn = drawn_links(topology, ("eth0",))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(drawn) == 80
    assert taken < memory_of(topology.text) == topology.memory


# The budget


def fill(cache: NamespaceCache, count: int, namespace: str) -> None:
    for number in range(count):
        cache.apply(PodChange(pod(f"p{number}", count - number, namespace=namespace), gone=False))


MEMORY = pod("p0").list_memory


def test_a_namespace_over_its_share_withholds_its_youngest_lists_and_others_nothing() -> None:
    budget = DeclarationBudget(10 * MEMORY)
    large, small = (NamespaceCache(budget=budget) for _ in range(2))
    fill(large, 9, "large")
    assert withheld(large.all()) == []
    fill(small, 4, "small")
    assert withheld(large.all()) == ["p6", "p7", "p8"]
    assert withheld(small.all()) == []
    refused = large.wanted_for(pod("p8", namespace="large"), ETH0).refused["p8"]
    assert "declaration_memory" in str(refused)


def test_a_namespace_gets_its_lists_back_once_there_is_room() -> None:
    budget = DeclarationBudget(10 * MEMORY)
    large, small = (NamespaceCache(budget=budget) for _ in range(2))
    fill(large, 9, "large")
    fill(small, 4, "small")
    assert large.withholds_lists()
    assert not large.lacks_lists()
    small.close()
    assert large.lacks_lists()
    fill(large, 9, "large")
    assert withheld(large.all()) == []
    assert not large.withholds_lists()


def test_topologies_and_lists_of_a_namespace_share_its_memory() -> None:
    text = "- endpoints: [a:x, b:x]"
    budget = DeclarationBudget(3 * MEMORY + memory_of(text))
    cache = NamespaceCache(with_topologies=True, budget=budget)
    fill(cache, 4, "ns")
    assert withheld(cache.all()) == ["p3"]
    cache.apply_topology(TopologyChange(Topology("ns", "lab", text, NOW), gone=False))
    assert withheld(cache.all()) == ["p3"]
    cache.apply_topology(TopologyChange(Topology("ns", "lab2", "#" * (MEMORY - 100), NOW), gone=False))
    assert withheld(cache.all()) == ["p2", "p3"]


class RecordedBudget(DeclarationBudget):
    """A budget that records what was claimed last."""

    claimed = 0

    def claim(self, member: Member, need: int) -> int:
        self.claimed = need
        return super().claim(member, need)


@pytest.mark.parametrize(("total", "sets"), [(8, 2), (7, 1)])
def test_the_declarations_are_kept_for_each_set_of_reserved_names_that_fits(total: int, sets: int) -> None:
    budget = RecordedBudget(total * MEMORY)
    cache = NamespaceCache(budget=budget)
    fill(cache, 4, "ns")
    for reserved in (ETH0, frozenset({"net1"})):
        wanted = cache.wanted_for(pod("p0"), reserved)
        assert len(wanted.links) == 1
    assert budget.claimed == sets * 4 * MEMORY
    assert withheld(cache.all()) == []
