"""Limits on the topologies of a namespace: which are withheld, what is kept of them, and what that does to pods."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core.intent import names_every_pod, wanted_links
from ratchet.core.intent.topology_limits import (
    WITHHELD_MOST,
    Admission,
    admit,
    may_name,
    must_be_listed,
    with_bounded_text,
)
from ratchet.core.intent.yaml_source import SIZE_MOST
from ratchet.core.limits import TopologyLimits
from ratchet.core.pod import Pod, PodRef, Topology
from ratchet.errors import InvalidIntentError
from ratchet.store.namespace import NamespaceCache
from ratchet.store.topologies import TopologyChange
from tests.support.links import NOW

LIMITS = TopologyLimits(topologies=3, links=4, size=400)


def topology(age: int, links: int = 1, padding: int = 0, name: str = "") -> Topology:
    """A topology of so many links, each between two pods of its own. Its name does not follow its age."""
    name = name or f"t{-age % 7}-{age}"
    items = [f"- endpoints: [{name}-{index}-a:x, {name}-{index}-b:x]" for index in range(links)]
    text = "\n".join([*items, f"#{'.' * padding}"])
    return Topology("ns", name, text, NOW - timedelta(hours=age))


def withheld(topologies: list[Topology], limits: TopologyLimits = LIMITS) -> dict[str, str]:
    """The names of the withheld topologies, each with the setting of its limit, if it is over one."""
    found = [one for one in admit(topologies, limits) if one.withheld]
    assert all(one.text == "" for one in found)
    causes = {one.name: one.withheld.cause for one in found if one.withheld}
    return {name: cause.partition("(")[2].partition(")")[0] for name, cause in causes.items()}


@pytest.mark.parametrize(
    ("topologies", "expected"),
    [
        ([topology(3), topology(2), topology(1)], {}),
        ([topology(1, name="new"), topology(4), topology(3), topology(2)], {"new": "topologies_per_namespace"}),
        ([topology(1, name="new"), topology(3, 3), topology(2, 1)], {"new": "topology_links_per_namespace"}),
        (
            [topology(1, name="new"), topology(2, 5, name="old")],
            {"old": "topology_links_per_namespace", "new": "topology_links_per_namespace"},
        ),
        ([topology(1, name="new"), topology(2, 1, 350)], {"new": "topology_bytes_per_namespace"}),
        (
            [topology(1, name="b"), topology(1, 3, name="a"), topology(1, name="c")],
            {"c": "topology_links_per_namespace"},
        ),
    ],
    ids=["within the limits", "topologies", "links", "links of the oldest", "bytes", "the same age"],
)
def test_a_topology_is_withheld_if_it_and_all_older_ones_exceed_a_limit(
    topologies: list[Topology], expected: dict[str, str]
) -> None:
    assert withheld(topologies) == expected


some = st.builds(topology, st.integers(1, 5), st.integers(0, 3), st.integers(0, 200), st.sampled_from("abcdefgh"))


@given(st.lists(some, max_size=8, unique_by=lambda one: one.name), st.randoms(use_true_random=False))
def test_the_order_of_a_list_does_not_change_what_is_withheld(found: list[Topology], order: random.Random) -> None:
    """Texts are dropped while the list is read, and topologies are admitted again after each change."""
    shuffled = order.sample(found, len(found))
    admission = Admission(LIMITS)
    for one in shuffled:
        admission.add(one)
    assert admission.admitted() == admit(found, LIMITS) == admit(admit(shuffled, LIMITS), LIMITS)


def test_an_escaped_text_counts_with_the_most_links_that_it_may_have() -> None:
    escaped = replace(topology(2, name="old"), text='- "endpoint\\x73": [a:x, b:x]')
    assert withheld([escaped]) == {"old": "topology_links_per_namespace"}


def test_a_text_that_is_too_long_is_dropped_and_takes_no_room_of_others() -> None:
    long = with_bounded_text(topology(2, padding=SIZE_MOST, name="long"))
    assert (long.text, long.withheld and long.withheld.cause) == ("", f"longer than {SIZE_MOST} bytes")
    assert withheld([long, topology(1, 4)]) == {"long": ""}
    assert with_bounded_text(topology(1)) == topology(1)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- endpoints: [router-a:x, router-b:x", {"router-a", "router-b"}),
        ('[{"endpoints":["router-a:x","Alias_1:y"]}]', {"router-a", "Alias_1"}),
        ("- endpoints: [xrouter-ax:y]", set()),
        (r'- endpoints: ["\x72outer-a:x"]', {"router-a", "router-b", "Alias_1"}),
    ],
)
def test_a_withheld_topology_names_the_pods_that_its_text_spells(text: str, named: set[str]) -> None:
    (found,) = admit([replace(topology(1), text=text)], TopologyLimits(topologies=0))
    assert found.withheld
    assert {name for name in ("router-a", "router-b", "Alias_1") if may_name(found.withheld, name)} == named


def test_few_names_that_are_not_in_the_text_count_as_named() -> None:
    (found,) = admit([topology(1, links=256)], TopologyLimits(topologies=0))
    assert found.withheld
    named = [name for name in map("other-{}".format, range(10_000)) if may_name(found.withheld, name)]
    assert len(named) <= 200


def test_a_change_of_a_withheld_topology_is_noticed() -> None:
    (before,), (after,) = (
        admit([replace(topology(1), text=text)], TopologyLimits(topologies=0)) for text in ("# a", "# b")
    )
    assert before != after


def test_a_withheld_topology_rejects_the_pods_that_it_names_and_keeps_all_links() -> None:
    new = topology(1, name="new")
    topologies = admit([topology(3, 3), topology(2, 1), new], LIMITS)
    pods = [Pod(PodRef("ns", name, name), {"ratchet": "true"}) for name in ("new-0-a", "other")]
    (error,) = wanted_links(pods, topologies=topologies).refused.values()
    assert str(error) == (
        "cannot link pod ns/new-0-a: topology ns/new: over the limit of 4 links in the topologies of a namespace "
        f"(topology_links_per_namespace); this one has 1 links, {len(new.text)} bytes"
    )
    assert isinstance(error, InvalidIntentError)
    assert error.details == "delete older topologies of the namespace, or set topology_links_per_namespace on all nodes"
    assert [names_every_pod(one, {"eth0"}) for one in topologies] == [True, True, False]


def test_more_withheld_topologies_than_are_kept_count_as_one_that_names_every_pod() -> None:
    limits = TopologyLimits(topologies=1)
    found = admit([topology(age) for age in range(WITHHELD_MOST + 100)], limits)
    assert len(found) == 1 + WITHHELD_MOST
    assert [one for one in found if one.withheld and may_name(one.withheld, "any")] == found[-1:]
    assert not must_be_listed(found, limits)
    assert must_be_listed(found[:5] + found[6:], limits)


def test_topologies_that_are_not_kept_are_listed_again_once_one_of_them_is_deleted() -> None:
    """A list of them is large: without a change it is not repeated."""
    limits = TopologyLimits(topologies=1)
    cache = NamespaceCache(with_topologies=True, limits=limits)
    known = [topology(age) for age in range(WITHHELD_MOST + 100)]
    cache.replace_topologies(known)
    assert not cache.lacks_topologies()
    cache.apply_topology(TopologyChange(known[0], gone=True))
    assert cache.lacks_topologies()
    cache.replace_topologies(known[99:])
    assert not cache.lacks_topologies()


def test_a_withheld_topology_is_listed_again_once_older_ones_have_made_room() -> None:
    old, middle, new = topology(3, 3), topology(2, 1), topology(1, 1)
    cache = NamespaceCache(with_topologies=True, limits=LIMITS)
    cache.replace_topologies([new, middle, old])
    assert (cache.withholds_topologies(), cache.lacks_topologies()) == (True, False)
    cache.apply_topology(TopologyChange(middle, gone=True))
    assert (cache.withholds_topologies(), cache.lacks_topologies()) == (True, True)
    cache.replace_topologies([new, old])
    assert {one.name: one for one in cache.topologies()} == {one.name: one for one in (old, new)}
    assert (cache.withholds_topologies(), cache.lacks_topologies()) == (False, False)


def test_an_older_topology_that_grows_withholds_younger_ones() -> None:
    old, new = topology(3, 1, name="old"), topology(1, 1)
    cache = NamespaceCache(with_topologies=True, limits=LIMITS)
    cache.replace_topologies([new, old])
    cache.apply_topology(TopologyChange(topology(3, 4, name="old"), gone=False))
    assert [one.name for one in cache.topologies() if one.withheld] == [new.name]
