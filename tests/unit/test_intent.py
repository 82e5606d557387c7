"""Resolution of labels and annotations into wanted links, and rejection of tenants' invalid input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core.intent import (
    ADDRESSES_MAX,
    Wanted,
    absence,
    asks_for_links,
    is_primary,
    meant_name,
    unknown_settings,
    wait_of,
    wanted_links,
)
from ratchet.core.model import End, Link, Side
from ratchet.core.pod import Pod, PodRef, Topology
from ratchet.errors import InvalidIntentError
from ratchet.store.codec.pods import decode_pod
from tests.support.links import NOW, annotated, pod, primary_pod

EXAMPLE = Path(__file__).parents[2] / "manifests" / "examples" / "example.yaml"
HUGE = 256 * 1024


def aged(one: Pod, seconds: float) -> Pod:
    """The pod with the creation time NOW plus `seconds`."""
    return replace(one, created=NOW + timedelta(seconds=seconds))


def only_link(wanted: Wanted) -> Link:
    assert wanted.refused == {}
    (link,) = wanted.links
    return link.link


def refusal(pods: Iterable[Pod], refused: Pod) -> InvalidIntentError:
    """The error of `refused`, which must be the only refused pod."""
    found = wanted_links(pods).refused
    assert set(found) == {refused.ref.uid}
    return found[refused.ref.uid]


def names(wanted: Wanted) -> list[str]:
    return [link.link.name for link in wanted.links]


# Labels


def test_the_example_of_2017_declares_one_link() -> None:
    documents = list(yaml.safe_load_all(EXAMPLE.read_text()))
    pods = [decode_pod({**one, "metadata": {"namespace": "default", **one["metadata"]}}) for one in documents]
    wanted = wanted_links(pods)
    carried = {"target_pod": "primary-pod", "target_container": "primary-pod", "public_ip": "1.1.1.1"}
    assert only_link(wanted) == Link(
        name="default.pair-pod.in2.primary-pod.in1",
        namespace="default",
        primary=End("primary-pod", "in1", (ip_interface("192.168.2.100/24"),), notes=carried),
        pair=End("pair-pod", "in2", (ip_interface("192.168.2.101/24"),)),
    )
    link = wanted.links[0]
    assert (link.primary, link.pair) == tuple(pods)
    assert wanted.ends_of(pods[0]) == ((link, Side.PRIMARY),)
    assert wanted.ends_of(pods[1]) == ((link, Side.PAIR),)
    assert is_primary(pods[1]) is False
    assert all(unknown_settings(one) == () for one in pods)


@pytest.mark.parametrize("said", ["true", "True", "TRUE", "tRuE", " true "])
def test_true_is_accepted_in_any_case(said: str) -> None:
    one = annotated(primary_pod(), primary=said)
    one = replace(one, labels={**one.labels, "ratchet": said})
    assert asks_for_links(one)
    assert is_primary(one) is True
    assert len(wanted_links([one]).links) == 1


@pytest.mark.parametrize("said", ["false", "", "yes", "1", "truee"])
def test_a_ratchet_label_other_than_true_asks_for_no_links(said: str) -> None:
    one = primary_pod()
    one = replace(one, labels={**one.labels, "ratchet": said})
    assert not asks_for_links(one)
    assert wanted_links([one]) == Wanted((), {})


def test_a_pod_without_the_label_asks_for_no_links() -> None:
    one = primary_pod()
    one = replace(one, labels={key: value for key, value in one.labels.items() if key != "ratchet"})
    assert not asks_for_links(one)
    assert wanted_links([one, pod("b")]).links == ()


@pytest.mark.parametrize("said", ["false", "False", "FALSE"])
def test_a_pod_with_primary_false_declares_no_link(said: str) -> None:
    one = primary_pod("a", "b", primary=said)
    assert is_primary(one) is False
    assert wanted_links([one, pod("b")]) == Wanted((), {})


def test_a_pod_without_a_primary_label_is_the_pair_of_a_link_that_names_it() -> None:
    passive = pod("b")
    assert is_primary(passive) is None
    wanted = wanted_links([primary_pod("a", "b"), passive])
    assert [side for _, side in wanted.ends_of(passive)] == [Side.PAIR]


@pytest.mark.parametrize("said", ["yes", "1", "truefalse", "", "\u202etrue"])
def test_an_invalid_primary_label_is_rejected(said: str) -> None:
    one = annotated(primary_pod(), primary=said)
    with pytest.raises(InvalidIntentError, match=r"pod default/a: ratchet\.primary: "):
        is_primary(one)
    assert 'expected "true" or "false"' in str(refusal([one], one))


@pytest.mark.parametrize(("said", "seconds"), [(None, None), ("0", 0.0), ("2.5", 2.5), (" 7 ", 7.0), ("150", 150.0)])
def test_the_wait_label_gives_the_wait_in_seconds(said: str | None, seconds: float | None) -> None:
    assert wait_of(pod("a") if said is None else pod("a", wait=said)) == seconds


@pytest.mark.parametrize("said", ["", "soon", "-1", "151", "1e2", "inf", "nan", "1.2345", "\u0663"])
def test_an_invalid_wait_label_is_rejected(said: str) -> None:
    with pytest.raises(InvalidIntentError, match=r"ratchet\.wait"):
        wait_of(pod("a", wait=said))


def test_a_finished_pod_declares_no_link_and_is_no_pair() -> None:
    assert wanted_links([replace(primary_pod(), phase="Succeeded")]).links == ()
    wanted = wanted_links([primary_pod("a", "b"), replace(pod("b"), phase="Failed")])
    assert wanted.links[0].pair is None


def test_an_annotation_overrides_the_label() -> None:
    one = annotated(primary_pod(local_ip="10.0.0.1", pair_ip="10.0.0.2"), local_ip="10.9.9.1/16", local_ifname="up0")
    link = only_link(wanted_links([one]))
    assert link.primary.addresses == (ip_interface("10.9.9.1/16"),)
    assert link.primary.ifname == "up0"
    assert link.pair.addresses == (ip_interface("10.0.0.2/24"),)


def test_annotations_alone_declare_a_link() -> None:
    said = {"primary": "true", "pair_name": "b", "local_ifname": "in1", "pair_ifname": "in2"}
    bare = Pod(PodRef("default", "a", "uid"), annotations={"ratchet": "true"})
    assert only_link(wanted_links([annotated(bare, **said)])).name == "default.a.in1.b.in2"


@pytest.mark.parametrize(
    ("labels", "annotations", "addresses"),
    [
        ({}, {}, ()),
        ({"local_ip": "10.0.0.1"}, {}, ("10.0.0.1/24",)),
        ({"local_ip": "10.0.0.1", "local_prefix": "30"}, {}, ("10.0.0.1/30",)),
        ({"local_ip": "10.0.0.0", "local_prefix": "31"}, {}, ("10.0.0.0/31",)),
        ({"local_ip": "10.0.0.1", "local_prefix": "32"}, {}, ("10.0.0.1/32",)),
        ({"local_ip": "10.0.0.1"}, {"local_prefix": "8"}, ("10.0.0.1/8",)),
        ({"local_prefix": "8"}, {"local_ip": "10.0.0.1/28"}, ("10.0.0.1/28",)),
        ({}, {"local_ip": "fd00::1"}, ("fd00::1/64",)),
        ({}, {"local_ip": "fd00::1/120"}, ("fd00::1/120",)),
        ({}, {"local_ip": "10.0.0.1,fd00::1"}, ("10.0.0.1/24", "fd00::1/64")),
        ({}, {"local_ip": " 10.0.0.1/25 , 10.0.1.1 , fe80::1/10 "}, ("10.0.0.1/25", "10.0.1.1/24", "fe80::1/10")),
    ],
)
def test_addresses_are_read_from_labels_and_annotations(
    labels: dict[str, str], annotations: dict[str, str], addresses: tuple[str, ...]
) -> None:
    one = annotated(primary_pod(**labels), **annotations)
    assert only_link(wanted_links([one])).primary.addresses == tuple(map(ip_interface, addresses))


def test_each_end_has_its_own_prefix() -> None:
    one = primary_pod(local_ip="10.0.0.1", local_prefix="30", pair_ip="10.0.0.2", pair_prefix="29")
    link = only_link(wanted_links([one]))
    assert link.primary.addresses == (ip_interface("10.0.0.1/30"),)
    assert link.pair.addresses == (ip_interface("10.0.0.2/29"),)


def test_a_pod_is_found_by_its_alias_or_its_name() -> None:
    aliased = pod("b-7f9c", pod_name="b")
    assert meant_name(aliased) == "b"
    assert meant_name(pod("b")) == "b"
    for said in ("b", "b-7f9c"):
        assert wanted_links([primary_pod("a", said), aliased]).links[0].pair == aliased
    assert only_link(wanted_links([primary_pod("a-1", "b", pod_name="a"), aliased])).name == "default.a.in1.b.in2"


def test_a_link_is_wanted_before_its_pair_exists() -> None:
    wanted = wanted_links([primary_pod("a", "b")])
    assert wanted.links[0].pair is None
    assert wanted.links[0].pod(Side.PRIMARY) == primary_pod("a", "b")


def test_notes_are_escaped_and_truncated() -> None:
    one = annotated(primary_pod(public_ip="1.1.1.1"), target_pod="a\nb\u202e", target_container="x" * HUGE)
    notes = only_link(wanted_links([one])).primary.notes
    assert notes["public_ip"] == "1.1.1.1"
    assert notes["target_pod"] == "a\\nb\\u202e"
    assert len(notes["target_container"]) == 80


# Many links


def test_each_pod_of_a_ring_of_twenty_has_two_ends() -> None:
    ring = [primary_pod(f"r{one}", f"r{(one + 1) % 20}", local_ifname="next", pair_ifname="prev") for one in range(20)]
    wanted = wanted_links(ring)
    assert wanted.refused == {}
    assert len(set(names(wanted))) == 20
    for number, one in enumerate(ring):
        ends = [(link.link.end(side).ifname, link.link.primary.name) for link, side in wanted.ends_of(one)]
        assert sorted(ends) == sorted([("next", f"r{number}"), ("prev", f"r{(number - 1) % 20}")])


def test_a_pod_is_primary_of_one_link_and_pair_of_two_others() -> None:
    pods = [
        primary_pod("hub", "x", local_ifname="out0"),
        primary_pod("a", "hub", pair_ifname="in1"),
        primary_pod("b", "hub", pair_ifname="in2"),
        pod("x"),
    ]
    wanted = wanted_links(pods)
    assert wanted.refused == {}
    assert [(link.link.name, side) for link, side in wanted.ends_of(pods[0])] == [
        ("default.a.in1.hub.in1", Side.PAIR),
        ("default.b.in1.hub.in2", Side.PAIR),
        ("default.hub.out0.x.in2", Side.PRIMARY),
    ]


def test_two_pods_can_be_the_pair_of_each_other() -> None:
    pods = [
        primary_pod("a", "b", local_ifname="a0", pair_ifname="a1"),
        primary_pod("b", "a", local_ifname="b0", pair_ifname="b1"),
    ]
    assert names(wanted_links(pods)) == ["default.a.a0.b.a1", "default.a.b1.b.b0"]


def test_the_newest_pod_of_a_deployment_gets_the_name() -> None:
    old, new = (primary_pod(f"a-{n}", "b", pod_name="a", local_ip=f"10.0.0.{n}") for n in (1, 2))
    new = aged(new, 10)
    pair = pod("b")
    wanted = wanted_links([new, pair, old])
    assert only_link(wanted).primary.addresses == (ip_interface("10.0.0.2/24"),)
    assert wanted.links[0].primary == new
    assert wanted.ends_of(old) == ()
    assert wanted.superseding(old) == new
    assert wanted.superseding(new) is None


def test_a_pod_being_deleted_has_the_name_only_if_no_other_pod_has_it() -> None:
    old, new = primary_pod("a-1", "b", pod_name="a"), aged(primary_pod("a-2", "b", pod_name="a"), 10)
    terminating = replace(new, deleting=True)
    assert wanted_links([old, terminating]).links[0].primary == old
    assert wanted_links([old, terminating]).superseding(terminating) == old
    assert wanted_links([terminating]).links[0].primary == terminating


def test_the_newest_pod_of_a_name_is_the_pair() -> None:
    old, new = pod("b-1", pod_name="b"), aged(pod("b-2", pod_name="b"), 10)
    wanted = wanted_links([primary_pod("a", "b"), new, old])
    assert wanted.links[0].pair == new
    assert wanted.ends_of(old) == ()


RUNS, WAITS = {"phase": "Running", "networked": NOW}, {"phase": "Pending"}


@pytest.mark.parametrize(
    ("other", "newest"),
    [
        (RUNS, WAITS),
        ({"phase": "Running"}, WAITS),  # a kubelet before 1.29 reports no condition
        ({"phase": "Pending", "networked": NOW}, WAITS),
        (RUNS, {"phase": "Running", "networked": NOW + timedelta(seconds=1)}),
        ({**WAITS, "deleting": True}, RUNS),
        ({**WAITS, "created": NOW - timedelta(seconds=1)}, RUNS),
    ],
)
@pytest.mark.parametrize("names", [("b-1", "b-2"), ("b-2", "b-1")])
def test_a_rollout_within_a_second_of_the_first_start_gets_the_name(
    other: dict[str, Any], newest: dict[str, Any], names: tuple[str, str]
) -> None:
    old, new = (replace(pod(name, pod_name="b"), **state) for name, state in zip(names, (other, newest), strict=True))
    for pods in ([old, new], [new, old]):
        wanted = wanted_links([primary_pod("a", "b"), *pods])
        assert wanted.links[0].pair == new
        assert wanted.superseding(old) == new


def test_a_recreated_pod_has_the_link_and_the_former_pod_has_none() -> None:
    wanted = wanted_links([primary_pod("a", "b"), pod("b", "new")])
    assert wanted.ends_of(pod("b", "old")) == ()
    assert len(wanted.ends_of(pod("b", "new"))) == 1


def test_the_link_of_the_older_primary_gets_a_contested_interface() -> None:
    older, newer = primary_pod("z", "hub"), aged(primary_pod("a", "hub"), 10)
    assert names(wanted_links([newer, pod("hub"), older])) == ["default.hub.in2.z.in1"]
    error = refusal([newer, pod("hub"), older], newer)
    assert "pod default/a: ratchet.pair_ifname: in2 in pod hub is taken by the link default.hub.in2.z.in1" in str(error)


def test_an_older_link_can_take_the_primarys_own_interface() -> None:
    older, newer = primary_pod("a", "hub", pair_ifname="in1"), aged(primary_pod("hub", "b"), 10)
    assert "ratchet.local_ifname: in1 in pod hub is taken" in str(refusal([newer, older, pod("b")], newer))


def test_links_collide_on_an_interface_under_either_name_of_its_pod() -> None:
    older, newer = primary_pod("a", "hub"), aged(primary_pod("b", "hub-7f9c"), 10)
    assert "taken" in str(refusal([older, newer, pod("hub-7f9c", pod_name="hub")], newer))


def test_a_rejected_link_takes_no_interface() -> None:
    first = primary_pod("a", "hub")
    second = aged(primary_pod("b", "hub", local_ifname="up0"), 10)  # rejected: the link of a has in2 of hub
    third = aged(primary_pod("c", "b", pair_ifname="up0"), 20)
    wanted = wanted_links([third, second, first, pod("hub")])
    assert names(wanted) == ["default.a.in1.hub.in2", "default.b.up0.c.in1"]


NAMES = ["a", "b", "c", "d"]
some_pods = st.builds(
    lambda name, alias, primary, pair, near, far, address, created, deleting: replace(
        pod(
            name,
            **({"pod_name": alias} if alias else {}),
            **({"primary": primary} if primary else {}),
            pair_name=pair,
            local_ifname=near,
            pair_ifname=far,
            local_ip=address,
        ),
        created=created,
        deleting=deleting,
    ),
    st.sampled_from(NAMES),
    st.sampled_from(["", "", *NAMES]),
    st.sampled_from(["true", "true", "true", "false", "", "maybe"]),
    st.sampled_from(NAMES),
    st.sampled_from(["in1", "in2"]),
    st.sampled_from(["in1", "in2", "lo"]),
    st.sampled_from(["10.0.0.1", "no"]),
    st.sampled_from([None, NOW, NOW + timedelta(seconds=1)]),
    st.booleans(),
)


@given(st.lists(some_pods, max_size=4, unique_by=lambda one: one.ref), st.data())
def test_the_order_of_the_pods_does_not_matter(pods: list[Pod], data: st.DataObject) -> None:
    one, other = wanted_links(pods), wanted_links(data.draw(st.permutations(pods)))
    assert one.links == other.links
    assert {uid: str(error) for uid, error in one.refused.items()} == {
        uid: str(error) for uid, error in other.refused.items()
    }


@given(st.lists(some_pods, max_size=4, unique_by=lambda one: one.ref))
def test_no_interface_of_a_pod_is_given_to_two_links(pods: list[Pod]) -> None:
    wanted = wanted_links(pods)
    ends = [(one.ref, link.link.end(side).ifname) for one in pods for link, side in wanted.ends_of(one)]
    assert len(set(ends)) == len(ends)
    assert len(set(names(wanted))) == len(wanted.links)
    assert not {link.declarer.ref.uid for link in wanted.links if link.declarer} & set(wanted.refused)


# Hostile input

INVALID_IFNAMES = [
    *("x%d", "-rf", "eth0;id", "$(id)", "in1\u202e", "a" * 16, "é" * 8, "lo", "eth0", "all", "default"),
    *("in/1", "in:1", "in 1", " in1", "in1 ", "in1\n", "in\t1", "", "1in", "..", ".", "in1\0", "in1\x1b[2J"),
    *("i\u0661", "ｉｎ1", "a" * HUGE),
]
INVALID_NAMES = ["", "-rf", "../b", "b/c", "b c", "b\n", "b\0", "b\u202e", "a:b", "$(id)", ".", "b.", "é", "b" * HUGE]
INVALID_ADDRESSES = [
    *("", "x", "1.2.3", "1.2.3.4.5", "256.0.0.1", "01.2.3.4", "1.2.3.4\n/24x", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/"),
    *("1.2.3.4/24/24", "1.2.3.4/0", "fd00::1/0", "fd00::1/129", "fe80::1%eth0", "fe80::1%eth0/64", "http://1.2.3.4"),
    *("224.0.0.1", "239.1.2.3/8", "ff02::1", "ff02::1/64", "0.0.0.0", "0.0.0.0/32", "::", "::/64", "::/128"),
    *("127.0.0.1", "127.0.0.1/32", "127.9.9.9/8", "::1", "::1/64", "::1/128"),
    *("10.0.0.0", "10.0.0.255", "10.0.0.0/24", "10.0.0.255/24", "10.0.0.3/30", "10.255.255.255/8"),
    *("10.0.0.1,10.0.0.1", "10.0.0.1/24,10.0.0.1/25", "fd00::1,fd00:0::1", "10.0.0.1,", ",10.0.0.1", "10.0.0.1,,"),
    *("10.0.0.1;id", "10.0.0.1\x1b[2J", "\u0661.2.3.4", "10.0.0.1\u202e", "9" * HUGE, "1.2.3.4," * (HUGE // 8)),
    ",".join(f"10.0.0.{n}" for n in range(1, ADDRESSES_MAX + 2)),
]
INVALID_PREFIXES = ["", "0", "33", "129", "-1", "+24", "24.0", "/24", " 24", "24\n", "x", "\u0662\u0664", "9" * HUGE]
INVALID_WIRINGS = ["", "Panel", "patch", "panel\n", "panel,direct", "\u202epanel", "p" * HUGE]
INVALID_PRIMARY = ["maybe", "\x00", "true\ntrue", "true;id", "\u202etrue", "t" * HUGE]

HOSTILE = [
    *(("local_ifname", said) for said in INVALID_IFNAMES),
    *(("pair_ifname", said) for said in INVALID_IFNAMES),
    *(("pair_name", said) for said in INVALID_NAMES),
    *(("pod_name", said) for said in INVALID_NAMES if said),
    *(("local_ip", said) for said in INVALID_ADDRESSES),
    *(("pair_ip", said) for said in INVALID_ADDRESSES),
    *(("local_prefix", said) for said in INVALID_PREFIXES),
    *(("pair_prefix", said) for said in INVALID_PREFIXES),
    *(("primary", said) for said in INVALID_PRIMARY),
    *(("wiring", said) for said in INVALID_WIRINGS),
    ("pair_name", "a"),  # the pod itself
    ("pair_ip", "10.0.0.1"),  # the address of the other end
    ("pair_ip", "10.0.0.2,10.0.0.1/8"),
]


@pytest.mark.parametrize(("key", "said"), HOSTILE, ids=lambda value: ascii(value[:20]).strip("'"))
def test_hostile_input_is_rejected_with_the_pod_and_the_label(key: str, said: str) -> None:
    evil = annotated(primary_pod("a", "b", local_ip="10.0.0.1", pair_ip="10.0.0.2"), **{key: said})
    good = primary_pod("c", "b", pair_ifname="other")
    error = refusal([evil, good, pod("b")], evil)
    expected = {f"ratchet.{key}"} | ({f"ratchet.{key.replace('prefix', 'ip')}"} if "prefix" in key else set())
    assert any(f"cannot link pod default/a: {label}: " in str(error) for label in expected)
    assert "pod default/a" in error.details
    for text in (str(error), error.details):
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 400
    assert names(wanted_links([evil, good, pod("b")])) == ["default.b.other.c.in1"]


@pytest.mark.parametrize("key", ["pair_name", "local_ifname", "pair_ifname"])
def test_a_missing_required_label_is_rejected(key: str) -> None:
    one = primary_pod()
    one = replace(one, labels={name: value for name, value in one.labels.items() if name != f"ratchet.{key}"})
    assert f"pod default/a: ratchet.{key}: it is missing" in str(refusal([one], one))


def test_a_pod_cannot_be_linked_to_itself_by_either_name() -> None:
    for one in (primary_pod("a-1", "a-1", pod_name="a"), primary_pod("a-1", "a", pod_name="a")):
        assert "ratchet.pair_name: a pod cannot be linked to itself" in str(refusal([one, pod("b")], one))


def test_lo_and_the_interface_names_of_the_runtime_are_reserved() -> None:
    one = primary_pod(local_ifname="net1")
    assert wanted_links([one], {"net1"}).refused
    assert not wanted_links([one], {"eth0"}).refused
    assert wanted_links([primary_pod(local_ifname="lo")], set()).refused


@pytest.mark.parametrize("ifname", ["a", "in1", "eth1", "veth0.100", "a-b_c.d", "a" * 15])
def test_a_valid_interface_name_is_accepted(ifname: str) -> None:
    assert only_link(wanted_links([primary_pod(local_ifname=ifname)])).primary.ifname == ifname


any_text = st.text(st.characters(), max_size=40)
KEYS = ["ratchet", "ratchet.pod_name", "ratchet.primary", "ratchet.pair_name", "ratchet.local_ifname"]
KEYS += ["ratchet.local_ip", "ratchet.local_prefix", "ratchet.pair_ifname", "ratchet.pair_ip", "ratchet.pair_prefix"]


def test_any_annotations_give_a_valid_link_or_a_printable_error() -> None:
    outcomes = set()

    @given(st.dictionaries(st.sampled_from(KEYS[1:]), any_text, max_size=4))
    def check(annotations: dict[str, str]) -> None:
        one = replace(primary_pod(), annotations=annotations)
        wanted = wanted_links([one])
        for error in wanted.refused.values():
            assert str(error).isascii()
            assert str(error).isprintable()
            assert len(str(error)) < 400
        for link in wanted.links:
            assert link.link.primary.ifname.isascii()
            assert len(link.link.primary.ifname) <= 15
        outcomes.add((len(wanted.refused), len(wanted.links)))

    check()
    assert {(0, 1), (1, 0)} <= outcomes


# Messages


def test_unknown_settings_are_reported() -> None:
    one = annotated(pod("a", pair_nam="b", local_ip="10.0.0.1"), primry="true")
    one = replace(one, labels={**one.labels, "app": "x", "ratchetside": "left"})
    assert unknown_settings(one) == ("ratchet.pair_nam", "ratchet.primry")


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        ([], "there is no such pod"),
        ([pod("c")], "there is no such pod"),
        ([Pod(PodRef("default", "b", "u"))], 'it is not labelled ratchet: "true"'),
        ([Pod(PodRef("default", "b-1", "u"), {"ratchet.pod_name": "b"})], 'it is not labelled ratchet: "true"'),
        ([replace(pod("b"), phase="Succeeded")], "it is Succeeded"),
        ([replace(pod("b"), phase="Failed", node="n1")], "it is Failed"),
        ([replace(pod("b"), deleting=True, node="n1")], "it is being deleted"),
        ([pod("b")], "it is not scheduled"),
        (
            [replace(pod("b-1", pod_name="b"), node="n1")],
            "it is scheduled on n1 and its in2 has not been asked for yet",
        ),
        (
            [replace(pod("b"), node="n1", phase="Running")],
            "it runs on n1 without in2: restart it if it started before Ratchet was installed there",
        ),
        ([replace(pod("b"), node="n1", host_network=True)], "it uses the host's network, which cannot have links"),
        ([replace(pod("b"), phase="Failed"), replace(pod("b-2", pod_name="b"), node="n1")], "it is scheduled on n1"),
    ],
)
def test_absence_gives_the_reason_for_a_missing_peer(pods: list[Pod], said: str) -> None:
    assert absence("b", iter(pods), "in2").startswith(said)


def test_a_pod_without_a_creation_time_counts_as_the_oldest() -> None:
    undated = replace(primary_pod("a-1", "b", pod_name="a"), created=None)
    dated = replace(primary_pod("a-2", "b", pod_name="a"), created=datetime.fromisoformat("2017-08-17T00:00:00Z"))
    assert wanted_links([dated, undated]).links[0].primary == dated


@pytest.mark.parametrize(
    ("lists", "topology", "count"),
    [
        ([], "", 0),
        (["- {peer: b, ifname: in1, peer_ifname: in1}"], "", 1),
        (["- {peer: b, ifname: in1, peer_ifname: in1}"], "- endpoints: [b:in1, a:in1]", 1),
        (["- {peer: b, ifname: in1, peer_ifname: in1}"], "- endpoints: [c:in1, d:in1]\n- endpoints: [c:in2, d:in2]", 3),
        (["- {peer: b, ifname: in1, peer_ifname: in1, mtu: 1}"], "- {endpoints: [c:in1, d:in1], mtu: 1}", 0),
    ],
    ids=["nothing", "one", "declared twice", "pods and topologies", "invalid ones"],
)
def test_the_links_of_a_namespace_are_counted_once(lists: list[str], topology: str, count: int) -> None:
    pods = [Pod(PodRef("ns", "a", "a"), {"ratchet": "true"}, {"ratchet.links": one}) for one in lists]
    topologies = [Topology("ns", "lab", topology)] if topology else []
    assert wanted_links(pods, topologies=topologies).namespace_links == count


@pytest.mark.parametrize(
    ("lines", "live"),
    [
        (["- endpoints: [a:in1, b:in2]"], True),
        (["- {endpoints: [a:in1, b:in2], on_edit: restart}"], False),
        (["- endpoints: [a:in1, b:in2]", "- {endpoints: [b:in2, a:in1], on_edit: restart}"], False),
    ],
)
def test_running_pods_follow_edits_of_a_link_that_only_live_topologies_declare(lines: list[str], live: bool) -> None:
    topologies = [Topology("default", f"lab-{number}", line) for number, line in enumerate(lines)]
    (link,) = wanted_links([pod("a"), pod("b")], topologies=topologies).links
    assert link.live is live
    (declared,) = wanted_links([primary_pod("a", "b"), pod("b")]).links
    assert not declared.live
    both = wanted_links(
        [annotated(pod("a"), links="- {peer: b, ifname: in1, peer_ifname: in2}"), pod("b")], topologies=topologies
    )
    assert not both.links[0].live
