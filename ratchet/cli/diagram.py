"""A diagram of a namespace: pods in the boxes of their nodes, and an edge for each declared link."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from ratchet.cli.operation_state import acting, verb
from ratchet.core.drift import edits
from ratchet.core.intent import Wanted, asks_for_links
from ratchet.core.kinds import Kind
from ratchet.core.model import Link, Side, State
from ratchet.core.pod import Pod
from ratchet.core.state_machine import derive


@dataclass(frozen=True, slots=True)
class EdgeEnd:
    """An end of an edge: the pod, by its own name if it exists, and the interface."""

    pod: str
    ifname: str


@dataclass(frozen=True, slots=True)
class Edge:
    """A link.

    `state` is None if records were not read. `kind` is None until both pods have joined. `edited`: the declaration has
    changed, and the change waits for a restart of the primary. `failed`: an end has an error.
    `operation`: the kind of the operation on it.
    """

    link: str
    near: EdgeEnd
    far: EdgeEnd
    state: State | None = None
    kind: Kind | None = None
    vni: int | None = None
    edited: bool = False
    failed: bool = False
    operation: str = ""

    @property
    def label(self) -> str:
        """The text of the edge: kind, VNI, operation, whether an end has an error, and whether a restart is needed."""
        words = [self.kind.value if self.kind else ""]
        if self.kind is Kind.VXLAN and self.vni is not None:
            words.append(str(self.vni))
        words += [f"({self.operation})"] if self.operation else []
        words += ["error"] * self.failed + ["wants a restart"] * self.edited
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Diagram:
    """The pods of each node, those without a node under "", and the edges."""

    nodes: Mapping[str, tuple[str, ...]]
    edges: tuple[Edge, ...]


def diagram_of(
    wanted: Wanted, records: Mapping[str, Link] | None, pods: Collection[Pod], now: datetime | None = None
) -> Diagram:
    """The diagram of declared links and their states. Pods without links are left out.

    `records`: by name; None if they were not read. `now`: to tell which operations act; None: none of them is shown.
    """
    places = {pod.ref.name: pod.node for pod in pods if asks_for_links(pod)}
    edges, drawn = [], dict[str, str]()
    for one in wanted.links:
        record = one.record_in(records) if records is not None else None
        near, far = (EdgeEnd(*one.endpoint(side)) for side in Side)
        for tip in (near, far):
            drawn[tip.pod] = places.get(tip.pod, "")
        if record is None:
            edges.append(Edge(one.link.name, near, far, None if records is None else State.PENDING))
        else:
            vni = record.vni if record.kind is Kind.VXLAN else None
            found = edits(record, one)
            edited = bool(found) and not found.live
            failed = any(record.end(side).error for side in Side)
            operation = acting(record, now) if now is not None else None
            kind = verb(operation) if operation is not None else ""
            edges.append(Edge(one.link.name, near, far, derive(record), record.kind, vni, edited, failed, kind))
    nodes = {
        node: tuple(sorted(pod for pod, place in drawn.items() if place == node))
        for node in sorted(set(drawn.values()))
    }
    return Diagram(nodes, tuple(edges))
