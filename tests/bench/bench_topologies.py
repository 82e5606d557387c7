"""The start of topologies of 10, 50 and 100 pods with two agents: does a link cost more in a large topology?

The links are in direct wiring. About half of them are tunnels: every other two pods are on `a`, the others on `b`. The
topology and the pods are in the API first. Then ADDs through the shim run, CONCURRENCY at a time, in one random order.
None waits for its peers. A mesh connects each ten pods fully. A Clos fabric has two spines, and the other pods are
leaves. So a pod or a leaf has as many links in 100 pods as in 10.

The CPU per link is also given relative to that of a GET of a Node through the same client, measured between the
rounds. So figures of machines of different speeds can be compared.

RATCHET_BENCH_KUBECONFIG names the kubeconfig of another API server.

Run it as root: `python -m tests.bench.bench_topologies`.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import combinations

from ratchet.core.kinds import Wiring
from ratchet.core.naming import record_name
from ratchet.dev.fake_kubelet import Sandbox
from tests.bench.nodes import (
    KUBECONFIG,
    ApiProcessBed,
    LinkWatch,
    Node,
    Request,
    TimedCall,
    add_namespaces,
    run_concurrently,
    sandbox_in,
    two_nodes,
)
from tests.bench.rows import Report, Row, at_most, table

FEW, SOME, MANY = 10, 50, 100
# Small topologies are measured several times.
ROUNDS = {FEW: 3, SOME: 1, MANY: 1}
SPINES = 2
IN_TOPOLOGY = 200  # at most 256 links are allowed
GETS = 200
PAUSE_SECONDS = 2.5  # longer than agents collect Events
TARGET = 1.3
# Targets per link in a mesh of FEW pods: requests to the API, and ms of the agents' CPU.
MESH = "mesh of tens"
MESH_REQUESTS, MESH_CPU = 4.0, 9.0
SEED = 1

Pairs = list[tuple[int, int]]
Placed = tuple[Node, Sandbox]


def ring(pods: int) -> Pairs:
    return [(number, (number + 1) % pods) for number in range(pods)]


def mesh(pods: int) -> Pairs:
    return [pair for first in range(0, pods, FEW) for pair in combinations(range(first, first + FEW), 2)]


def clos(pods: int) -> Pairs:
    return [(spine, leaf) for leaf in range(SPINES, pods) for spine in range(SPINES)]


SHAPES: dict[str, Callable[[int], Pairs]] = {"ring": ring, MESH: mesh, "Clos fabric": clos}


@dataclass(frozen=True, slots=True)
class BringUp:
    """The cost of bringing up a topology.

    `after`: ms from the end of the last ADD until all links were linked. The other figures are per link. `each`: ms
    from the first ADD on. `cpu`: ms of both agents' CPU until they were idle. `writes`: writes of records and of VNI
    Leases. `events`: Events. `requests`: all requests of both agents, also reads, watch starts, failed writes and
    renewals of the nodes' Leases. `conflicts`: requests that failed with 409. `gets`: `cpu` relative to that of a GET.
    """

    links: int
    after: float
    each: float
    cpu: float
    writes: float
    events: float
    requests: float
    conflicts: float
    gets: float


@dataclass(slots=True)
class Bench:
    """Two nodes for the pods."""

    bed: ApiProcessBed
    a: Node
    b: Node
    watch: LinkWatch
    report: Report

    def bring_up(self, shape: str, pods: int, wiring: Wiring = Wiring.DIRECT) -> BringUp:
        """Measure the start of a topology, and remove it."""
        pairs = SHAPES[shape](pods)
        lines = [_line(*pair, wiring) for pair in pairs]
        drawn = [f"drawn-{first}" for first in range(0, len(lines), IN_TOPOLOGY)]
        for number, name in enumerate(drawn):
            self.bed.create_topology(name, "\n".join(lines[number * IN_TOPOLOGY :][:IN_TOPOLOGY]))
        placed = self._placed(pods)
        time.sleep(PAUSE_SECONDS)
        found = self._measured(placed, [_record(*pair) for pair in pairs])
        self._take_down(placed, drawn)
        return found

    def _placed(self, pods: int) -> list[Placed]:
        netns = add_namespaces(self.bed.hosts, *(f"p{number}" for number in range(pods)))
        nodes = [(self.a, self.b)[number // 2 % 2] for number in range(pods)]
        refs = [
            self.bed.create_pod(f"p{number}", {"ratchet": "true"}, node.runtime.host.name)
            for number, node in enumerate(nodes)
        ]
        return [(node, sandbox_in(name, ref)) for node, name, ref in zip(nodes, netns, refs, strict=True)]

    def _measured(self, placed: Sequence[Placed], links: Sequence[str]) -> BringUp:
        order = random.Random(SEED).sample(placed, len(placed))
        cpu, began = self._cpu(), time.monotonic()
        ended = max(done.ended for done in run_concurrently(_added, order)[0])
        linked = self.watch.wait(*links, seconds=120.0)
        time.sleep(PAUSE_SECONDS)
        cpu = self._cpu() - cpu
        requests = [one for node in (self.a, self.b) for one in node.requests(began)]
        writes = [one for one in requests if one.writes]
        events = [one for one in writes if one.path.endswith("/events")]
        count = len(links)
        return BringUp(
            gets=cpu / count / self._cpu_of_get(),
            links=count,
            after=max(0.0, linked - ended) * 1e3,
            each=(linked - began) / count * 1e3,
            cpu=cpu / count * 1e3,
            writes=sum(_is_of_a_link(one) for one in writes) / count,
            events=len(events) / count,
            requests=len(requests) / count,
            conflicts=sum(one.status == HTTPStatus.CONFLICT for one in requests) / count,
        )

    def _take_down(self, placed: Sequence[Placed], topologies: Sequence[str]) -> None:
        run_concurrently(_deleted, placed)
        names = [sandbox.netns for _, sandbox in placed]
        lines = "".join(f"netns del {name}\n" for name in names)
        subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True, capture_output=True)
        self.bed.hosts.made = [name for name in self.bed.hosts.made if name not in names]
        for _, sandbox in placed:
            self.bed.delete_pod(sandbox.pod)
        for name in topologies:
            path = f"/api/v1/namespaces/{self.bed.namespace}/configmaps/{name}"
            self.bed.api.delete(path, uid=self.bed.api.get(path)["metadata"]["uid"])

    def _cpu(self) -> float:
        return self.a.cpu() + self.b.cpu()

    def _cpu_of_get(self) -> float:
        """Seconds of this process's CPU for a GET."""
        began = time.process_time()
        for _ in range(GETS):
            self.bed.api.get(f"/api/v1/nodes/{self.a.runtime.host.name}")
        return (time.process_time() - began) / GETS


