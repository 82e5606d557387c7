"""The annotation `ratchet.links`: its fields, its errors, and its combination with other declarations."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ratchet.core.endpoint_spec import EndpointSpec
from ratchet.core.intent import wanted_links
from ratchet.core.intent.link_parser import LINKS_MOST
from ratchet.core.model import Encapsulation, Link, Side
from ratchet.core.pod import Pod, Topology
from tests.support.links import NOW, annotated, pod, primary_pod

HUB = """\
- {peer: a, ifname: eth1, peer_ifname: up0, addresses: [10.0.1.1/24, 10.0.1.2/24]}
- peer: b
  ifname: eth2
  peer_ifname: up0
  addresses:
    - [10.0.2.1/31, 2001:db8::1/64]
    -
  mtu: 1400
- peer: c
  ifname: eth3
  peer_ifname: up0
  mtu: [9000, 1500]
  mac: [02:11:22:33:44:55, null]
"""


def listing(name: str, *items: object, seconds: float = 0.0) -> Pod:
    """A pod with these links in its annotation, created `seconds` after the others."""
    return replace(annotated(pod(name), links=json.dumps(items)), created=NOW + timedelta(seconds=seconds))


def item(peer: str, ifname: str = "in1", peer_ifname: str = "in2", **properties: object) -> dict[str, object]:
    return {"peer": peer, "ifname": ifname, "peer_ifname": peer_ifname, **properties}


def refusals(*pods: Pod) -> dict[str, str]:
    """The errors of the rejected pods, by pod name."""
    refused = wanted_links(pods).refused
    return {one.ref.name: str(refused[one.ref.uid]) for one in pods if one.ref.uid in refused}


def links(pods: Iterable[Pod]) -> list[Link]:
    wanted = wanted_links(pods)
    assert wanted.refused == {}
    return [one.link for one in wanted.links]


def test_an_annotation_declares_several_links() -> None:
    first, second, third = links([annotated(pod("hub"), links=HUB), pod("a"), pod("b"), pod("c")])
    assert (first.name, second.name) == ("default.a.up0.hub.eth1", "default.b.up0.hub.eth2")
    assert first.primary.addresses == (ip_interface("10.0.1.1/24"),)
    assert first.pair.addresses == (ip_interface("10.0.1.2/24"),)
    assert first.primary.properties == EndpointSpec()
    assert second.primary.addresses == (ip_interface("10.0.2.1/31"), ip_interface("2001:db8::1/64"))
    assert second.pair.addresses == ()
    assert second.primary.properties == second.pair.properties == EndpointSpec(mtu=1400)
    assert third.primary.properties == EndpointSpec(9000, "02:11:22:33:44:55")
    assert third.pair.properties == EndpointSpec(1500, None)


def test_an_annotation_may_be_json_or_empty() -> None:
    assert [one.name for one in links([listing("hub", item("a"))])] == ["default.a.in2.hub.in1"]
    for nothing in ("", "[]", "null", "# none yet\n"):
        assert links([annotated(pod("hub"), links=nothing)]) == []


def test_the_annotation_and_the_labels_of_one_pod_add_up() -> None:
    both = annotated(primary_pod("a", "b"), links=json.dumps([item("c", "in9")]))
    assert [one.name for one in links([both])] == ["default.a.in1.b.in2", "default.a.in9.c.in2"]


def test_the_annotation_of_a_pod_without_the_ratchet_label_is_ignored() -> None:
    assert links([replace(listing("hub", item("a")), labels={})]) == []


WRONG = [
    ("peer: a", "line 1: expected a list of links"),
    ("[in1]", "line 1: expected a link with peer, ifname and peer_ifname"),
    ("- peer: a\n  ifname: in1", "line 1: peer_ifname: it is missing"),
    ("- peer: a\n  ifname:\n  peer_ifname: in2", "line 2: ifname: it is missing"),
    ("- {peer: a, ifname: in1, peer_ifname: in2}\n- {ifname: in3}", "line 2: peer: it is missing"),
    ("- peer: a\n  ifname: 1in\n  peer_ifname: in2", 'line 2: ifname: invalid interface name "1in"'),
    ("- peer: [a]\n  ifname: in1\n  peer_ifname: in2", "line 1: peer: expected text"),
    ("- peer: ../a\n  ifname: in1\n  peer_ifname: in2", 'line 1: peer: invalid name "../a"'),
    ("- peer: hub\n  ifname: in1\n  peer_ifname: in2", "line 1: peer: a pod cannot be linked to itself"),
    ("- peer: a\n  peer: b", "line 2: peer: duplicate field"),
    ("- peer: a\n  colour: red", "line 2: colour: unknown field of a link"),
    ("- peer: a\n ifname: b", "line 2: "),
    ("- &x {peer: a}\n- *x", "line 1: anchors and aliases are not supported"),
    ("- []\n---\n- []", "line 2: expected one document, found a second"),
    ("- " * 50 + "x", "line 1: nested deeper than"),
    ("[" * 100_000, "line 1: "),
    ("\x1b", "line 1: "),
    (json.dumps([item("a")] * (LINKS_MOST + 1)), f"line 1: too many links: {LINKS_MOST + 1}, at most {LINKS_MOST}"),
]
WRONG_FIELDS = [
    ("addresses", "10.0.0.1/24", "expected a list of two, one for each end"),
    ("addresses", ["10.0.0.1/24"], "expected a list of two"),
    ("addresses", ["10.0.0.1/24", "10.0.0.1/25"], "both ends have 10.0.0.1"),
    ("addresses", [["10.0.0.1/24", "10.0.0.1/25"], None], "duplicate address"),
    ("addresses", [{"a": "b"}, None], "expected text"),
    ("addresses", [None, "10.0.0.0/24"], "10.0.0.0/24 is the network or broadcast address of its network"),
    ("mtu", 67, 'invalid MTU "67": expected bytes from 68 to 65535'),
    ("mtu", 65536, "invalid MTU"),
    ("mtu", "1e3", "invalid MTU"),
    ("mtu", [1500, 1500, 1500], "expected a list of two"),
    ("mtu", {"near": 1}, "expected a list of two"),
    ("mac", "02:00:00:00:00:01", "expected a list of two"),
    ("mac", ["02:00:00:00:00:01", "02:00:00:00:00:01"], "both ends have 02:00:00:00:00:01"),
    ("mac", ["03:00:00:00:00:01", None], "MAC address 03:00:00:00:00:01 is multicast or zero"),
    ("mac", ["00:00:00:00:00:00", None], "MAC address 00:00:00:00:00:00 is multicast or zero"),
    ("mac", ["02-00-00-00-00-01", None], "invalid MAC address"),
    ("txqlen", -1, 'invalid txqlen "-1": expected packets from 0 to 1000000'),
    ("txqlen", [1, 2, 3], "expected a list of two"),
    ("offloads", "maybe", 'invalid value "maybe": expected on or off'),
    ("rate", 100, 'invalid rate "100": expected a number and a unit, such as 100mbit, from 8kbit to 1000gbit'),
    ("rate", "7kbit", "invalid rate"),
    ("rate", "2000gbit", "invalid rate"),
    ("rate", "8000.5bit", "invalid rate"),
    ("rate", "100mbps", "invalid rate"),
    ("kind", "veth", 'invalid kind "veth": expected auto or vxlan'),
    ("kind", ["vxlan", "vxlan"], "expected one value for the link, not one for each end"),
    ("wiring", "patch", 'invalid wiring "patch": expected direct or panel'),
    ("wiring", "Panel", 'invalid wiring "Panel": expected direct or panel'),
    ("wiring", ["panel", "panel"], "expected one value for the link, not one for each end"),
    ("vxlan_port", 0, 'invalid UDP port "0": expected a number from 1 to 65535'),
    ("vxlan_port", 65536, "invalid UDP port"),
    ("vxlan_port", [4789, 4789], "expected one value for the link"),
    ("sysctls", "net.ipv4.ip_forward=1", "expected a mapping of sysctls to values"),
    ("sysctls", {"net.ipv4.ip_forward": 1}, "not a sysctl of an interface, such as net.ipv4.conf.IFNAME.rp_filter"),
    ("sysctls", {"net.ipv4.conf.all.rp_filter": 1}, "not a sysctl of an interface"),
    ("sysctls", {"net.ipv4.conf.in1.rp_filter": 1}, "not a sysctl of an interface"),
    ("sysctls", {"net.ipv4.conf.IFNAME/../all.rp_filter": 1}, "not a sysctl of an interface"),
    ("sysctls", {"net.ipv4.conf.IFNAME.mc_forwarding": 1}, "not an allowed sysctl of a link"),
    ("sysctls", {"net.ipv6.conf.IFNAME.accept_ra": 2}, "ratchet keeps it at 0"),
    (
        "sysctls",
        {"net.ipv4.conf.IFNAME.rp_filter": "x"},
        'net.ipv4.conf.IFNAME.rp_filter: invalid value "x": expected a number',
    ),
    ("sysctls", {"net.ipv4.conf.IFNAME.rp_filter": [1]}, "expected text"),
    ("routes", {"to": "10.0.0.0/8"}, "expected a list of two"),
    ("routes", ["10.0.0.0/8", None], "expected a route with to, and optionally via and metric"),
    ("routes", [{"via": "10.0.0.1"}, None], "expected a route with to, and optionally via and metric"),
    ("routes", [{"to": "10.0.0.1/8"}, None], 'to: "10.0.0.1/8": 10.0.0.1/8 has host bits set'),
    ("routes", [{"to": "default"}, None], "to: default requires via"),
    ("routes", [{"to": "224.0.0.0/4"}, None], "to: 224.0.0.0/4 is multicast or loopback"),
    ("routes", [{"to": "10.0.0.0/8", "via": "x"}, None], 'via: "x": '),
    (
        "routes",
        [{"to": "10.0.0.0/8", "via": "fd00::1"}, None],
        "fd00::1 and 10.0.0.0/8 have different address families",
    ),
    ("routes", [{"to": "10.0.0.0/8", "via": "192.0.2.1"}, None], "192.0.2.1 is in no network of the end's addresses"),
    ("routes", [{"to": "::/0", "via": "fe80::1%eth0"}, None], "has a zone"),
    (
        "routes",
        [{"to": "10.0.0.0/8", "metric": -1}, None],
        'metric: invalid value "-1": expected a number from 0 to 4294967295',
    ),
    (
        "routes",
        [[{"to": "10.0.0.0/8"}, {"to": "10.0.0.0/8", "metric": 0}], None],
        "two routes have the same network and metric",
    ),
    ("routes", [[{"to": f"10.0.{n}.0/24"} for n in range(65)], None], "too many routes: 65, at most 64"),
]


@pytest.mark.parametrize(
    ("said", "cause"), WRONG, ids=[said[:20].encode("unicode_escape").decode() for said, _ in WRONG]
)
def test_an_invalid_annotation_is_reported_with_its_line_and_field(said: str, cause: str) -> None:
    invalid, valid = annotated(pod("hub"), links=said), primary_pod("c", "b")
    reported = refusals(invalid, valid)
    assert reported.keys() == {"hub"}
    assert reported["hub"].startswith(f"cannot link pod default/hub: ratchet.links: {cause}")
    assert reported["hub"].isascii()
    assert reported["hub"].isprintable()
    assert len(reported["hub"]) < 400
    assert [one.link.primary.name for one in wanted_links([invalid, valid]).links] == ["c"]


@pytest.mark.parametrize(("field", "said", "cause"), WRONG_FIELDS)
def test_an_invalid_property_is_reported_with_its_field(field: str, said: Any, cause: str) -> None:
    reported = refusals(listing("hub", item("a", **{field: said})))["hub"]
    assert reported.startswith(f"cannot link pod default/hub: ratchet.links: line 1: {field}: ")
    assert cause in reported


def test_an_unknown_field_of_a_route_is_reported_with_its_name() -> None:
    wrong = item("a", routes=[{"to": "10.0.0.0/8", "dev": "in1"}, None])
    assert "ratchet.links: line 1: routes: dev: unknown field of a route" in refusals(listing("hub", wrong))["hub"]


WITHOUT_IPV6 = {"net.ipv6.conf.IFNAME.disable_ipv6": 1}


@pytest.mark.parametrize(
    ("properties", "cause"),
    [
        (
            {"addresses": ["fd00::1/64", None], "sysctls": [WITHOUT_IPV6, None]},
            "the end has",
        ),
        ({"routes": [{"to": "fd00::/8"}, None], "sysctls": WITHOUT_IPV6}, "the end has"),
        ({"mtu": 1000, "sysctls": {"net.ipv6.conf.IFNAME.hop_limit": 3}}, "an MTU of 1000 is too small for IPv6"),
    ],
)
def test_properties_that_contradict_the_sysctls_are_rejected(properties: dict[str, Any], cause: str) -> None:
    reported = refusals(listing("hub", item("a", **properties)))["hub"]
    assert "line 1: sysctls: " in reported
    assert cause in reported


def test_a_route_via_the_ends_own_address_is_rejected() -> None:
    wrong = item("a", addresses=["10.0.0.1/24", None], routes=[{"to": "10.1.0.0/16", "via": "10.0.0.1"}, None])
    assert "via: 10.0.0.1 is the end's own address" in refusals(listing("hub", wrong))["hub"]


FULL = """\
- peer: a
  ifname: in1
  peer_ifname: in2
  addresses: [[192.168.2.1/24, "fd00::1/64"], 192.168.2.2/24]
  txqlen: [5, null]
  routes:
    - - {to: 10.0.0.0/8, via: 192.168.2.2}
      - {to: default, via: 192.168.2.2, metric: 300}
      - {to: "2001:db8::/32", via: "fe80::1", metric: 1024}
      - {to: "2001:db9::/32", via: "fd00::2"}
      - {to: 10.9.0.0/16, metric: 0}
    - {to: 10.7.0.0/16, via: 192.168.2.1}
  sysctls:
    net.ipv4.conf.IFNAME.rp_filter: "2"
    net.ipv4.conf.IFNAME.forwarding: 1
  offloads: off
  rate: [1.5gbit, 100Mbit]
  kind: vxlan
  vxlan_port: 4790
