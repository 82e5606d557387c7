"""Both wirings beside each other: calls that agents serve, a mesh of ten pods, and a thousand links.

Each call in panel wiring follows the same call in direct wiring, or precedes it. The measurements are those of
bench_agent.py, bench_many.py, bench_topologies.py and bench_scale.py.

Run it as root: `python -m tests.bench.bench_wirings`.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from ratchet.core.kinds import Wiring
from tests.bench import bench_many, bench_scale, bench_topologies
from tests.bench.bench_agent import Pair, pairs_of, pause
from tests.bench.bench_many import LINKS, hub_name
from tests.bench.bench_topologies import FEW, MESH, BringUp, median
from tests.bench.nodes import KUBECONFIG, ApiProcessBed, LinkWatch, Node, two_nodes
from tests.bench.rows import Report, Row, at_most, table

PLACES = {"one node": "a", "two nodes": "b"}
ROUNDS, PAIRS, HUB_ROUNDS, MESH_ROUNDS = 20, 8, 2, 2
ADD_TARGET = 1.3
THOUSAND, BATCH, WARM_UP, COMPARED = 1000, 100, 20, 3
# The tunnels of panel wiring exchange OAM frames while idle. 1 % of one processor.
IDLE_SECONDS, IDLE_CPU_TARGET = 120.0, 0.6


@dataclass(slots=True)
class Calls:
    """The ms of the ADD that completes a link, and of the DEL that follows, by place and wiring."""

    a: Node
    nodes: Mapping[str, Node]
    watch: LinkWatch
    report: Report
    adds: dict[tuple[str, Wiring], list[float]] = field(default_factory=lambda: defaultdict(list))

    def measure(self, place: str, wiring: Wiring, pair: Pair) -> None:
        node = self.nodes[PLACES[place]]
        peer, pod = pair.joined(node), pair.pod_sandbox()
        pause()
        done = self.a.runtime.timed("ADD", pod)
        self.watch.wait(pair.link)
        self.adds[place, wiring].append(done.ms)
        self.a.runtime.timed("DEL", pod)
        node.runtime.timed("DEL", peer)

    def row(self, place: str) -> Row:
        panel, direct = (statistics.median(self.adds[place, wiring][1:]) for wiring in (Wiring.PANEL, Wiring.DIRECT))
        return at_most(
            f"wirings: ADD that completes a link on {place}, with API, panel / direct",
            panel / direct,
            "ratio",
            ADD_TARGET,
            f"{panel:.2f} ms; direct {direct:.2f} ms",
        )


def measure(report: Report = print, prefix: str | None = None) -> list[Row]:
    """Measure both wirings."""
    report(f"two nodes, each with an agent; API server: {KUBECONFIG or 'a process of its own'}")
    with two_nodes(prefix, KUBECONFIG) as (bed, a, b):
        watch = LinkWatch(bed)
        rows = _calls(Calls(a, {"a": a, "b": b}, watch, report), bed)
        rows += _hubs(bench_many.Bench(bed, a, b, watch, report))
        rows += _mesh(bench_topologies.Bench(bed, a, b, watch, report))
        report("removing the nodes")
    return rows + _thousand(report, prefix)


def _calls(calls: Calls, bed: ApiProcessBed) -> list[Row]:
    pairs = {
        (place, wiring): pairs_of(bed, f"{wiring}-{node}", PAIRS, node, wiring)
        for place, node in PLACES.items()
        for wiring in Wiring
    }
    pause(30)
    for number in range(ROUNDS + 1):
        for place in PLACES:
            for wiring in Wiring if number % 2 else reversed(Wiring):
                calls.measure(place, wiring, pairs[place, wiring][number % PAIRS])
        if number % 5 == 0:
            last = ", ".join(f"{place} {wiring} {each[-1]:.1f} ms" for (place, wiring), each in calls.adds.items())
            calls.report(f"ADD that completes a link {number}/{ROUNDS}: {last}")
    return [calls.row(place) for place in PLACES]


def _hubs(bench: bench_many.Bench) -> list[Row]:
    """The calls of pods with one link and with many, on one node."""
    kind = bench_many.VETH
    hubs = [bench.hub(kind, links, wiring) for links in (1, LINKS) for wiring in Wiring]
    for _ in range(HUB_ROUNDS):
        for hub in hubs:
            bench.add(hub, delayed=False)

    def compared(call: str, links: int) -> Row:
        costs = {wiring: bench.costs[hub_name(links, kind, wiring)] for wiring in Wiring}
        found = {wiring: statistics.median(one.deletes if call == "DEL" else one.fast) for wiring, one in costs.items()}
        ms = f"{found[Wiring.PANEL]:.1f} ms; direct {found[Wiring.DIRECT]:.1f} ms"
        ratio = found[Wiring.PANEL] / found[Wiring.DIRECT]
        return Row(f"wirings: {call} of a pod with {links} links, panel / direct", ratio, "ratio", ms)

    return [compared("DEL", 1), compared("ADD", LINKS), compared("DEL", LINKS)]


def _mesh(bench: bench_topologies.Bench) -> list[Row]:
    found: dict[Wiring, list[BringUp]] = {wiring: [] for wiring in Wiring}
    for number in range(MESH_ROUNDS):
        for wiring, each in found.items():
            each.append(bench.bring_up(MESH, FEW, wiring))
            last = f"{each[-1].each:.1f} ms per link, CPU {each[-1].cpu:.1f} ms"
            bench.report(f"{MESH} in {wiring} wiring {number + 1}/{MESH_ROUNDS}: {last}")
    panel, direct = (median(found[wiring]) for wiring in (Wiring.PANEL, Wiring.DIRECT))
    name = f"wirings: mesh of {FEW} pods, {panel.links} links"
    return [
        _ratio(f"{name}, time per link", panel.each, direct.each),
        _ratio(f"{name}, CPU per link", panel.cpu, direct.cpu),
        _ratio(f"{name}, API requests per link", panel.requests, direct.requests, "requests"),
    ]


def _thousand(report: Report, prefix: str | None) -> list[Row]:
    """Two new nodes for each wiring, because memory of an earlier one would count."""
    scales, idle = {}, {}
    for wiring in (Wiring.DIRECT, Wiring.PANEL):
        with two_nodes(prefix, KUBECONFIG) as (bed, a, b):
            scale = scales[wiring] = bench_scale.Scale(bed, a, b, LinkWatch(bed), report, wiring)
            scale.link(THOUSAND, WARM_UP)
            for first in range(0, THOUSAND, BATCH):
                scale.measure(first)
                times = f"{scale.batches[-1]:.1f} ms per link in the last batch, CPU {scale.cpu[-1]:.1f} ms"
                report(f"{wiring} wiring, {first + BATCH} links: {times}; {scale.most_memory():.0f} MiB")
            scale.loaded = scale.most_memory()
            scale.wait(bench_scale.PAUSE_SECONDS, "waiting until the agents are idle")
            idle[wiring] = scale.idle_cpu(IDLE_SECONDS)
            spent, of_thread = idle[wiring]
            report(f"{wiring} wiring, {THOUSAND} idle links: {spent:.2f} s of CPU per minute, OAM {of_thread:.2f}")
            report("removing the nodes")
    panel, direct = scales[Wiring.PANEL], scales[Wiring.DIRECT]

    def last(batches: list[float]) -> float:
        return statistics.median(batches[-COMPARED:])

    name = f"wirings: {THOUSAND} links between two agents"
    return [
        _ratio(f"{name}, time per link", last(panel.batches), last(direct.batches)),
        _ratio(f"{name}, CPU per link", last(panel.cpu), last(direct.cpu)),
        _ratio(f"{name}, memory", panel.loaded, direct.loaded, "MiB"),
        _ratio(f"{name}, idle, CPU of an agent", idle[Wiring.PANEL][0], idle[Wiring.DIRECT][0], "s per minute"),
        at_most(
            f"{name}, idle, CPU of the thread for OAM frames",
            idle[Wiring.PANEL][1],
            "s per minute",
            IDLE_CPU_TARGET,
            f"direct, without such frames {idle[Wiring.DIRECT][1]:.2g}",
        ),
    ]


def _ratio(name: str, panel: float, direct: float, unit: str = "ms") -> Row:
    return Row(f"{name}, panel / direct", panel / direct, "ratio", f"{panel:.3g} {unit}; direct {direct:.3g} {unit}")


if __name__ == "__main__":
    print(table(measure()))
