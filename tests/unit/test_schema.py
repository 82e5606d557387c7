"""The JSON Schema of lists of links, for editors: it accepts whatever Ratchet accepts, and rejects many errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import ratchet
from ratchet.core.intent import wanted_links
from ratchet.core.intent.topologies import Faulty, drawn_links
from ratchet.core.pod import Topology
from tests.support.links import annotated, pod

SCHEMA = json.loads((Path(ratchet.__file__).parent / "schemas" / "links.json").read_text())


def schema_accepts(kind: str, declaration: object) -> bool:
    """Whether the schema accepts this as a topology or an annotation."""
    schema = {"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{kind}"}
    return bool(jsonschema.Draft202012Validator(schema).is_valid(declaration))


def ratchet_accepts(kind: str, declaration: object) -> bool:
    """Whether Ratchet accepts this as a topology or an annotation."""
    text = json.dumps(declaration)
    if kind == "topology":
        parsed = drawn_links(Topology("default", "x", text), {"lo", "eth0"})
        return not any(isinstance(one, Faulty) for one in parsed)
    return not wanted_links([annotated(pod("hub"), links=text)]).refused


def test_the_schema_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_accepts_the_examples_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "topologies.md").read_text()
    lab, hub, more, _operations, _role = [
        yaml.safe_load(block.partition("```")[0]) for block in text.split("```yaml\n")[1:]
    ]
    assert schema_accepts("topology", yaml.safe_load(lab["data"]["links"]))
    assert schema_accepts("annotation", yaml.safe_load(hub["metadata"]["annotations"]["ratchet.links"]))
    assert schema_accepts("topology", more)
    assert ratchet_accepts("topology", more)


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"endpoints": ["a:x"]},
        {"endpoints": ["a", "b"]},
        {"endpoints": ["a:x", "b:eth0"]},
        {"endpoints": ["a:x", "b:1x"]},
        {"endpoints": ["a:x", "b:x"], "colour": "red"},
        {"endpoints": ["a:x", "b:x"], "mtu": 67},
        {"endpoints": ["a:x", "b:x"], "mtu": [1500]},
        {"endpoints": ["a:x", "b:x"], "mac": "02:00:00:00:00:01"},
        {"endpoints": ["a:x", "b:x"], "addresses": ["10.0.0.1/24"]},
        {"endpoints": ["a:x", "b:x"], "txqlen": -1},
        {"endpoints": ["a:x", "b:x"], "routes": [{"to": "10.0.0.0/8", "dev": "x"}, None]},
        {"endpoints": ["a:x", "b:x"], "routes": {"to": "10.0.0.0/8"}},
        {"endpoints": ["a:x", "b:x"], "sysctls": {"net.ipv4.ip_forward": 1}},
        {"endpoints": ["a:x", "b:x"], "sysctls": {"net.ipv6.conf.IFNAME.accept_ra": 1}},
        {"endpoints": ["a:x", "b:x"], "offloads": "maybe"},
        {"endpoints": ["a:x", "b:x"], "rate": 100},
        {"endpoints": ["a:x", "b:x"], "kind": "veth"},
        {"endpoints": ["a:x", "b:x"], "vxlan_port": [1, 2]},
        {"endpoints": ["a:x", "b:x"], "wiring": "patch"},
        {"endpoints": ["a:x", "b:x"], "wiring": ["panel", "panel"]},
        {"endpoints": ["a:x", "b:x"], "addresses": ["x", None]},
    ],
)
def test_the_schema_and_ratchet_reject_an_invalid_link(item: dict[str, Any]) -> None:
    """Of the other direction, the examples: the schema accepts errors that a schema cannot express."""
    assert not schema_accepts("topology", [item])
    assert not ratchet_accepts("topology", [item])
    if len(item) > 1:
        assert not schema_accepts("annotation", as_annotation([item]))
        assert not ratchet_accepts("annotation", as_annotation([item]))


ends = ["10.0.0.1/24", "2001:db8::1", ["10.0.0.2/24", "fd00::1/64"], [], None, "", "x", 7]
sizes = [1400, "1400", 68, 65535, 67, None, "", "x"]
macs = ["02:00:00:00:00:01", "02:00:00:00:00:0A", None, "", "x"]
routes = [{"to": "10.0.0.0/8"}, {"to": "default", "via": "10.0.0.2", "metric": 5}, {"to": "::/0", "via": "fe80::1"}]
routes += [{"to": "x"}, {"via": "10.0.0.2"}, {"to": "10.0.0.0/8", "via": None, "metric": "7"}, {}, None, "", "x"]
filters = [{"net.ipv4.conf.IFNAME.rp_filter": value} for value in (0, "2", "", None, "x")]
sysctls = [*filters, {"net.ipv4.conf.all.rp_filter": 1}, {}, None, "", "x"]
switches = ["on", "OFF", True, False, "true", "", None, 1, "x"]
rates = ["100mbit", "1.5Gbit", "8 kbit", "8000bit", "1bit", "", None, 100, "x"]


def one_or_list(values: list[Any]) -> st.SearchStrategy[Any]:
    """One value for both ends, or a list of one to three values. Only a list of two is valid."""
    return st.sampled_from(values) | st.lists(st.sampled_from(values), min_size=1, max_size=3)


ENDPOINTS = st.lists(st.sampled_from(["a:x", "b:y", "a:eth0", "b", "A.b_c:in1.2-x"]), min_size=1, max_size=3)
PROPERTIES: dict[str, st.SearchStrategy[Any]] = {
    "addresses": st.sampled_from([None, ""]) | st.lists(st.sampled_from(ends), min_size=1, max_size=3),
    "mtu": st.sampled_from(sizes) | st.lists(st.sampled_from(sizes), min_size=1, max_size=3),
    "mac": st.sampled_from([None, ""]) | st.lists(st.sampled_from(macs), min_size=1, max_size=3),
    "txqlen": one_or_list([5, 0, "7", -1, None, "", "x"]),
    "routes": one_or_list([*routes, routes[:2], []]),
    "sysctls": one_or_list(sysctls),
    "offloads": one_or_list(switches),
    "rate": one_or_list(rates),
    "kind": one_or_list(["auto", "vxlan", "veth", "", None]),
    "wiring": one_or_list(["direct", "panel", "patch", "", None]),
    "vxlan_port": one_or_list([4790, "4790", 0, 65536, "", None]),
}
# Most items with many properties are invalid, so half of the items have only one, and valid endpoints.
WITH_SEVERAL = st.fixed_dictionaries({"endpoints": ENDPOINTS}, optional=PROPERTIES)
WITH_ONE = st.sampled_from(sorted(PROPERTIES)).flatmap(
    lambda name: st.fixed_dictionaries({"endpoints": st.just(["a:x", "b:y"]), name: PROPERTIES[name]})
)


def as_annotation(declaration: list[Any]) -> list[Any]:
    """The links of a topology as those of the annotation of one pod."""
    ends = {"peer": "b", "ifname": "x", "peer_ifname": "y"}
    return [{**ends, **{key: value for key, value in item.items() if key != "endpoints"}} for item in declaration]


def test_the_schema_accepts_whatever_ratchet_accepts() -> None:
    """And Ratchet accepts some of the declarations with each property, and rejects some."""
    verdicts: dict[str, set[tuple[str, bool]]] = {name: set() for name in PROPERTIES}

    def check(kind: str, declaration: list[Any] | None) -> None:
        accepted = ratchet_accepts(kind, declaration)
        assert schema_accepts(kind, declaration) or not accepted
        for item in declaration or ():
            for name in item.keys() & verdicts.keys():
                verdicts[name].add((kind, accepted))

    @settings(max_examples=600)
    @given(st.none() | st.lists(WITH_SEVERAL | WITH_ONE, max_size=2))
    def search(declaration: list[Any] | None) -> None:
        check("topology", declaration)
        if declaration is not None:
            check("annotation", as_annotation(declaration))

    search()
    every = {(kind, accepted) for kind in ("topology", "annotation") for accepted in (True, False)}
    assert verdicts == dict.fromkeys(PROPERTIES, every)