"""


def test_a_link_with_every_property_is_read() -> None:
    (link,) = links([annotated(pod("hub"), links=FULL), pod("a")])
    sysctls = (("net.ipv4.conf.IFNAME.forwarding", 1), ("net.ipv4.conf.IFNAME.rp_filter", 2))
    assert list(map(str, link.primary.properties.routes)) == [
        "10.0.0.0/8 via 192.168.2.2",
        "0.0.0.0/0 via 192.168.2.2 metric 300",
        "2001:db8::/32 via fe80::1",
        "2001:db9::/32 via fd00::2",
        "10.9.0.0/16",
    ]
    assert list(map(str, link.pair.properties.routes)) == ["10.7.0.0/16 via 192.168.2.1"]
    near, far = (replace(end.properties, routes=()) for end in (link.primary, link.pair))
    assert near == EndpointSpec(txqlen=5, sysctls=sysctls, offloads=False, rate=1_500_000_000)
    assert far == EndpointSpec(sysctls=sysctls, offloads=False, rate=100_000_000)
    assert link.encapsulation == Encapsulation(tunnel=True, vxlan_port=4790)


@pytest.mark.parametrize(
    ("said", "offloads"), [("on", True), ("off", False), (False, False), (True, True), (None, True)]
)
def test_offloads_may_be_words_booleans_or_null(said: object, offloads: bool) -> None:
    (link,) = links([listing("hub", item("a", offloads=said)), pod("a")])
    assert link.primary.properties.offloads is link.pair.properties.offloads is offloads


def test_kind_auto_is_the_default() -> None:
    assert links([listing("hub", item("a", kind="auto"))]) == links([listing("hub", item("a"))])


def test_declarations_with_another_kind_port_or_wiring_conflict() -> None:
    for field, value in (("kind", "vxlan"), ("vxlan_port", 4790), ("wiring", "panel"), ("wiring", "direct")):
        reported = refusals(listing("a", item("b")), listing("b", item("a", "in2", "in1", **{field: value})))
        assert reported.keys() == {"a", "b"}
        assert "declare one link differently" in reported["a"]


def test_an_mtu_below_1280_with_an_ipv6_address_is_rejected() -> None:
    wrong = item("a", addresses=["2001:db8::1/64", None], mtu=[1279, 100])
    assert "mtu: 1279 is too small for IPv6, which needs 1280 bytes" in refusals(listing("hub", wrong))["hub"]


# One link declared twice


def test_equal_declarations_are_one_link_whichever_pod_is_older() -> None:
    ours = item("b", "in1", "in2", addresses=["10.0.0.1/24", "10.0.0.2/24"], mtu=1400)
    theirs = item("a", "in2", "in1", addresses=["10.0.0.2/24", "10.0.0.1/24"], mtu=[1400, 1400])
    for seconds in (-10.0, 10.0):
        pods = [listing("a", ours), listing("b", theirs, seconds=seconds)]
        wanted = wanted_links(pods)
        assert wanted.refused == {}
        assert [one.link.name for one in wanted.links] == ["default.a.in1.b.in2"]
        assert [side for one in pods for _, side in wanted.ends_of(one)] == [Side.PRIMARY, Side.PAIR]


def test_equal_declarations_by_labels_and_annotation_are_one_link() -> None:
    labelled = primary_pod("a", "b", local_ip="10.0.0.1", pair_ip="10.0.0.2")
    listed = listing("b", item("a", "in2", "in1", addresses=["10.0.0.2/24", "10.0.0.1/24"]))
    assert len(links([labelled, listed])) == 1


@pytest.mark.parametrize(
    "difference", [{"mtu": 1400}, {"addresses": ["10.0.0.9/24", None]}, {"mac": [None, "02:00:00:00:00:09"]}]
)
def test_different_declarations_of_one_link_reject_both_pods(difference: dict[str, Any]) -> None:
    pods = [listing("a", item("b")), listing("b", item("a", "in2", "in1", **difference)), listing("c", item("d"))]
    reported = refusals(*pods)
    places = "ratchet.links: line 1 of pod default/a and ratchet.links: line 1 of pod default/b"
    assert reported == {
        name: f"cannot link pod default/{name}: {places} declare one link differently" for name in ("a", "b")
    }
    assert [one.link.name for one in wanted_links(pods).links] == ["default.c.in1.d.in2"]


def test_labels_that_contradict_the_annotation_reject_both_pods() -> None:
    labelled = annotated(primary_pod("a", "b"), links=json.dumps([item("b", mtu=1400)]))
    reported = refusals(labelled, pod("b"))
    assert reported.keys() == {"a", "b"}
    assert "ratchet.links: line 1 of pod default/a and ratchet.pair_name of pod default/a declare one" in reported["a"]


def test_a_pod_with_one_rejected_link_declares_nothing() -> None:
    older = listing("z", item("hub", "in1", "up0"))
    newer = listing("a", item("x", "in7"), item("hub", "in1", "up0"), seconds=10)
    reported = refusals(older, newer, pod("hub"))
    assert reported["a"].endswith("peer_ifname: up0 in pod hub is taken by the link default.hub.up0.z.in1")
    assert [one.link.name for one in wanted_links([older, newer, pod("hub")]).links] == ["default.hub.up0.z.in1"]


def test_a_pod_that_declares_one_interface_twice_is_rejected() -> None:
    reported = refusals(listing("a", item("b"), item("c")))
    assert reported["a"].endswith("ifname: in1 in pod a is taken by the link default.a.in1.b.in2")


# Random input

words = st.sampled_from(["a", "b", "hub", "in1", "in2", "10.0.0.1/24", "1400", "", "02:00:00:00:00:01", "x" * 90, "é"])
fields = st.sampled_from(["peer", "ifname", "peer_ifname", "addresses", "mtu", "mac", "colour"])
things = st.recursive(words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=6))


def test_any_annotation_is_accepted_or_rejected() -> None:
    outcomes = set()

    @given(things.map(json.dumps) | st.text(max_size=60))
    @example(HUB)
    def check(said: str) -> None:
        one = annotated(pod("hub"), links=said)
        wanted = wanted_links([one, pod("a"), pod("b")])
        for error in wanted.refused.values():
            assert str(error).isascii()
            assert str(error).isprintable()
            assert len(str(error)) < 400
        outcomes.add((bool(wanted.refused), bool(wanted.links)))

    check()
    assert outcomes == {(False, True), (False, False), (True, False)}, "a rejected pod declares no link"


def test_the_examples_of_the_documentation_declare_the_documented_links() -> None:
    text = (Path(__file__).parents[2] / "docs" / "topologies.md").read_text()
    lab, manifest, *_ = [yaml.safe_load(block.partition("```")[0]) for block in text.split("```yaml\n")[1:]]
    from_topology = wanted_links([], topologies=[Topology("default", "lab", lab["data"]["links"])])
    assert [one.link.name for one in from_topology.links] == [
        "default.centosa.in1.quagga-a.in2",
        "default.quagga-a.mid1.quagga-b.mid2",
    ]
    hub = replace(pod("hub"), annotations=manifest["metadata"]["annotations"])
    first, second = links([hub, pod("a"), pod("b")])
    assert (first.name, second.name) == ("default.a.up0.hub.eth1", "default.b.up0.hub.eth2")
    assert second.primary.properties == EndpointSpec(1400, "02:00:00:00:00:01")
