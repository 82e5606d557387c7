"""The JSON Schema of lists of links, for editors: it takes whatever Ratchet takes, and refuses what it can tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import ratchet
from ratchet.core.intent import wanted_links
from ratchet.core.intent.topologies import Faulty, drawn_links
from ratchet.core.model import Topology
from tests.support.links import annotated, pod

SCHEMA = json.loads((Path(ratchet.__file__).parent / "schemas" / "links.json").read_text())


def takes(kind: str, said: object) -> bool:
    """Whether the schema takes this as a topology or an annotation."""
    schema = {"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{kind}"}
    return bool(jsonschema.Draft202012Validator(schema).is_valid(said))


def is_wanted(kind: str, said: object) -> bool:
    """Whether Ratchet takes it."""
    text = json.dumps(said)
    if kind == "topology":
        drawn = drawn_links(Topology("default", "x", text), {"lo", "eth0"})
        return not any(isinstance(one, Faulty) for one in drawn)
    return not wanted_links([annotated(pod("hub"), links=text)]).refused


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_documentations_examples_are_as_it_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "topologies.md").read_text()
    lab, hub, more = [yaml.safe_load(block.partition("```")[0]) for block in text.split("```yaml\n")[1:]]
    assert takes("topology", yaml.safe_load(lab["data"]["links"]))
    assert takes("annotation", yaml.safe_load(hub["metadata"]["annotations"]["ratchet.links"]))
    assert takes("topology", more)
    assert is_wanted("topology", more)


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"endpoints": ["a:x"]},
        {"endpoints": ["a", "b"]},
        {"endpoints": ["a:x", "b:eth0"]},
        {"endpoints": ["a:x", "b:X"]},
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
        {"endpoints": ["a:x", "b:x"], "addresses": ["x", None]},
    ],
)
def test_it_refuses_what_ratchet_refuses(item: dict[str, Any]) -> None:
    assert not takes("topology", [item])
    assert not is_wanted("topology", [item])


ends = ["10.0.0.1/24", "2001:db8::1", ["10.0.0.2/24", "fd00::1/64"], [], None, "", "x", 7]
sizes = [1400, "1400", 68, 65535, 67, None, "", "x"]
macs = ["02:00:00:00:00:01", "02:00:00:00:00:0A", None, "", "x"]
routes = [{"to": "10.0.0.0/8"}, {"to": "default", "via": "10.0.0.2", "metric": 5}, {"to": "::/0", "via": "fe80::1"}]
routes += [{"to": "x"}, {"via": "10.0.0.2"}, {"to": "10.0.0.0/8", "via": None, "metric": "7"}, {}, None, "", "x"]
filters = [{"net.ipv4.conf.IFNAME.rp_filter": value} for value in (0, "2", "", None, "x")]
settings = [*filters, {"net.ipv4.conf.all.rp_filter": 1}, {}, None, "", "x"]
switches = ["on", "OFF", True, False, "true", "", None, 1, "x"]
rates = ["100mbit", "1.5Gbit", "8 kbit", "8000bit", "1bit", "", None, 100, "x"]


def for_either(values: list[Any]) -> st.SearchStrategy[Any]:
    """One value for both ends, or a list of two, or of another length."""
    return st.sampled_from(values) | st.lists(st.sampled_from(values), min_size=1, max_size=3)


items = st.fixed_dictionaries(
    {"endpoints": st.lists(st.sampled_from(["a:x", "b:y", "a:eth0", "b", "A.b_c:in1.2-x"]), min_size=1, max_size=3)},
    optional={
        "addresses": st.none() | st.lists(st.sampled_from(ends), min_size=1, max_size=3),
        "mtu": st.sampled_from(sizes) | st.lists(st.sampled_from(sizes), min_size=1, max_size=3),
        "mac": st.none() | st.lists(st.sampled_from(macs), min_size=1, max_size=3),
        "txqlen": for_either([5, 0, "7", -1, None, "", "x"]),
        "routes": for_either([*routes, routes[:2], []]),
        "sysctls": for_either(settings),
        "offloads": for_either(switches),
        "rate": for_either(rates),
        "kind": for_either(["auto", "vxlan", "veth", "", None]),
        "vxlan_port": for_either([4790, "4790", 0, 65536, "", None]),
    },
)


@given(st.none() | st.lists(items, max_size=2))
def test_it_takes_whatever_ratchet_takes(said: list[Any] | None) -> None:
    assert takes("topology", said) or not is_wanted("topology", said)
    if said is not None:
        listed = [{"peer": "b", "ifname": "x", "peer_ifname": "y", **item} for item in said]
        for one in listed:
            del one["endpoints"]
        assert takes("annotation", listed) or not is_wanted("annotation", listed)
