"""Topologies: links drawn between pods that need say nothing of them; what is wrong is told to those it is about."""

from __future__ import annotations

import json
from ipaddress import ip_interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.cli.manifest_checks import Problem, find_problems
from ratchet.core.endpoint_spec import EndpointSpec
from ratchet.core.intent import names_every_pod, wanted_links
from ratchet.core.model import Pod, Side, Topology
from tests.support.links import annotated, pod, primary_pod

LAB = """\
- endpoints: ["centosa:in1", "quagga-a:in2"]
  addresses: ["192.168.2.100/24", "192.168.2.101/24"]
- endpoints: ["quagga-a:mid1", "quagga-b:mid2"]
  addresses: [["192.168.3.100/24", "2001:db8:3::1/64"], "192.168.3.101/24"]
  mtu: 1400
"""
PODS = [pod("centosa"), pod("quagga-a"), pod("quagga-b")]


def topology(text: str | list[dict[str, Any]], name: str = "lab") -> Topology:
    return Topology("default", name, text if isinstance(text, str) else json.dumps(text))


def drawn(*endpoints: str, **properties: Any) -> dict[str, Any]:
    return {"endpoints": list(endpoints), **properties}


def refusals(pods: list[Pod], *topologies: Topology) -> dict[str, str]:
    refused = wanted_links(pods, topologies=topologies).refused
    return {one.ref.name: str(refused[one.ref.uid]) for one in pods if one.ref.uid in refused}


def names(pods: list[Pod], *topologies: Topology) -> list[str]:
    return [one.link.name for one in wanted_links(pods, topologies=topologies).links]


def test_pods_need_say_nothing_but_that_they_want_links() -> None:
    wanted = wanted_links(PODS, topologies=[topology(LAB)])
    assert wanted.refused == {}
    first, second = wanted.links
    assert first.link.name == "default.centosa.in1.quagga-a.in2"
    assert (first.primary, first.pair, first.declarer) == (PODS[0], PODS[1], None)
    assert second.link.primary.addresses == (ip_interface("192.168.3.100/24"), ip_interface("2001:db8:3::1/64"))
    assert second.link.primary.properties == second.link.pair.properties == EndpointSpec(mtu=1400)
    assert [(one.link.name, side) for one, side in wanted.ends_of(PODS[1])] == [
        ("default.centosa.in1.quagga-a.in2", Side.PAIR),
        ("default.quagga-a.mid1.quagga-b.mid2", Side.PRIMARY),
    ]


def test_links_are_wanted_before_any_pod_is_there_and_pods_go_by_their_other_names() -> None:
    wanted = wanted_links([], topologies=[topology(LAB)])
    assert [(one.primary, one.pair) for one in wanted.links] == [(None, None)] * 2
    aliased = pod("centosa-7f9c", pod_name="centosa")
    assert wanted_links([aliased], topologies=[topology(LAB)]).links[0].primary == aliased


def test_a_pod_that_asks_for_no_links_has_none_of_a_topology() -> None:
    silent = Pod(PODS[0].ref)
    assert wanted_links([silent, *PODS[1:]], topologies=[topology(LAB)]).links[0].primary is None


def test_topologies_add_up_and_their_order_does_not_matter() -> None:
    lab, more = topology([drawn("a:x", "b:x")], "lab"), topology([drawn("b:y", "c:y")], "more")
    assert names([], lab, more) == names([], more, lab) == ["default.a.x.b.x", "default.b.y.c.y"]


@pytest.mark.parametrize("nothing", ["", "[]", "null", "# to come"])
def test_a_topology_may_be_empty(nothing: str) -> None:
    assert names(PODS, topology(nothing)) == []
    assert refusals(PODS, topology(nothing)) == {}


# What is said twice


def test_what_a_pod_or_another_topology_says_alike_is_one_link() -> None:
    labelled = primary_pod("a", "b", local_ip="10.0.0.1", pair_ip="10.0.0.2")
    same = drawn("b:in2", "a:in1", addresses=["10.0.0.2/24", "10.0.0.1/24"])
    assert names([labelled, pod("b")], topology([same]), topology([same], "other")) == ["default.a.in1.b.in2"]
    assert refusals([labelled, pod("b")], topology([same])) == {}


def test_what_is_said_differently_is_refused_to_both_pods_and_both_places_are_named() -> None:
    pods = [primary_pod("a", "b"), pod("b"), pod("c")]
    told = refusals(pods, topology([drawn("a:in1", "b:in2", mtu=1400)]))
    places = "ratchet.pair_name of pod default/a and topology default/lab: line 1"
    assert told == {
        name: f"cannot link pod default/{name}: {places} declare one link differently" for name in ("a", "b")
    }


def test_an_interface_that_is_drawn_twice_is_refused() -> None:
    pods = [pod("a"), pod("b"), pod("c")]
    lab = topology([drawn("a:x", "b:x"), drawn("a:x", "c:x")])
    told = refusals(pods, lab)
    assert told.keys() == {"a", "c"}
    assert told["c"].endswith(
        "topology default/lab: line 1: endpoints: x in pod a is taken by the link default.a.x.b.x"
    )
    assert names(pods, lab) == ["default.a.x.b.x"]


def test_what_a_topology_draws_goes_before_what_a_pod_declares() -> None:
    pods = [primary_pod("a", "hub"), pod("hub"), pod("z")]
    told = refusals(pods, topology([drawn("hub:in2", "z:in9")]))
    assert told.keys() == {"a"}
    assert "ratchet.pair_ifname: in2 in pod hub is taken by the link default.hub.in2.z.in9" in told["a"]


