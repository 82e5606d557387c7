"""A namespace's links as a picture: pods in the boxes of their nodes, and an edge for each link that is wanted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ratchet.core.drift import edits
from ratchet.core.intent import Wanted, asks_for_links
from ratchet.core.model import Kind, Link, Pod, Side, State
from ratchet.core.state_machine import derive


@dataclass(frozen=True, slots=True)
class Tip:
    """Where an edge ends: the pod, by its own name if there is one, and the interface in it."""

    pod: str
    ifname: str


@dataclass(frozen=True, slots=True)
class Edge:
    """A link; `state` is None where nobody has looked, `kind` while not both of its pods have joined. `edited`: it is
    wanted otherwise by now, and waits for a restart of its primary.
    """

    link: str
    near: Tip
    far: Tip
    state: State | None = None
    kind: Kind | None = None
    vni: int | None = None
    edited: bool = False

    @property
    def label(self) -> str:
        """What is to be said of it: how it is made, and of a tunnel its number."""
        words = [self.kind.value if self.kind else ""]
        if self.kind is Kind.VXLAN and self.vni is not None:
            words.append(str(self.vni))
        return " ".join([*words, "wants a restart"] if self.edited else words)


@dataclass(frozen=True, slots=True)
class Picture:
    """The pods of each node in order, those that are on none under "", and the edges."""

    nodes: Mapping[str, tuple[str, ...]]
    edges: tuple[Edge, ...]


def picture_of(wanted: Wanted, records: Mapping[str, Link] | None, pods: Collection[Pod]) -> Picture:
    """What is wanted, with where it stands by its records, None where these are not looked at.

    Pods without links are left out.
    """
    places = {pod.ref.name: pod.node for pod in pods if asks_for_links(pod)}
    edges, drawn = [], dict[str, str]()
    for one in wanted.links:
        record = one.record_in(records) if records is not None else None
        near, far = (Tip(*one.endpoint(side)) for side in Side)
        for tip in (near, far):
            drawn[tip.pod] = places.get(tip.pod, "")
        if record is None:
            edges.append(Edge(one.link.name, near, far, None if records is None else State.PENDING))
        else:
            vni = record.vni if record.kind is Kind.VXLAN else None
            edited = bool(edits(record, one.link))
            edges.append(Edge(one.link.name, near, far, derive(record), record.kind, vni, edited))
    nodes = {
        node: tuple(sorted(pod for pod, place in drawn.items() if place == node))
        for node in sorted(set(drawn.values()))
    }
    return Picture(nodes, tuple(edges))
