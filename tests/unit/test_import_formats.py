"""`ratchet import` of KNE's topologies and Kathará's labs, and what it says of other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet.cli.main import main
from ratchet.cli.protobuf_text import parse_protobuf_text
from ratchet.cli.yaml_nodes import DEPTH_MOST, Kind, Node, SyntaxFaultError

Captured = pytest.CaptureFixture[str]

KNE = """\
# two routers
name: "lab"
nodes: {
    name: 'r1'
    vendor: ARISTA
    services: <key: 22, value: {names: ["ssh", "x"] inside: 22}>
}
nodes { name: "r2" }
links: {
    a_node: "r1"
    a_int: "eth1"; z_node: "r" "2"
    z_int: "eth1"
}
"""
KNE_YAML = """\
name: lab
nodes: [{name: r1}, {name: r2}]
links:
- {a_node: r1, a_int: eth1, z_node: r2, z_int: eth1}
"""
KATHARA = """\
LAB_NAME="lab"
# the routers
r1[1]="A/02:00:00:00:00:01"   # to r2
r2[1]=A
r1[2]='B'
r2[2]='B'
r3[2]="B"
r1[image]="kathara/frr"
"""


def imported(text: str, folder: Path, capsys: Captured, name: str = "theirs") -> tuple[list[dict[str, Any]], list[str]]:
    """Import a file, and return its links and the lines of stderr."""
    file = folder / name
    file.write_text(text)
    assert main(["import", str(file)]) == 0
    out, err = capsys.readouterr()
    return yaml.safe_load(yaml.safe_load(out)["data"]["links"]), err.splitlines()


@pytest.mark.parametrize("text", [KNE, KNE_YAML], ids=["text format", "YAML"])
def test_the_links_of_a_kne_topology_are_converted(text: str, tmp_path: Path, capsys: Captured) -> None:
    links, messages = imported(text, tmp_path, capsys)
    assert links == [{"endpoints": ["r1:eth1", "r2:eth1"]}]
    assert messages == [
        "not converted: nodes: create a pod for each node; vendors, images and configurations are not converted"
    ]


def test_a_kne_link_without_an_end_is_reported(tmp_path: Path, capsys: Captured) -> None:
    text = KNE + 'links: {a_node: "r1" a_int: "eth2"}\n'
    links, messages = imported(text, tmp_path, capsys)
    assert len(links) == 1
    assert "not converted: line 14: links[1].z_node: expected text, found nothing" in messages


def test_collision_domains_of_two_machines_are_converted(tmp_path: Path, capsys: Captured) -> None:
    links, messages = imported(KATHARA, tmp_path, capsys, "lab.conf")
    assert links == [{"endpoints": ["r1:eth1", "r2:eth1"], "mac": ["02:00:00:00:00:01", None]}]
    assert messages == [
        "not converted: settings of machines: image is not converted",
        "not converted: line 5: collision domain B: 3 interfaces, a link has two",
    ]


def test_interfaces_are_numbered_one_higher_if_a_machine_uses_eth0(tmp_path: Path, capsys: Captured) -> None:
    links, messages = imported("a[0]=A\nb[0]=A\na[1]=B\nb[1]=B\n", tmp_path, capsys, "lab.conf")
    assert [link["endpoints"] for link in links] == [["a:eth1", "b:eth1"], ["a:eth2", "b:eth2"]]
    assert messages == ["note: interfaces are numbered one higher, because eth0 is the interface of the pod network"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("r1[0]=A\nnonsense\n", "line 2: expected machine[key]=value, found nonsense"),
        ("nodes: {}\nlinks: {a_node: 'x'\n", "line 2: the message that begins here does not end"),
        ("links: {a_node: } links: {}\n", "line 1: expected a value, found }"),
        ("topology:\n  links: [{{ range . }}]\n", "it looks like a template"),
        ("kind: Pod\n", "it has the fields kind"),
        ("", "it has 0 objects"),
    ],
)
def test_a_file_that_is_not_supported_is_an_error(text: str, error: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "f"
    file.write_text(text)
    assert main(["import", str(file)]) == 1
    assert error in capsys.readouterr().err


# The text format


def fields(text: str) -> dict[str, Node]:
    return dict(parse_protobuf_text(text).fields or {})


def test_a_repeated_field_is_a_list() -> None:
    assert [one.text for one in fields("a: 1 a: 2")["a"].items] == ["1", "2"]
    assert [one.text for one in fields("a: [1, 2]")["a"].items] == ["1", "2"]
    assert fields("a: 1")["a"].kind is Kind.NUMBER
    assert "a" not in fields("a: []")


def test_texts_words_and_marks_are_read() -> None:
    found = fields("a: \"x\\\"y\" 'z' # comment\nb: TRUE; c { d: -1.5e3 }, e < f: 'g' >")
    assert (found["a"].text, found["b"].text) == ('x"yz', "TRUE")
    assert (found["c"].fields or {})["d"].text == "-1.5e3"
    assert (found["e"].fields or {})["f"].line == 2


@pytest.mark.parametrize("text", ["a: {", "}", "a: 'x", "a: [1", "{", "a: ;", "\x00", "a {" * (DEPTH_MOST + 1)])
def test_an_invalid_text_is_rejected(text: str) -> None:
    with pytest.raises(SyntaxFaultError):
        parse_protobuf_text(text)
