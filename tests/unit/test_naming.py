"""Names: readable, valid for Kubernetes, and unique."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ratchet.core.model import Link, Side
from ratchet.core.naming import (
    IFINDEX_LEAST,
    IFINDEX_PAIRS,
    Endpoint,
    alias_record_names,
    earlier_record_names,
    end_mac_address,
    in_order,
    namespace_part,
    node_label,
    ordered_record_name,
    pod_label,
    record_name,
    reserved_ifindex,
    vni_lease_name,
    vni_of_lease,
)
from ratchet.core.schemas import CURRENT_SCHEMA, EARLIER_SCHEMA
from tests.support.links import wanted
from tests.support.strategies import dns_labels, ifnames, links, meant_names, node_names, pod_names

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")

long_names = st.text("ab.", min_size=200, max_size=253).map(lambda text: f"a{text[:-2]}b")
few_names = st.sampled_from(["a", "b", "a.b", "a-b", "A", "a.a", "a_b"])
names = st.one_of(meant_names, long_names, few_names)
few_ifnames = st.sampled_from(["a", "a.b", "a_b", "a-b", "b"])
endpoints = st.tuples(names, ifnames | few_ifnames)
few_indexes = st.sets(st.integers(IFINDEX_LEAST, IFINDEX_LEAST + 9))
namespaces = st.one_of(dns_labels, st.sampled_from(["a", "b"]))
cables = st.tuples(namespaces, endpoints, endpoints)
Cable = tuple[str, Endpoint, Endpoint]


def test_a_record_name_is_readable() -> None:
    ends = (("primary-pod", "in1"), ("pair-pod", "in2"))
    assert record_name("default", *ends) == "default.pair-pod.in2.primary-pod.in1"
    assert ordered_record_name("default", *ends) == "default.primary-pod.in1.pair-pod.in2"


@pytest.mark.parametrize(
    ("cable", "readable"),
    [
        (("default", ("Web_1", "in1"), ("b", "in2")), "default.web-1.in1.b.in2."),
        (("default", ("a.b", "in1"), ("c", "in2")), "default.a-b.in1.c.in2."),
        (("default", ("a", "in_1"), ("b", "in-")), "default.a.in-1.b.in."),
        (("default", ("a" * 200, "in1"), ("b" * 63, "in2")), f"default.{'a' * 40}.in1.{'b' * 40}.in2."),
    ],
)
def test_a_name_with_invalid_or_long_parts_is_fitted_and_gets_a_hash(cable: Cable, readable: str) -> None:
    name = record_name(*cable)
    assert re.fullmatch(re.escape(readable) + "[0-9a-f]{12}", name)


@given(cables)
def test_a_records_name_is_a_dns_subdomain(cable: Cable) -> None:
    name = record_name(*cable)
    assert len(name) <= 253
    assert SUBDOMAIN.fullmatch(name)


@given(cables)
def test_a_record_name_begins_with_its_namespace(cable: Cable) -> None:
    namespace = cable[0]
    part = namespace_part(record_name(*cable))
    assert part == namespace or (len(part) <= 40 < len(namespace) and namespace.startswith(part))


@given(cables)
def test_a_record_name_does_not_depend_on_the_order_of_the_endpoints(cable: Cable) -> None:
    namespace, one, other = cable
    assert record_name(namespace, one, other) == record_name(namespace, other, one)
    assert in_order(one, other) == in_order(other, one)


def test_endpoints_are_ordered_by_bytes() -> None:
    assert in_order(("é", "in1"), ("z", "in1")) == (("z", "in1"), ("é", "in1"))
    assert in_order(("B", "in1"), ("a", "in1")) == (("B", "in1"), ("a", "in1"))
    assert in_order(("a", "in2"), ("a", "in10")) == (("a", "in10"), ("a", "in2"))


@given(cables, cables)
@example(("n", ("a.b", "c"), ("d", "e")), ("n", ("a", "b.c"), ("d", "e")))
@example(("n", ("a.b", "c"), ("d", "e")), ("n", ("a-b", "c"), ("d", "e")))
@example(("n", ("A", "c"), ("d", "e")), ("n", ("a", "c"), ("d", "e")))
@example(("n", ("a", "c_"), ("d", "e")), ("n", ("a", "c"), ("d", "e")))
@example(("n", ("a" * 250, "c"), ("d", "e")), ("n", ("a" * 249, "c"), ("d", "e")))
def test_two_links_have_different_record_names(one: Cable, other: Cable) -> None:
    assume((one[0], in_order(*one[1:])) != (other[0], in_order(*other[1:])))
    assert record_name(*one) != record_name(*other)


def test_record_names_cover_every_name_of_the_pods() -> None:
    one, other = [("x", "in1"), ("alias", "in1")], [("y", "in1")]
    assert alias_record_names("n", one, other) == {"n.x.in1.y.in1", "n.alias.in1.y.in1"}
    reversed_names = {"n.y.in1.x.in1", "n.y.in1.alias.in1"}
    assert earlier_record_names("n", one, other) == alias_record_names("n", one, other) | reversed_names


def check_label(label: str, prefix: str) -> None:
    before, _, name = label.partition("/")
    assert before == prefix
    assert SUBDOMAIN.fullmatch(before)
    assert len(name) <= 63
    assert LABEL_NAME.fullmatch(name)


@given(node_names)
def test_a_nodes_label_is_valid(node: str) -> None:
    check_label(node_label(node), "node.ratchet")


@given(dns_labels, st.one_of(pod_names, long_names.map(lambda name: re.sub(r"\.+", ".", name))))
def test_a_pods_label_is_valid(namespace: str, pod: str) -> None:
    check_label(pod_label(namespace, pod), "pod.ratchet")


def test_a_short_label_is_readable_and_a_long_one_is_unique() -> None:
    assert node_label("kube-minion-1") == "node.ratchet/kube-minion-1"
    assert pod_label("default", "primary-pod") == "pod.ratchet/default.primary-pod"
    long = "n" * 100
    assert node_label(f"{long}1") != node_label(f"{long}2")
    assert pod_label("default", f"{long}1") != pod_label("default", f"{long}2")
    assert pod_label("a", "b") != pod_label("b", "a")


@given(st.integers(1, (1 << 24) - 1))
def test_a_lease_is_named_after_its_vni(vni: int) -> None:
    assert vni_of_lease(vni_lease_name(vni)) == vni
    assert SUBDOMAIN.fullmatch(vni_lease_name(vni))


@pytest.mark.parametrize("name", ["", "vni-", "vni-0", "vni-011", "vni-1a", "vni--1", "node-1", "xvni-1", "vni-1\n"])
def test_the_name_of_another_lease_has_no_vni(name: str) -> None:
    assert vni_of_lease(name) is None


@given(links)
def test_a_mac_address_is_unique_and_does_not_depend_on_the_primary(link: Link) -> None:
    assume((link.primary.name, link.primary.ifname) != (link.pair.name, link.pair.ifname))
    link = replace(link, schema=CURRENT_SCHEMA)
    macs = [end_mac_address(link, side) for side in Side]
    assert len(set(macs)) == 2
    assert macs == [end_mac_address(link.swapped(), side.other) for side in Side]
    assert all(re.fullmatch(r"02(:[0-9a-f]{2}){5}", mac) for mac in macs)


def test_a_link_of_schema_1_keeps_its_mac_addresses() -> None:
    link = replace(wanted(), name="default.primary-pod.in1.pair-pod.in2", schema=EARLIER_SCHEMA)
    digest = hashlib.sha256(b"default.primary-pod.in1.pair-pod.in2\0primary").digest()[:5]
    assert end_mac_address(link, Side.PRIMARY) == "02:" + digest.hex(":")


@given(links, few_indexes, few_indexes)
def test_the_ends_of_a_link_have_different_free_ifindexes(link: Link, mine: set[int], theirs: set[int]) -> None:
    """Each pod has other indexes in use, and chooses without the other one."""
    assume((link.primary.name, link.primary.ifname) != (link.pair.name, link.pair.ifname))
    chosen = [reserved_ifindex(link, link.primary, mine), reserved_ifindex(link.swapped(), link.pair, theirs)]
    again = [
        reserved_ifindex(link, link.primary, {*mine, chosen[0]}),
        reserved_ifindex(link, link.pair, {*theirs, chosen[1]}),
    ]
    assert not {chosen[0], again[0]} & {chosen[1], again[1]}
    assert all(IFINDEX_LEAST <= index < IFINDEX_LEAST + 2 * IFINDEX_PAIRS for index in (*chosen, *again))
    assert {chosen[0], again[0]}.isdisjoint(mine) and chosen[0] != again[0]
    assert {chosen[1], again[1]}.isdisjoint(theirs) and chosen[1] != again[1]


SIDES = [
    (("a", "eth1"), ("b", "eth1"), 0),  # by the pod's name
    (("b", "eth1"), ("a", "eth1"), 1),
    (("a", "eth1"), ("a", "eth2"), 0),  # two interfaces of one pod, by the interface's name
    (("a", "eth2"), ("a", "eth1"), 1),
    (("a", "eth2"), ("b", "eth1"), 0),
    (("a10", "eth1"), ("a9", "eth1"), 0),
]


@pytest.mark.parametrize("schema", [EARLIER_SCHEMA, CURRENT_SCHEMA])
@pytest.mark.parametrize(("own", "other", "parity"), SIDES)
def test_the_ifindex_is_even_for_the_lesser_endpoint(own: Endpoint, other: Endpoint, parity: int, schema: int) -> None:
    """Whichever end is the primary, in records of both schemas."""
    base = replace(wanted(), schema=schema)
    primary, pair = (
        replace(end, name=name, ifname=ifname) for end, (name, ifname) in ((base.primary, own), (base.pair, other))
    )
    link = replace(base, primary=primary, pair=pair)
    for one in (link, link.swapped()):
        assert reserved_ifindex(one, primary, ()) % 2 == parity
        assert reserved_ifindex(one, pair, ()) % 2 == 1 - parity


def test_the_ends_have_different_ifindexes_if_a_pod_had_another_name_before_it_existed() -> None:
    """A declaration of "m" names the pod "b", whose alias is "y". The pod itself goes by its alias."""
    before = replace(wanted(), primary=replace(wanted().primary, name="m"), pair=replace(wanted().pair, name="b"))
    now = replace(before, pair=replace(before.pair, name="y"))
    assert reserved_ifindex(before, before.primary, ()) % 2 == reserved_ifindex(now, now.pair, ()) % 2
    assert reserved_ifindex(before, before.primary, ()) != reserved_ifindex(now, now.pair, ())


def test_two_links_of_one_interface_have_different_ifindexes() -> None:
    other = replace(wanted(), name=f"{wanted().name}-x")
    assert reserved_ifindex(wanted(), wanted().primary, ()) != reserved_ifindex(other, other.primary, ())