def _added(placed: Placed) -> TimedCall:
    node, sandbox = placed
    return node.runtime.timed("ADD", sandbox)


def _deleted(placed: Placed) -> TimedCall:
    node, sandbox = placed
    return node.runtime.timed("DEL", sandbox)


def _is_of_a_link(request: Request) -> bool:
    return "/configmaps" in request.path or ("/leases" in request.path and "/leases/node-" not in request.path)


def _line(one: int, other: int, wiring: Wiring) -> str:
    return f'- {{endpoints: ["p{one}:to{other}", "p{other}:to{one}"], wiring: {wiring}}}'


def _record(one: int, other: int) -> str:
    return record_name("default", (f"p{one}", f"to{other}"), (f"p{other}", f"to{one}"))


def measure(report: Report = print, prefix: str | None = None) -> list[Row]:
    """Measure the start of topologies."""
    report(f"two nodes, each with an agent; API server: {KUBECONFIG or 'a process of its own'}")
    rows = []
    with two_nodes(prefix, KUBECONFIG) as (bed, a, b):
        bench = Bench(bed, a, b, LinkWatch(bed), report)
        bench.bring_up("ring", FEW)  # the first one includes what is done once
        for shape in SHAPES:
            found = {pods: [bench.bring_up(shape, pods) for _ in range(times)] for pods, times in ROUNDS.items()}
            medians = {pods: median(each) for pods, each in found.items()}
            for pods, one in medians.items():
                report(
                    f"{shape}, {pods} pods, {one.links} links: {one.each:.1f} ms per link, "
                    f"CPU {one.cpu:.1f} ms, {one.after:.0f} ms after the last ADD"
                )
            rows += _rows(shape, medians)
        report("removing the nodes")
    return rows


def median(found: Sequence[BringUp]) -> BringUp:
    def of(value: Callable[[BringUp], float]) -> float:
        return statistics.median(map(value, found))

    return BringUp(
        links=found[0].links,
        after=of(lambda one: one.after),
        each=of(lambda one: one.each),
        cpu=of(lambda one: one.cpu),
        writes=of(lambda one: one.writes),
        events=of(lambda one: one.events),
        requests=of(lambda one: one.requests),
        conflicts=of(lambda one: one.conflicts),
        gets=of(lambda one: one.gets),
    )


def _rows(shape: str, found: dict[int, BringUp]) -> list[Row]:
    few, some, many = found[FEW], found[SOME], found[MANY]
    name = f"agents: {shape} of {MANY} pods, {many.links} direct links"

    def smaller(few: float, some: float) -> str:
        return f"{SOME} pods {some:.3g}, {FEW} pods {few:.3g}"

    return [
        Row(f"{name}, last ADD until all linked", many.after, "ms", smaller(few.after, some.after)),
        at_most(
            f"{name}, time per link, relative to {FEW} pods",
            many.each / few.each,
            "ratio",
            TARGET,
            f"{many.each:.3g} ms; {smaller(few.each, some.each)}",
        ),
        at_most(
            f"{name}, CPU per link, relative to {FEW} pods",
            many.cpu / few.cpu,
            "ratio",
            TARGET,
            f"{many.cpu:.3g} ms; {smaller(few.cpu, some.cpu)}",
        ),
        Row(
            f"{name}, API writes per link",
            many.writes,
            "writes",
            f"{smaller(few.writes, some.writes)}; and {many.events:.2g} Events",
        ),
        *_rows_of_few(shape, few),
    ]


def _rows_of_few(shape: str, few: BringUp) -> list[Row]:
    name = f"agents: {shape} of {FEW} pods, {few.links} direct links"
    conflicts = Row(f"{name}, 409 conflicts per link", few.conflicts, "requests")
    requests, cpu = f"{name}, API requests per link", f"{name}, CPU per link"
    parts = f"{few.writes:.2g} writes and {few.events:.2g} Events of these"
    if shape != MESH:
        return [Row(requests, few.requests, "requests", parts), conflicts]
    return [
        at_most(requests, few.requests, "requests", MESH_REQUESTS, parts),
        conflicts,
        at_most(cpu, few.cpu, "ms", MESH_CPU, f"{few.gets:.3g} times a GET"),
    ]


if __name__ == "__main__":
    print(table(measure()))
