"""Topologies: the links that they declare between pods, and the pods that an invalid topology rejects."""

from __future__ import annotations

import json
from base64 import b64encode
from ipaddress import ip_interface
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ratchet.cli.manifest_checks import find_problems
from ratchet.cli.problems import Problem
from ratchet.core.endpoint_spec import EndpointSpec
from ratchet.core.intent import names_every_pod, wanted_links
from ratchet.core.intent.topologies import Faulty, drawn_links
from ratchet.core.model import Side
from ratchet.core.pod import Pod, Topology
from ratchet.store.codec.pods import decode_topology
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


def link_item(*endpoints: str, **properties: Any) -> dict[str, Any]:
    return {"endpoints": list(endpoints), **properties}


def rejections(pods: list[Pod], *topologies: Topology) -> dict[str, str]:
    refused = wanted_links(pods, topologies=topologies).refused
    return {one.ref.name: str(refused[one.ref.uid]) for one in pods if one.ref.uid in refused}


def link_names(pods: list[Pod], *topologies: Topology) -> list[str]:
    return [one.link.name for one in wanted_links(pods, topologies=topologies).links]


def test_a_topology_links_pods_that_have_only_the_ratchet_label() -> None:
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


def test_a_topology_declares_links_before_its_pods_exist_and_matches_pod_aliases() -> None:
    wanted = wanted_links([], topologies=[topology(LAB)])
    assert [(one.primary, one.pair) for one in wanted.links] == [(None, None)] * 2
    aliased = pod("centosa-7f9c", pod_name="centosa")
    assert wanted_links([aliased], topologies=[topology(LAB)]).links[0].primary == aliased


def test_a_topology_does_not_link_a_pod_without_the_ratchet_label() -> None:
    unlabelled = Pod(PODS[0].ref)
    assert wanted_links([unlabelled, *PODS[1:]], topologies=[topology(LAB)]).links[0].primary is None


def test_topologies_add_up_and_their_order_does_not_matter() -> None:
    lab, more = topology([link_item("a:x", "b:x")], "lab"), topology([link_item("b:y", "c:y")], "more")
    assert link_names([], lab, more) == link_names([], more, lab) == ["default.a.x.b.x", "default.b.y.c.y"]


@pytest.mark.parametrize("nothing", ["", "[]", "null", "# to come"])
def test_a_topology_may_be_empty(nothing: str) -> None:
    assert link_names(PODS, topology(nothing)) == []
    assert rejections(PODS, topology(nothing)) == {}


# Duplicate declarations


def test_equal_declarations_in_pods_and_topologies_are_one_link() -> None:
    labelled = primary_pod("a", "b", local_ip="10.0.0.1", pair_ip="10.0.0.2")
    same = link_item("b:in2", "a:in1", addresses=["10.0.0.2/24", "10.0.0.1/24"])
    assert link_names([labelled, pod("b")], topology([same]), topology([same], "other")) == ["default.a.in1.b.in2"]
    assert rejections([labelled, pod("b")], topology([same])) == {}


def test_different_declarations_of_a_link_reject_both_pods_and_name_both_places() -> None:
    pods = [primary_pod("a", "b"), pod("b"), pod("c")]
    rejected = rejections(pods, topology([link_item("a:in1", "b:in2", mtu=1400)]))
    places = "ratchet.pair_name of pod default/a and topology default/lab: line 1"
    assert rejected == {
        name: f"cannot link pod default/{name}: {places} declare one link differently" for name in ("a", "b")
    }


def test_the_second_link_of_an_interface_is_rejected() -> None:
    pods = [pod("a"), pod("b"), pod("c")]
    lab = topology([link_item("a:x", "b:x"), link_item("a:x", "c:x")])
    rejected = rejections(pods, lab)
    assert rejected.keys() == {"a", "c"}
    assert rejected["c"].endswith(
        "topology default/lab: line 1: endpoints: x in pod a is taken by the link default.a.x.b.x"
    )
    assert link_names(pods, lab) == ["default.a.x.b.x"]


