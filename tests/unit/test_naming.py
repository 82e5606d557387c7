"""Names: readable, valid for Kubernetes, and never one for two things."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ratchet.core.model import Side
from ratchet.core.naming import mac_address, node_label, pod_label, record_name, vni_lease_name, vni_of_lease
from tests.support.strategies import dns_labels, ifnames, meant_names, node_names, pod_names

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")

long_names = st.text("ab.", min_size=200, max_size=253).map(lambda text: f"a{text[:-2]}b")
few_names = st.sampled_from(["a", "b", "a.b", "a-b", "A", "a.a", "a_b"])
names = st.one_of(meant_names, long_names, few_names)
few_ifnames = st.sampled_from(["a", "a.b", "a_b", "a-b", "b"])
declarations = st.tuples(
    st.one_of(dns_labels, st.sampled_from(["a", "b"])), names, ifnames | few_ifnames, names, ifnames | few_ifnames
)
Declaration = tuple[str, str, str, str, str]


def test_a_link_has_a_name_that_a_person_can_read() -> None:
    assert record_name("default", "primary-pod", "in1", "pair-pod", "in2") == "default.primary-pod.in1.pair-pod.in2"


@pytest.mark.parametrize(
    ("declaration", "readable"),
    [
        (("default", "Web_1", "in1", "b", "in2"), "default.web-1.in1.b.in2."),
        (("default", "a.b", "in1", "c", "in2"), "default.a-b.in1.c.in2."),
        (("default", "a", "in_1", "b", "in-"), "default.a.in-1.b.in."),
        (("default", "a" * 200, "in1", "b" * 63, "in2"), f"default.{'a' * 40}.in1.{'b' * 40}.in2."),
    ],
)
def test_what_is_no_label_is_made_fit_and_hashed(declaration: Declaration, readable: str) -> None:
    name = record_name(*declaration)
    assert re.fullmatch(re.escape(readable) + "[0-9a-f]{12}", name)


@given(declarations)
def test_a_records_name_is_a_dns_subdomain(declaration: Declaration) -> None:
    name = record_name(*declaration)
    assert len(name) <= 253
    assert SUBDOMAIN.fullmatch(name)


@given(declarations, declarations)
@example(("n", "a.b", "c", "d", "e"), ("n", "a", "b.c", "d", "e"))
@example(("n", "a.b", "c", "d", "e"), ("n", "a-b", "c", "d", "e"))
@example(("n", "A", "c", "d", "e"), ("n", "a", "c", "d", "e"))
@example(("n", "a", "c_", "d", "e"), ("n", "a", "c", "d", "e"))
@example(("n", "a" * 250, "c", "d", "e"), ("n", "a" * 249, "c", "d", "e"))
@example(("n", "d", "e", "a", "c"), ("n", "a", "c", "d", "e"))
def test_two_links_never_have_one_name(one: Declaration, other: Declaration) -> None:
    assume(one != other)
    assert record_name(*one) != record_name(*other)


@given(st.lists(names, min_size=5, max_size=5), st.data())
def test_a_change_of_any_part_is_another_name(parts: list[str], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, 4))
    changed = [*parts]
    changed[index] = data.draw(names.filter(lambda name: name != parts[index]))
    assert record_name(*parts) != record_name(*changed)


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


def test_a_short_label_is_readable_and_a_long_one_is_still_its_own() -> None:
    assert node_label("kube-minion-1") == "node.ratchet/kube-minion-1"
    assert pod_label("default", "primary-pod") == "pod.ratchet/default.primary-pod"
    long = "n" * 100
    assert node_label(f"{long}1") != node_label(f"{long}2")
    assert pod_label("default", f"{long}1") != pod_label("default", f"{long}2")
    assert pod_label("a", "b") != pod_label("b", "a")


@given(st.integers(1, (1 << 24) - 1))
def test_a_lease_is_named_by_its_number(vni: int) -> None:
    assert vni_of_lease(vni_lease_name(vni)) == vni
    assert SUBDOMAIN.fullmatch(vni_lease_name(vni))


@pytest.mark.parametrize("name", ["", "vni-", "vni-0", "vni-011", "vni-1a", "vni--1", "node-1", "xvni-1", "vni-1\n"])
def test_another_lease_is_no_vnis(name: str) -> None:
    assert vni_of_lease(name) is None


@given(st.text(), st.text())
def test_an_ends_mac_address_is_its_own_and_always_the_same(record: str, other: str) -> None:
    macs = {mac_address(record, side) for side in Side}
    assert len(macs) == 2
    assert macs == {mac_address(record, side) for side in Side}
    assert all(re.fullmatch(r"02(:[0-9a-f]{2}){5}", mac) for mac in macs)
    assert record == other or mac_address(other, Side.PRIMARY) not in macs
