"""How a topology of 10, 50 and 100 pods comes up between two agents, and whether a link of many costs more than of few.

The pods are namespaces, every other two of them on `a`, the rest on `b`, so that about half of the links are tunnels.
Topology and pods are in the API before; then all ADDs come through the shim, AT_ONCE at once, in an order that is drawn
once, and none waits for its peers. A mesh is a full one among each ten pods, a Clos fabric has two spines and the other
pods for leaves: the links of each pod, or those of each leaf, are as many in 100 pods as in 10.

A real API server is used where RATCHET_BENCH_KUBECONFIG names a kubeconfig.

Run it by its path, as root: `python tests/bench/bench_topologies.py`.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from itertools import combinations
from pathlib import Path

# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet.core.naming import record_name  # noqa: E402
from ratchet.dev.fake_kubelet import Sandbox  # noqa: E402
from tests.bench.nodes import (  # noqa: E402
    KUBECONFIG,
    NODES,
    ApartBed,
    Done,
    Node,
    Request,
    Watching,
    add_namespaces,
    add_node,
    all_at_once,
    sandbox_in,
)
from tests.bench.rows import Row, Say, at_most, table  # noqa: E402
from tests.support.cluster import PATIENT  # noqa: E402

FEW, SOME, MANY = 10, 50, 100
# So often is each measured; of few there is little to measure at a time.
ROUNDS = {FEW: 3, SOME: 1, MANY: 1}
SPINES = 2
IN_TOPOLOGY = 200  # there may be no more than 256 links in one
REST_SECONDS = 2.5  # longer than agents collect Events
BAR = 1.3
# Of each link in a mesh of FEW pods: requests to the API, and ms of the agents' CPU.
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
    renewals of the nodes' Leases. `conflicts`: requests that failed with 409.
    """

    links: int
    after: float
    each: float
    cpu: float
    writes: float
    events: float
    requests: float
    conflicts: float


@dataclass(slots=True)
class Bench:
    """Two nodes on which topologies come and go."""

    bed: ApartBed
    a: Node
    b: Node
    watching: Watching
    say: Say

    def bring_up(self, shape: str, pods: int) -> BringUp:
        """Have a topology come up, and take it down again."""
        pairs = SHAPES[shape](pods)
        lines = [_line(*pair) for pair in pairs]
        drawn = [f"drawn-{first}" for first in range(0, len(lines), IN_TOPOLOGY)]
        for number, name in enumerate(drawn):
            self.bed.create_topology(name, "\n".join(lines[number * IN_TOPOLOGY :][:IN_TOPOLOGY]))
        placed = self._placed(pods)
        time.sleep(REST_SECONDS)
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
        order = random.Random(SEED).sample(placed, len(placed))  # no secret
        cpu, began = self._cpu(), time.monotonic()
        ended = max(done.ended for done in all_at_once(_added, order)[0])
        linked = self.watching.wait(*links, seconds=120.0)
        time.sleep(REST_SECONDS)
        cpu = self._cpu() - cpu
        requests = [one for node in (self.a, self.b) for one in node.requests(began)]
        writes = [one for one in requests if one.writes]
        events = [one for one in writes if one.path.endswith("/events")]
        count = len(links)
        return BringUp(
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
        all_at_once(_deleted, placed)
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


def _added(placed: Placed) -> Done:
    node, sandbox = placed
    return node.runtime.timed("ADD", sandbox)


def _deleted(placed: Placed) -> Done:
    node, sandbox = placed
    return node.runtime.timed("DEL", sandbox)


def _is_of_a_link(request: Request) -> bool:
    return "/configmaps" in request.path or ("/leases" in request.path and "/leases/node-" not in request.path)


def _line(one: int, other: int) -> str:
    return f'- endpoints: ["p{one}:to{other}", "p{other}:to{one}"]'


def _record(one: int, other: int) -> str:
    return record_name("default", (f"p{one}", f"to{other}"), (f"p{other}", f"to{one}"))


def measure(say: Say = print, prefix: str | None = None) -> list[Row]:
    """All figures of topologies that come up."""
    say(f"two nodes, each with an agent; the API is {KUBECONFIG or 'a process of its own'}")
    rows = []
    with _prepared(say, prefix) as bench:
        bench.bring_up("ring", FEW)  # what comes first pays for what is done once
        for shape in SHAPES:
            found = {pods: [bench.bring_up(shape, pods) for _ in range(times)] for pods, times in ROUNDS.items()}
            medians = {pods: _median(each) for pods, each in found.items()}
            for pods, one in medians.items():
                say(
                    f"{shape}, {pods} pods, {one.links} links: {one.each:.1f} ms a link, "
                    f"of the agents' CPU {one.cpu:.1f} ms, {one.after:.0f} ms after the last ADD"
                )
            rows += _rows(shape, medians)
        say("the nodes go")
    return rows


def _median(found: Sequence[BringUp]) -> BringUp:
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
    )


def _rows(shape: str, found: dict[int, BringUp]) -> list[Row]:
    few, some, many = found[FEW], found[SOME], found[MANY]
    name = f"agents: {shape} of {MANY} pods, {many.links} links"

    def beside(few: float, some: float) -> str:
        return f"{SOME} pods {some:.3g}, {FEW} pods {few:.3g}"

    return [
        Row(f"{name}, last ADD until all linked", many.after, "ms", beside(few.after, some.after)),
        at_most(
            f"{name}, time for each against {FEW} pods",
            many.each / few.each,
            "ratio",
            BAR,
            f"{many.each:.3g} ms; {beside(few.each, some.each)}",
        ),
        at_most(
            f"{name}, CPU for each against {FEW} pods",
            many.cpu / few.cpu,
            "ratio",
            BAR,
            f"{many.cpu:.3g} ms; {beside(few.cpu, some.cpu)}",
        ),
        Row(
            f"{name}, API writes for each",
            many.writes,
            "writes",
            f"{beside(few.writes, some.writes)}; besides them {many.events:.2g} Events",
        ),
        *_rows_of_few(shape, few),
    ]


def _rows_of_few(shape: str, few: BringUp) -> list[Row]:
    name = f"agents: {shape} of {FEW} pods, {few.links} links"
    conflicts = Row(f"{name}, 409 conflicts for each", few.conflicts, "requests")
    requests, cpu = f"{name}, API requests for each", f"{name}, CPU for each"
    beside = f"of these {few.writes:.2g} writes and {few.events:.2g} Events"
    if shape != MESH:
        return [Row(requests, few.requests, "requests", beside), conflicts]
    return [
        at_most(requests, few.requests, "requests", MESH_REQUESTS, beside),
        conflicts,
        at_most(cpu, few.cpu, "ms", MESH_CPU),
    ]


@contextmanager
def _prepared(say: Say, prefix: str | None) -> Iterator[Bench]:
    with ExitStack() as stack:
        bed = stack.enter_context(ApartBed(prefix, KUBECONFIG))
        a, b = (add_node(bed, stack, name, address, PATIENT) for name, address in NODES.items())
        yield Bench(bed, a, b, Watching(bed), say)


if __name__ == "__main__":
    print(table(measure()))
