"""The time from an edit of a topology, `state: down`, or an operation to the loss of carrier in a running pod.

Beside it, the time from the same change to its event in a watch, as every controller has to wait for.

Run it as root: `python -m tests.bench.bench_edits`.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from ratchet.core.intent import TOPOLOGY_LABEL
from ratchet.core.model import State
from ratchet.core.naming import record_name
from ratchet.core.operations import OPERATIONS_NAME, Operation, Verb
from ratchet.core.state_machine import derive
from ratchet.datapath.netns import inside, open_netns
from ratchet.dev.testbed import wait_for
from tests.bench.bench_agent import pause
from tests.bench.bench_carrier import await_carrier, link_events
from tests.bench.nodes import KUBECONFIG, ApiProcessBed, Node, add_namespaces, sandbox_in, two_nodes
from tests.bench.rows import Report, Row, table

ROUNDS = 40
PLACES = {"one node": "a", "two nodes": "b"}
TOPOLOGY, INTERFACE = "edits", "in1"


@dataclass(frozen=True, slots=True)
class _Edit:
    """An edit of the topology. `object` is the ConfigMap that it changes."""

    bed: ApiProcessBed
    linked: Linked
    name: str = "state: down"
    object: str = TOPOLOGY

    def make(self, state: str) -> None:
        self.bed.edit_topology(TOPOLOGY, self.linked.topology(state))


@dataclass(frozen=True, slots=True)
class _Operation:
    """An operation on the link."""

    bed: ApiProcessBed
    linked: Linked
    name: str = "operation"
    object: str = OPERATIONS_NAME

    def make(self, state: str) -> None:
        is_down, at = state == "down", datetime.now(UTC)
        operation = Operation("", Verb.DOWN, at=at).as_text()
        self.bed.set_operations({self.linked.record: operation} if is_down else {})


Change = _Edit | _Operation


@dataclass(frozen=True, slots=True)
class Linked:
    """A link in panel wiring between two running pods."""

    names: tuple[str, ...]
    paths: tuple[str, ...]
    record: str

    def topology(self, state: str) -> str:
        endpoints = [f"{name}:{INTERFACE}" for name in self.names]
        return json.dumps([{"endpoints": endpoints, "wiring": "panel", "state": state}])


def measure(report: Report = print, prefix: str | None = None) -> list[Row]:
    """Measure a link on one node and one between two nodes."""
    report(f"two nodes, each with an agent; API server: {KUBECONFIG or 'a process of its own'}")
    rows = []
    with two_nodes(prefix, KUBECONFIG) as (bed, a, b):
        bed.create_topology(TOPOLOGY, "[]")
        for place, node_of_peer in PLACES.items():
            linked = _linked(bed, {"a": a, "b": b}, node_of_peer)
            for change in (_Edit(bed, linked), _Operation(bed, linked)):
                rows += _rows(change, place, report)
        report("removing the nodes")
    return rows


def _linked(bed: ApiProcessBed, nodes: dict[str, Node], node_of_peer: str) -> Linked:
    names = (f"edit-{node_of_peer}-p", f"edit-{node_of_peer}-q")
    sandboxes = [
        sandbox_in(netns, bed.create_pod(name, {"ratchet": "true"}, node))
        for name, node, netns in zip(names, ("a", node_of_peer), add_namespaces(bed.hosts, *names), strict=True)
    ]
    record = record_name(bed.namespace, *((name, INTERFACE) for name in names))
    linked = Linked(names, tuple(one.path for one in sandboxes), record)
    bed.edit_topology(TOPOLOGY, linked.topology("up"))
    for node, sandbox in zip(("a", node_of_peer), sandboxes, strict=True):
        nodes[node].runtime.timed("ADD", sandbox)
    wait_for(
        "the link", lambda: [derive(one) for one in bed.links().values() if one.primary.name in names] == [State.LINKED]
    )
    return linked


def _rows(change: Change, place: str, report: Report) -> list[Row]:
    change.make("up")
    carriers, watches = list[float](), list[float]()
    for number in range(ROUNDS + 1):
        for state in ("down", "up"):
            pause()
            lost, watched = _timed(change, state)
            if state == "down" and number:
                carriers.append(lost)
                watches.append(watched)
    p50, p99 = statistics.median(carriers), statistics.quantiles(carriers, n=100, method="inclusive")[-1]
    report(f"{change.name} to loss of carrier at both ends, {place}: p50 {p50:.0f} ms, p99 {p99:.0f} ms of {ROUNDS}")
    watch = f"event in a watch p50 {statistics.median(watches):.1f} ms"
    name = f"edits: {change.name} to no carrier, {place}"
    return [Row(f"{name}, p50", p50, "ms", watch), Row(f"{name}, p99", p99, "ms", watch)]


def _timed(change: Change, state: str) -> tuple[float, float]:
    """Make a change. Returns the ms until the carrier of both pods has changed, and until a watch has the change."""
    bed = change.bed
    version = bed.api.get(f"{_collection(bed)}/{change.object}")["metadata"]["resourceVersion"]
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        changes = []
        for path in change.linked.paths:
            with open_netns(path) as netns, inside(netns):
                events, index = stack.enter_context(link_events()), socket.if_nametoindex(INTERFACE)
            changes.append(pool.submit(_time_of_carrier, events, index, has=state == "up"))
        watched = pool.submit(_time_of_event, bed, version)
        time.sleep(0.05)  # the watch has begun
        begun = time.perf_counter()
        change.make(state)
        return (max(one.result() for one in changes) - begun) * 1e3, (watched.result() - begun) * 1e3


def _time_of_carrier(events: socket.socket, index: int, *, has: bool) -> float:
    await_carrier(events, index, has=has)
    return time.perf_counter()


def _time_of_event(bed: ApiProcessBed, version: str) -> float:
    next(bed.api.watch(_collection(bed), version, 10, labelSelector=TOPOLOGY_LABEL))
    return time.perf_counter()


def _collection(bed: ApiProcessBed) -> str:
    return f"/api/v1/namespaces/{bed.namespace}/configmaps"


if __name__ == "__main__":
    print(table(measure()))
