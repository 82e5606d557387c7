"""`ratchet graph`: a diagram of a namespace's links, from the cluster or from manifests."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ratchet.cli.cluster import add_cluster_options, namespace_meant, records_of
from ratchet.cli.diagram import Edge, Picture, picture_of
from ratchet.cli.manual import Manual
from ratchet.cli.snapshot import read_standing
from ratchet.cli.validate import read_file, read_objects
from ratchet.core.intent import wanted_links
from ratchet.core.model import Pod, State, Topology
from ratchet.errors import RatchetError
from ratchet.store.store import ApiStore

MANUAL = Manual(
    description="""
        Print a diagram of the links of a namespace: a box for each node with its pods, a line for each link with its
        interfaces, kind, VNI and state. Green lines are linked, broken lines are not linked yet.

        With -f, draw manifests without a cluster. The formats dot, svg and png need pip install 'ratchet-cni[graph]';
        svg and png also need Graphviz.
    """,
    examples=(
        ("Draw a namespace as Mermaid", "ratchet graph -n lab"),
        ("Draw manifests as SVG", "ratchet graph -f topology.yaml -o svg > topology.svg"),
    ),
    exit_status={0: "the diagram was printed", 1: "the API or a file cannot be read, or Graphviz is missing"},
)

# More pods than these are laid out by springs: in ranks they would make a picture that is all height.
RANKED_MOST = 12
# By what tells them apart without colour too.
LOOKS = {
    State.LINKED: ("#1b7837", "solid"),
    State.PAIR_READY: ("#e08214", "dashed"),
    State.PRIMARY_READY: ("#e08214", "dashed"),
    State.PENDING: ("#888888", "dotted"),
    None: ("#555555", "solid"),
}


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_cluster_options(parser)
    parser.add_argument(
        "-n",
        "--namespace",
        help="namespace of the links (default: the context's namespace; with -f, the namespace default)",
    )
    parser.add_argument(
        "-f",
        "--file",
        action="append",
        default=[],
        help="manifest to draw without a cluster; - for stdin; may be repeated",
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=("svg", "png", "dot", "mermaid"),
        default="mermaid",
        help="format (default: mermaid)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.file:
        return print_graph(picture_of_files(arguments.file, arguments.namespace or "default"), arguments.output)
    return print_graph(picture_of_cluster(records_of(arguments), namespace_meant(arguments)), arguments.output)


def picture_of_cluster(records: ApiStore, namespace: str) -> Picture:
    """What is wanted in a namespace and how it stands. Raises RatchetError."""
    standing = read_standing(records, namespace)
    return picture_of(standing.wanted, standing.records, standing.pods)


def picture_of_files(files: Sequence[str], namespace: str) -> Picture:
    """What the manifests in some files will want in a namespace. Raises RatchetError."""
    found = [one for file in files for one in read_objects(file, read_file(file), namespace)]
    pods = [one for one in found if isinstance(one, Pod) and one.ref.namespace == namespace]
    topologies = [one for one in found if isinstance(one, Topology) and one.namespace == namespace]
    return picture_of(wanted_links(pods, topologies=topologies), None, pods)


def print_graph(picture: Picture, output: str) -> int:
    """Print a picture as mermaid, dot, svg or png; exit status 0. Raises RatchetError."""
    if output == "mermaid":
        sys.stdout.write(mermaid(picture))
    elif output == "dot":
        sys.stdout.write(dot(picture))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(rendered(picture, output))
    return 0


def mermaid(picture: Picture) -> str:
    """A flowchart of Mermaid's (mermaid.js.org/syntax/flowchart.html)."""
    names = {pod: f"p{number}" for number, pod in enumerate(pod for pods in picture.nodes.values() for pod in pods)}
    lines = ["flowchart LR"]
    for number, (node, pods) in enumerate(picture.nodes.items()):
        boxes = [f'{names[pod]}["{_escaped(pod)}"]' for pod in pods]
        if node:
            lines += [f'  subgraph n{number}["{_escaped(node)}"]', *(f"    {box}" for box in boxes), "  end"]
        else:
            lines += [f"  {box}" for box in boxes]
    for edge in picture.edges:
        arrow = "---" if edge.state in (State.LINKED, None) else "-.-"
        said = " · ".join(part for part in (f"{edge.near.ifname} – {edge.far.ifname}", edge.label) if part)
        lines.append(f'  {names[edge.near.pod]} {arrow}|"{_escaped(said)}"| {names[edge.far.pod]}')
    for number, edge in enumerate(picture.edges):
        lines.append(f"  linkStyle {number} stroke:{LOOKS[edge.state][0]}")
    return "\n".join(lines) + "\n"


def dot(picture: Picture) -> str:
    """A graph in Graphviz's language (graphviz.org/doc/info/lang.html)."""
    graphviz = _graphviz()
    pods = [pod for group in picture.nodes.values() for pod in group]
    names = {pod: f"p{number}" for number, pod in enumerate(pods)}
    graph = graphviz.Graph(engine=_engine(picture))
    graph.attr(rankdir="LR", fontname="Helvetica", nodesep="0.6", ranksep="1.6", overlap="prism", K="2.2")
    graph.attr("node", shape="box", style="rounded,filled", fillcolor="white", fontname="Helvetica")
    graph.attr("edge", fontname="Helvetica", fontsize="9")
    for number, (node, group) in enumerate(picture.nodes.items()):
        if not node:
            for pod in group:
                graph.node(names[pod], graphviz.escape(pod))
            continue
        with graph.subgraph(name=f"cluster_{number}") as box:
            box.attr(label=graphviz.escape(node), style="rounded,filled", fillcolor="#f2f2f2", color="#cccccc")
            for pod in group:
                box.node(names[pod], graphviz.escape(pod))
    for edge in picture.edges:
        graph.edge(names[edge.near.pod], names[edge.far.pod], **_looks(edge, graphviz.escape))
    return str(graph.source)


def rendered(picture: Picture, output: str) -> bytes:
    """The picture as svg or png, by Graphviz's programs. Raises RatchetError where they are not there."""
    graphviz = _graphviz()
    try:
        return bytes(graphviz.pipe(_engine(picture), output, dot(picture).encode(), quiet=True))
    except graphviz.ExecutableNotFound as cause:
        raise RatchetError(
            "cannot draw a picture: Graphviz is not installed",
            details="apt-get install graphviz; or -o mermaid, which many viewers of Markdown show",
        ) from cause
    except graphviz.CalledProcessError as cause:
        raise RatchetError(f"cannot draw a picture: {cause}") from cause


def _looks(edge: Edge, escape: Callable[[str], str]) -> dict[str, str]:
    colour, style = LOOKS[edge.state]
    ends = {"taillabel": escape(f" {edge.near.ifname} "), "headlabel": escape(f" {edge.far.ifname} ")}
    return {"color": colour, "style": style, "label": escape(edge.label), **ends}


def _engine(picture: Picture) -> str:
    return "dot" if sum(map(len, picture.nodes.values())) <= RANKED_MOST else "fdp"


def _escaped(text: str) -> str:
    return text.replace("&", "#amp;").replace('"', "#quot;")


def _graphviz() -> Any:
    try:
        import graphviz
    except ModuleNotFoundError as missing:
        raise RatchetError(
            "cannot draw a picture: the Python package graphviz is missing",
            details="pip install 'ratchet-cni[graph]' brings it; -o mermaid needs none",
        ) from missing
    return graphviz
