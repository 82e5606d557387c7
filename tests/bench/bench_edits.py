"""The time from an edit of a topology, `state: down`, to the loss of carrier in a running pod.

Beside it, the time from the same edit to its event in a watch, as every controller has to wait for.

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

from ratchet.core.intent import TOPOLOGY_LABEL
from ratchet.core.model import State
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
class Linked:
    """A link in panel wiring between two running pods."""

    names: tuple[str, ...]
    paths: tuple[str, ...]

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
            rows += _edits(bed, place, _linked(bed, {"a": a, "b": b}, node_of_peer), report)
        report("removing the nodes")
    return rows


def _linked(bed: ApiProcessBed, nodes: dict[str, Node], node_of_peer: str) -> Linked:
    names = (f"edit-{node_of_peer}-p", f"edit-{node_of_peer}-q")
    sandboxes = [
        sandbox_in(netns, bed.create_pod(name, {"ratchet": "true"}, node))
        for name, node, netns in zip(names, ("a", node_of_peer), add_namespaces(bed.hosts, *names), strict=True)
    ]
    linked = Linked(names, tuple(one.path for one in sandboxes))
    bed.edit_topology(TOPOLOGY, linked.topology("up"))
    for node, sandbox in zip(("a", node_of_peer), sandboxes, strict=True):
        nodes[node].runtime.timed("ADD", sandbox)
    wait_for(
        "the link", lambda: [derive(one) for one in bed.links().values() if one.primary.name in names] == [State.LINKED]
    )
    return linked


def _edits(bed: ApiProcessBed, place: str, linked: Linked, report: Report) -> list[Row]:
    carriers, watches = list[float](), list[float]()
    for number in range(ROUNDS + 1):
        for state in ("down", "up"):
            pause()
            lost, watched = _timed(bed, linked, state)
            if state == "down" and number:
                carriers.append(lost)
                watches.append(watched)
    p50, p99 = statistics.median(carriers), statistics.quantiles(carriers, n=100, method="inclusive")[-1]
    report(f"edit to loss of carrier at both ends, {place}: p50 {p50:.0f} ms, p99 {p99:.0f} ms of {ROUNDS}")
    watch = f"event in a watch p50 {statistics.median(watches):.1f} ms"
    name = f"edits: state: down to no carrier, {place}"
    return [Row(f"{name}, p50", p50, "ms", watch), Row(f"{name}, p99", p99, "ms", watch)]


def _timed(bed: ApiProcessBed, linked: Linked, state: str) -> tuple[float, float]:
    """Edit the topology. Returns the ms until the carrier of both pods has changed, and until a watch has the edit."""
    version = bed.api.get(f"{_collection(bed)}/{TOPOLOGY}")["metadata"]["resourceVersion"]
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        changes = []
        for path in linked.paths:
            with open_netns(path) as netns, inside(netns):
                events, index = stack.enter_context(link_events()), socket.if_nametoindex(INTERFACE)
            changes.append(pool.submit(_time_of_carrier, events, index, has=state == "up"))
        watched = pool.submit(_time_of_event, bed, version)
        time.sleep(0.05)  # the watch has begun
        begun = time.perf_counter()
        bed.edit_topology(TOPOLOGY, linked.topology(state))
        return (max(one.result() for one in changes) - begun) * 1e3, (watched.result() - begun) * 1e3


def _time_of_carrier(events: socket.socket, index: int, *, has: bool) -> float:
    await_carrier(events, index, has=has)
    return time.perf_counter()


def _time_of_event(bed: ApiProcessBed, version: str) -> float:
    next(bed.api.watch(_collection(bed), version, 10, labelSelector=f"{TOPOLOGY_LABEL}=true"))
    return time.perf_counter()


def _collection(bed: ApiProcessBed) -> str:
    return f"/api/v1/namespaces/{bed.namespace}/configmaps"


if __name__ == "__main__":
    print(table(measure()))
