"""`ratchet graph`: the diagram of nodes, pods and links, and its output formats."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from ratchet.cli.diagram import Diagram, Edge, EdgeEnd, diagram_of
from ratchet.cli.graph import RANKED_MAX, dot, mermaid, render
from ratchet.cli.main import main
from ratchet.core.intent import wanted_links
from ratchet.core.kinds import Kind
from ratchet.core.model import Side, State
from ratchet.core.operations import RecordedOperation
from ratchet.core.pod import Pod
from ratchet.errors import RatchetError
from tests.support.links import NOW, RECORD, declaring_pod, joined, later, own, pod, primary_pod, vxlan, with_ready

Captured = pytest.CaptureFixture[str]
PODS = [replace(declaring_pod(), node="node-a"), replace(pod("pair-pod"), node="node-b")]
LINKED = replace(with_ready(vxlan(), *Side), vni=11)
EDGE = Edge(RECORD, EdgeEnd("primary-pod", "in1"), EdgeEnd("pair-pod", "in2"), State.LINKED, Kind.VXLAN, 11)
NODES = {"node-a": ("primary-pod",), "node-b": ("pair-pod",)}


def chain(pods: int) -> Diagram:
    """A chain of `pods` pods that are on no node."""
    edges = [Edge(str(one), EdgeEnd(f"p{one}", "a"), EdgeEnd(f"p{one + 1}", "b")) for one in range(pods - 1)]
    return Diagram({"": tuple(f"p{one}" for one in range(pods))}, tuple(edges))


# Contents


def test_pods_are_grouped_by_node_and_links_have_their_recorded_state() -> None:
    assert diagram_of(wanted_links(PODS), {RECORD: LINKED}, PODS) == Diagram(NODES, (EDGE,))


def test_a_link_without_a_record_is_pending_unless_no_records_were_read() -> None:
    (pending,) = diagram_of(wanted_links(PODS), {}, PODS).edges
    assert (pending.state, pending.label) == (State.PENDING, "")
    (unknown,) = diagram_of(wanted_links(PODS), None, PODS).edges
    assert unknown.state is None


def test_a_vxlan_shows_its_vni_and_a_veth_has_none() -> None:
    assert EDGE.label == "vxlan 11"
    veth = replace(with_ready(joined(own(Side.PRIMARY), own(Side.PAIR)), *Side), vni=11)
    (edge,) = diagram_of(wanted_links(PODS), {RECORD: veth}, PODS).edges
    assert (edge.label, edge.vni) == ("veth", None)


def test_a_link_with_an_operation_shows_it_until_it_ends() -> None:
    operation = RecordedOperation("1", "flap 5 times, 1s down and 1s up", "alice", NOW, later(9))
    records = {RECORD: replace(LINKED, operation=operation)}
    (edge,) = diagram_of(wanted_links(PODS), records, PODS, later(8)).edges
    assert edge.label == "vxlan 11 (flap)"
    text = mermaid(Diagram(NODES, (edge,)))
    assert '-.-|"in1 – in2 · vxlan 11 (flap)"|' in text
    assert "linkStyle 0 stroke:#762a83" in text
    (edge,) = diagram_of(wanted_links(PODS), records, PODS, later(9)).edges
    assert edge == EDGE


def test_an_edited_link_shows_that_it_wants_a_restart() -> None:
    pods = [primary_pod("primary-pod", "pair-pod"), PODS[1]]
    (edge,) = diagram_of(wanted_links(pods), {RECORD: LINKED}, pods).edges
    assert (edge.edited, edge.label) == (True, "vxlan 11 wants a restart")


def test_missing_pods_are_drawn_and_pods_without_links_are_not() -> None:
    pods = [primary_pod("a", "b"), pod("alone"), Pod(pod("x").ref)]
    assert diagram_of(wanted_links(pods), {}, pods).nodes == {"": ("a", "b")}


# Output formats


def test_mermaid_shows_nodes_pods_and_links() -> None:
    edges = (
        EDGE,
        replace(EDGE, link="other", near=EdgeEnd("primary-pod", "in3"), state=State.PENDING, kind=None, vni=None),
    )
    assert mermaid(Diagram({**NODES, "": ('a"b',)}, edges)) == (
        "flowchart LR\n"
        '  subgraph n0["node-a"]\n'
        '    p0["primary-pod"]\n'
        "  end\n"
        '  subgraph n1["node-b"]\n'
        '    p1["pair-pod"]\n'
        "  end\n"
        '  p2["a#quot;b"]\n'
        '  p0 ---|"in1 – in2 · vxlan 11"| p1\n'
        '  p0 -.-|"in3 – in2"| p1\n'
        "  linkStyle 0 stroke:#1b7837\n"
        "  linkStyle 1 stroke:#888888\n"
    )


def test_dot_shows_nodes_pods_and_links() -> None:
    text = dot(Diagram(NODES, (EDGE,)))
    for expected in ("cluster_0", "node-a", "node-b", "primary-pod", "vxlan 11", " in1 ", " in2 ", "#1b7837"):
        assert expected in text


@pytest.mark.parametrize("pods", [4, RANKED_MAX + 28])
def test_svg_has_every_pod_and_every_link(pods: int) -> None:
    if shutil.which("dot") is None:
        pytest.skip("needs Graphviz")
    root = ElementTree.fromstring(render(chain(pods), "svg"))
    found = [one.get("class") for one in root.iter() if one.get("class")]
    assert (found.count("node"), found.count("edge")) == (pods, pods - 1)


def test_without_graphviz_the_error_suggests_mermaid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RatchetError, match="cannot draw the diagram: Graphviz is not installed") as raised:
        render(chain(2), "svg")
    assert "-o mermaid" in raised.value.details


def test_links_of_a_manifest_file_are_drawn(tmp_path: Path, capsys: Captured) -> None:
    metadata = {"name": "lab", "namespace": "lab", "labels": {"ratchet.topology": "true"}}
    lab = {"kind": "ConfigMap", "metadata": metadata, "data": {"links": "- endpoints: [a:in1, b:in2]"}}
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump(lab))
    assert main(["graph", "-f", str(file), "-n", "lab"]) == 0
    assert '  p0 ---|"in1 – in2"| p1\n' in capsys.readouterr().out
    assert main(["graph", "-f", str(file), "-n", "elsewhere"]) == 0
    assert capsys.readouterr().out == "flowchart LR\n"