# What is wrong


@pytest.mark.parametrize(
    ("item", "cause"),
    [
        ({"endpoints": ["a:x", "b:x"], "mtu": 1}, 'mtu: invalid MTU "1"'),
        ({"endpoints": ["a:x", "b:x"], "addresses": ["x", None]}, 'addresses: invalid address "x"'),
        ({"endpoints": ["a:x", "a:y"]}, "endpoints: a pod cannot be linked to itself"),
    ],
)
def test_what_is_wrong_with_a_link_is_told_to_its_pods_alone(item: dict[str, Any], cause: str) -> None:
    lab = topology([item, drawn("c:x", "d:x")])
    told = refusals([pod("a"), pod("b"), pod("c"), pod("d")], lab)
    assert told.keys() == {"a", "b"} if "b:x" in item["endpoints"] else {"a"}
    assert told["a"].startswith(f"cannot link pod default/a: topology default/lab: line 1: {cause}")
    assert names([], lab) == ["default.c.x.d.x"]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("links: []", "line 1: expected a list of links"),
        ("- a:x\n- z:x", "line 1: expected a link with endpoints"),
        ("- mtu: 1400", "line 1: endpoints: it is missing"),
        ("- endpoints: [a:x]", "line 1: endpoints: expected a list of two"),
        ("- endpoints: [a:x, null]", "line 1: endpoints: expected a list of two"),
        ("- endpoints: [a, b]", 'line 1: endpoints: invalid endpoint "a": expected pod:interface'),
        ("- endpoints: [a:x, 'b:eth0']", "line 1: endpoints: interface name eth0 is reserved for the runtime"),
        ("- endpoints: [a:x, 'b:Y']", 'line 1: endpoints: invalid interface name "Y"'),
        ("-\n  endpoints: [a:x, b:x]\n  peer: c", "line 3: peer: unknown field of a link"),
        ("- endpoints: [a:x", "line 2: did not find expected"),
    ],
)
def test_what_nobody_can_read_is_told_to_every_pod_that_it_may_concern(text: str, cause: str) -> None:
    pods = [pod("a"), pod("z"), Pod(PODS[0].ref)]
    told = refusals(pods, topology(f"{text}  # a and z"))
    assert told.keys() == {"a", "z"}
    for name, error in told.items():
        assert error.startswith(f"cannot link pod default/{name}: topology default/lab: {cause}")


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("- endpoints: [a:x, b:x]", True),
        ("- endpoints: [a:x, b:x]\n  mtu: 1", True),  # the error names both pods
        ("", True),
        ("- endpoints: [a:x, ", False),
        ("- endpoints: [a:x, b:x]\n- endpoints: [c:x, d]", False),
        ("links: []", False),
    ],
)
def test_a_topology_may_declare_a_link_of_any_pod_unless_all_its_pods_can_be_read(text: str, readable: bool) -> None:
    assert names_every_pod(topology(text), {"eth0", "lo"}) is readable


@pytest.mark.parametrize(
    ("text", "concerned"),
    [
        ("- endpoints: [router-a:x, router-b:x", {"router-a", "router-b"}),
        ("- endpoints: [router-a:x]", {"router-a"}),
        ("- endpoints: [alias:x]", {"aliased-7f9c"}),
        ("- endpoints: [aliased-7f9c:x]", {"aliased-7f9c"}),
        ("- endpoints: [xrouter-ax:y]", {"router-a"}),  # part of another name: it may, for all that can be told
        ("links: []", set()),
        ("- mtu: 1400", set()),
        (r'- endpoints: ["\x72outer-a:x"]', {"router-a", "router-b", "aliased-7f9c"}),  # an escape may spell any name
        ('- endpoints: ["router\\\n  -a:x"]', {"router-a", "router-b", "aliased-7f9c"}),
    ],
)
def test_a_topology_that_cannot_be_read_blocks_only_the_pods_whose_name_it_may_have(
    text: str, concerned: set[str]
) -> None:
    pods = [pod("router-a"), pod("router-b"), pod("aliased-7f9c", pod_name="alias")]
    assert refusals(pods, topology(text)).keys() == concerned


def test_what_is_wrong_is_found_before_it_is_applied_though_no_pod_is_there() -> None:
    lab = topology([drawn("a:x", "b:x", mtu=1), drawn("a:y", "c:y")])
    found = find_problems([pod("a")], [lab])
    assert [one.text for one in found if one.is_error] == [
        'cannot link pod default/a: topology default/lab: line 1: mtu: invalid MTU "1": '
        "expected bytes from 68 to 65535",
        "topology default/lab: line 1: endpoints: pod c: there is no such pod",
        'topology default/lab: line 1: mtu: invalid MTU "1": expected bytes from 68 to 65535',
    ]
    assert Problem(True, "topology default/lab: line 1: endpoints: pod b: there is no such pod") in find_problems(
        [], [topology([drawn("a:x", "b:x")])]
    )


words = st.sampled_from(["a:x", "b:x", "a", "", "10.0.0.1/24", "1400", "é", "x" * 90])
fields = st.sampled_from(["endpoints", "addresses", "mtu", "mac", "colour"])
things = st.recursive(words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=5))


@given(things.map(json.dumps) | st.text(max_size=60))
def test_whatever_is_drawn_is_wanted_or_refused(text: str) -> None:
    pods = [pod("a"), pod("b"), annotated(pod("c"), links="[]")]
    wanted = wanted_links(pods, topologies=[topology(text)])
    for error in wanted.refused.values():
        assert str(error).isascii()
        assert str(error).isprintable()
        assert len(str(error)) < 400
