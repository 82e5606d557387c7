"""`ratchet graph`: a diagram of a namespace's links, from the cluster or from manifests."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from ratchet.cli.cluster import add_cluster_options, chosen_namespace, records_of, require_namespace
from ratchet.cli.diagram import Diagram, Edge, diagram_of
from ratchet.cli.manifests import read_manifests
from ratchet.cli.manual import Manual
from ratchet.cli.snapshot import read_snapshot
from ratchet.core.intent import wanted_links
from ratchet.core.model import State
from ratchet.errors import RatchetError
from ratchet.store.store import ApiStore

MANUAL = Manual(
    description="""
        Print a diagram of the links of a namespace: a box for each node with its pods, a line for each link with its
        interfaces, kind, VNI and state. Green lines are linked, broken lines are not linked yet, red lines have an
        error. Violet broken lines have an operation of ratchet link, whose kind is in parentheses.

        With -f, draw manifests without a cluster. The formats dot, svg and png need pip install 'ratchet-cni[graph]';
        svg and png also need Graphviz.
    """,
    examples=(
        ("Draw a namespace as Mermaid", "ratchet graph -n lab"),
        ("Draw manifests as SVG", "ratchet graph -f topology.yaml -o svg > topology.svg"),
    ),
    exit_status={
        0: "the diagram was printed",
        1: "the API or a file cannot be read, the namespace does not exist, or Graphviz is missing",
    },
)

# Diagrams with more pods use a spring layout. In ranks they would be very high.
RANKED_MAX = 12
# Colour and line style of each state. The styles differ for readers who do not see the colours.
STYLES = {
    State.LINKED: ("#1b7837", "solid"),
    State.PAIR_READY: ("#e08214", "dashed"),
    State.PRIMARY_READY: ("#e08214", "dashed"),
    State.PENDING: ("#888888", "dotted"),
    None: ("#555555", "solid"),
}
ERROR_COLOUR = "#b2182b"
OPERATION_COLOUR, OPERATION_STYLE = "#762a83", "dashed"


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
        return print_graph(diagram_of_files(arguments.file, arguments.namespace or "default"), arguments.output)
    return print_graph(diagram_of_cluster(records_of(arguments), chosen_namespace(arguments)), arguments.output)


def diagram_of_cluster(store: ApiStore, namespace: str) -> Diagram:
    """The diagram of a namespace in the cluster. Raises RatchetError."""
    snapshot = read_snapshot(store, namespace)
    if not snapshot.pods:
        require_namespace(store, namespace, "draw links")
    return diagram_of(snapshot.wanted, snapshot.records, snapshot.pods, datetime.now(UTC))


def diagram_of_files(files: Sequence[str], namespace: str) -> Diagram:
    """The diagram of the manifests in files, for one namespace. Raises RatchetError."""
    found = read_manifests(files, namespace)
    if found.unreadable:
        raise found.unreadable[0]
    pods = [one.pod for one in found.pods if one.pod.ref.namespace == namespace]
    topologies = [one for one in found.topologies if one.namespace == namespace]
    return diagram_of(wanted_links(pods, topologies=topologies), None, pods)


def print_graph(diagram: Diagram, output: str) -> int:
    """Print a diagram as mermaid, dot, svg or png; the exit status, 0. Raises RatchetError."""
    if output == "mermaid":
        sys.stdout.write(mermaid(diagram))
    elif output == "dot":
        sys.stdout.write(dot(diagram))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(render(diagram, output))
    return 0


def mermaid(diagram: Diagram) -> str:
    """A Mermaid flowchart (mermaid.js.org/syntax/flowchart.html)."""
    names = {pod: f"p{number}" for number, pod in enumerate(pod for pods in diagram.nodes.values() for pod in pods)}
    lines = ["flowchart LR"]
    for number, (node, pods) in enumerate(diagram.nodes.items()):
        boxes = [f'{names[pod]}["{_escape(pod)}"]' for pod in pods]
        if node:
            lines += [f'  subgraph n{number}["{_escape(node)}"]', *(f"    {box}" for box in boxes), "  end"]
        else:
            lines += [f"  {box}" for box in boxes]
    for edge in diagram.edges:
        arrow = "---" if _line_style(edge) == "solid" else "-.-"
        label = " · ".join(part for part in (f"{edge.near.ifname} – {edge.far.ifname}", edge.label) if part)
        lines.append(f'  {names[edge.near.pod]} {arrow}|"{_escape(label)}"| {names[edge.far.pod]}')
    for number, edge in enumerate(diagram.edges):
        lines.append(f"  linkStyle {number} stroke:{_colour(edge)}")
    return "\n".join(lines) + "\n"


def dot(diagram: Diagram) -> str:
    """A graph in the DOT language (graphviz.org/doc/info/lang.html)."""
    graphviz = _graphviz()
    pods = [pod for group in diagram.nodes.values() for pod in group]
    names = {pod: f"p{number}" for number, pod in enumerate(pods)}
    graph = graphviz.Graph(engine=_engine(diagram))
    graph.attr(rankdir="LR", fontname="Helvetica", nodesep="0.6", ranksep="1.6", overlap="prism", K="2.2")
    graph.attr("node", shape="box", style="rounded,filled", fillcolor="white", fontname="Helvetica")
    graph.attr("edge", fontname="Helvetica", fontsize="9")
    for number, (node, group) in enumerate(diagram.nodes.items()):
        if not node:
            for pod in group:
                graph.node(names[pod], graphviz.escape(pod))
            continue
        with graph.subgraph(name=f"cluster_{number}") as box:
            box.attr(label=graphviz.escape(node), style="rounded,filled", fillcolor="#f2f2f2", color="#cccccc")
            for pod in group:
                box.node(names[pod], graphviz.escape(pod))
    for edge in diagram.edges:
        graph.edge(names[edge.near.pod], names[edge.far.pod], **_style(edge, graphviz.escape))
    return str(graph.source)


def render(diagram: Diagram, output: str) -> bytes:
    """The diagram as svg or png, rendered by Graphviz. Raises RatchetError if Graphviz is not installed."""
    graphviz = _graphviz()
    try:
        return bytes(graphviz.pipe(_engine(diagram), output, dot(diagram).encode(), quiet=True))
    except graphviz.ExecutableNotFound as cause:
        raise RatchetError(
            "cannot draw the diagram: Graphviz is not installed",
            details="apt-get install graphviz; or use -o mermaid, which many Markdown viewers render",
        ) from cause
    except graphviz.CalledProcessError as cause:
        raise RatchetError(f"cannot draw the diagram: {cause}") from cause


def _style(edge: Edge, escape: Callable[[str], str]) -> dict[str, str]:
    ends = {"taillabel": escape(f" {edge.near.ifname} "), "headlabel": escape(f" {edge.far.ifname} ")}
    return {"color": _colour(edge), "style": _line_style(edge), "label": escape(edge.label), **ends}


def _colour(edge: Edge) -> str:
    if edge.failed:
        return ERROR_COLOUR
    return OPERATION_COLOUR if edge.operation else STYLES[edge.state][0]


def _line_style(edge: Edge) -> str:
    return OPERATION_STYLE if edge.operation else STYLES[edge.state][1]


def _engine(diagram: Diagram) -> str:
    return "dot" if sum(map(len, diagram.nodes.values())) <= RANKED_MAX else "fdp"


def _escape(text: str) -> str:
    return text.replace("&", "#amp;").replace('"', "#quot;")


def _graphviz() -> Any:
    try:
        import graphviz
    except ModuleNotFoundError as missing:
        raise RatchetError(
            "cannot draw the diagram: the Python package graphviz is missing",
            details="pip install 'ratchet-cni[graph]'; or use -o mermaid, which needs no package",
        ) from missing
    return graphviz