def test_a_topology_takes_precedence_over_a_pods_declaration() -> None:
    pods = [primary_pod("a", "hub"), pod("hub"), pod("z")]
    rejected = rejections(pods, topology([link_item("hub:in2", "z:in9")]))
    assert rejected.keys() == {"a"}
    assert "ratchet.pair_ifname: in2 in pod hub is taken by the link default.hub.in2.z.in9" in rejected["a"]


# Invalid topologies


@pytest.mark.parametrize(
    ("item", "cause"),
    [
        ({"endpoints": ["a:x", "b:x"], "mtu": 1}, 'mtu: invalid MTU "1"'),
        ({"endpoints": ["a:x", "b:x"], "addresses": ["x", None]}, 'addresses: invalid address "x"'),
        ({"endpoints": ["a:x", "a:y"]}, "endpoints: a pod cannot be linked to itself"),
    ],
)
def test_an_invalid_link_rejects_only_its_own_pods(item: dict[str, Any], cause: str) -> None:
    lab = topology([item, link_item("c:x", "d:x")])
    rejected = rejections([pod("a"), pod("b"), pod("c"), pod("d")], lab)
    assert rejected.keys() == {"a", "b"} if "b:x" in item["endpoints"] else {"a"}
    assert rejected["a"].startswith(f"cannot link pod default/a: topology default/lab: line 1: {cause}")
    assert link_names([], lab) == ["default.c.x.d.x"]


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
        ("- endpoints: [a:x, 'b:1Y']", 'line 1: endpoints: invalid interface name "1Y"'),
        ("-\n  endpoints: [a:x, b:x]\n  peer: c", "line 3: peer: unknown field of a link"),
        ("- endpoints: [a:x", "line 2: did not find expected"),
    ],
)
def test_an_unreadable_topology_rejects_every_pod_that_its_text_names(text: str, cause: str) -> None:
    pods = [pod("a"), pod("z"), Pod(PODS[0].ref)]
    rejected = rejections(pods, topology(f"{text}  # a and z"))
    assert rejected.keys() == {"a", "z"}
    for name, error in rejected.items():
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
def test_a_topology_names_every_pod_if_the_pods_of_all_its_links_can_be_read(text: str, readable: bool) -> None:
    assert names_every_pod(topology(text), {"eth0", "lo"}) is readable


@pytest.mark.parametrize(
    ("text", "concerned"),
    [
        ("- endpoints: [router-a:x, router-b:x", {"router-a", "router-b"}),
        ("- endpoints: [router-a:x]", {"router-a"}),
        ("- endpoints: [alias:x]", {"aliased-7f9c"}),
        ("- endpoints: [aliased-7f9c:x]", {"aliased-7f9c"}),
        ("- endpoints: [xrouter-ax:y]", {"router-a"}),  # a match inside another name counts too
        ("links: []", set()),
        ("- mtu: 1400", set()),
        (r'- endpoints: ["\x72outer-a:x"]', {"router-a", "router-b", "aliased-7f9c"}),  # an escape may spell any name
        ('- endpoints: ["router\\\n  -a:x"]', {"router-a", "router-b", "aliased-7f9c"}),
    ],
)
def test_an_unreadable_topology_rejects_only_pods_whose_name_it_may_contain(text: str, concerned: set[str]) -> None:
    pods = [pod("router-a"), pod("router-b"), pod("aliased-7f9c", pod_name="alias")]
    assert rejections(pods, topology(text)).keys() == concerned


def decoded(**content: Any) -> Topology:
    return decode_topology({"metadata": {"namespace": "default", "name": "lab"}, **content})


def test_a_topology_without_links_rejects_the_pods_that_it_names() -> None:
    pods, text = [pod("router-a"), pod("router-b")], "- endpoints: [router-a:x, y:x]"
    utf16 = b64encode(text.encode("utf-16")).decode()
    cause = "cannot link pod default/router-a: topology default/lab: it has no key links in data: found"
    for topology, found in (
        (decoded(data={"links.yaml": text}), "links.yaml"),
        (decoded(data={"Links": text, "README": "x"}), "Links, README"),
        (decoded(binaryData={"links": utf16}), "links as binary data"),
    ):
        assert rejections(pods, topology) == {"router-a": f"{cause} {found}"}
        assert not names_every_pod(topology, {"eth0"})
    assert rejections(pods, decoded()) == rejections(pods, decoded(data={"links": ""})) == {}
    assert not names_every_pod(decoded(), {"eth0"})
    assert decoded(data={"links": "", "x": text}).fault == ""
    assert decoded(binaryData={"links": "not base64"}).text == ""


@pytest.mark.parametrize("null", ["null", "Null", "NULL", "~"])
def test_null_has_all_forms_of_yaml(null: str) -> None:
    text = f"- {{endpoints: [a:x, b:x], mac: [{null}, 02:00:00:00:00:01]}}"
    (wanted,) = wanted_links([], topologies=[topology(text)]).links
    assert wanted.link.primary.properties.mac is None


def test_find_problems_reports_invalid_links_whose_pods_do_not_exist() -> None:
    lab = topology([link_item("a:x", "b:x", mtu=1), link_item("a:y", "c:y")])
    found = find_problems([pod("a")], [lab])
    assert [one.text for one in found if one.is_error] == [
        "topology default/lab: line 1: endpoints: pod c: there is no such pod",
        'topology default/lab: line 1: mtu: invalid MTU "1": expected bytes from 68 to 65535',
    ]
    assert Problem(True, "topology default/lab: line 1: endpoints: pod b: there is no such pod") in find_problems(
        [], [topology([link_item("a:x", "b:x")])]
    )


strings = st.sampled_from(["a:x", "b:x", "a", "", "10.0.0.1/24", "1400", "é", "x" * 90])
fields = st.sampled_from(["endpoints", "addresses", "mtu", "mac", "colour"])
documents = st.recursive(
    strings, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=5)
)


def test_any_text_is_accepted_or_rejected_with_a_short_printable_error() -> None:
    outcomes = set()

    @given(documents.map(json.dumps) | st.text(max_size=60))
    @example(json.dumps([link_item("a:x", "b:x")]))
    def check(text: str) -> None:
        pods = [pod("a"), pod("b"), annotated(pod("c"), links="[]")]
        wanted = wanted_links(pods, topologies=[topology(text)])
        for error in wanted.refused.values():
            assert str(error).isascii()
            assert str(error).isprintable()
            assert len(str(error)) < 400
        outcomes.add((bool(wanted.refused), bool(wanted.links)))

    check()
    assert {(False, True), (False, False), (True, False)} <= outcomes


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("state: up", "up up"),
        ("state: down", "down down"),
        ("state: [down, up]", "cut up"),
        ("state: [up, down]", "up cut"),
    ],
)
def test_a_state_is_of_the_carrier_or_of_what_each_pod_sends(text: str, states: str) -> None:
    (drawn,) = drawn_links(Topology("default", "lab", f'- {{endpoints: ["a:x", "b:y"], {text}}}'), {"lo"})
    assert not isinstance(drawn, Faulty)
    assert f"{drawn.link.primary.properties.state} {drawn.link.pair.properties.state}" == states


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("state: cut", 'invalid state "cut": expected up or down'),
        ("state: [down]", "expected a list of two"),
        ("state: down, wiring: direct", "a link in direct wiring cannot be down: it needs wiring: panel"),
        ("on_edit: never", 'invalid on_edit "never": expected live or restart'),
        ("on_edit: [live, live]", "expected one value for the link"),
    ],
)
def test_an_invalid_state_or_on_edit_is_rejected(text: str, cause: str) -> None:
    (drawn,) = drawn_links(Topology("default", "lab", f'- {{endpoints: ["a:x", "b:y"], {text}}}'), {"lo"})
    assert isinstance(drawn, Faulty)
    assert cause in drawn.cause
