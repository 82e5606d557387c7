"""The ADD of a pod with a hundred links whose peers have joined: its CPU and its round trips to the API.

To count requests in a row, the API server delays its responses. Then concurrent requests of an ADD overlap, and
sequential ones do not. The ADD of a pod with one link is measured for comparison.

Run it as root: `python -m tests.bench.bench_many`.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from ratchet.core.kinds import Wiring
from ratchet.core.naming import record_name
from ratchet.core.pod import PodRef
from tests.bench.nodes import (
    ApiProcessBed,
    LinkWatch,
    Node,
    Request,
    add_namespaces,
    run_concurrently,
    sandbox_in,
    two_nodes,
)
from tests.bench.rows import Report, Row, at_most, table

LINKS, ROUNDS = 100, 3
IN_NETNS = 10
DELAY_SECONDS = 0.02
PAUSE_SECONDS = 0.5
TRACE_SECONDS = 0.1  # a call is traced after its response
MS_PER_LINK = 3.0
LABELS = {"ratchet": "true"}
VETH, VXLAN = "vEth", "VXLAN"
CALL_THREADS = ("call", "helper")


@dataclass(frozen=True, slots=True)
class Hub:
    """A pod with links of one kind and wiring, and the namespace of its sandboxes. Its peers stay."""

    kind: str
    wiring: Wiring
    pod: PodRef
    netns: str
    links: tuple[str, ...]

    @property
    def name(self) -> str:
        return hub_name(len(self.links), self.kind, self.wiring)


@dataclass(slots=True)
class HubCosts:
    """The costs of a hub's calls, a value per call.

    `fast` and `delayed`: ms of an ADD without and with delayed responses of the API. `cpu`: ms of the agent's CPU.
    `work`: the part of it outside the API's client. `requests`, `in_a_row`: requests of an ADD, and the longest chain
    of them. `deletes`: ms of a DEL.
    """

    fast: list[float] = field(default_factory=list)
    delayed: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    in_a_row: list[int] = field(default_factory=list)
    deletes: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Bench:
    """Two nodes: `a` for hubs and the peers of vEths, `b` for the peers of tunnels. `costs`: by hub."""

    bed: ApiProcessBed
    a: Node
    b: Node
    watch: LinkWatch
    report: Report
    costs: dict[str, HubCosts] = field(default_factory=lambda: defaultdict(HubCosts))

    def hub(self, kind: str, links: int, wiring: Wiring = Wiring.DIRECT) -> Hub:
        """Create a pod that a topology links to so many peers, which have joined."""
        name, node = f"hub-{kind.lower()}-{links}-{wiring}", self.a if kind == VETH else self.b
        peers = [f"{name}-{number}" for number in range(links)]
        lines = (
            f'- {{endpoints: ["{name}:e{number}", "{peer}:{_ifname(number)}"], wiring: {wiring}}}'
            for number, peer in enumerate(peers)
        )
        self.bed.create_topology(name, "\n".join(lines))
        pod = self.bed.create_pod(name, LABELS, "a")
        pods = [self.bed.create_pod(peer, LABELS, node.runtime.host.name) for peer in peers]
        netns = add_namespaces(self.bed.hosts, name, *(f"{peer}-at" for peer in peers[::IN_NETNS]))
        sandboxes = [sandbox_in(netns[1 + number // IN_NETNS], one) for number, one in enumerate(pods)]
        run_concurrently(partial(node.runtime.timed, "ADD"), sandboxes)
        names = (
            record_name("default", (name, f"e{number}"), (peer, _ifname(number))) for number, peer in enumerate(peers)
        )
        return Hub(kind, wiring, pod, netns[0], tuple(names))

    def add(self, hub: Hub, *, delayed: bool) -> None:
        """Measure an ADD that completes all links of a hub, and its DEL."""
        sandbox, costs = sandbox_in(hub.netns, hub.pod), self.costs[hub.name]
        time.sleep(PAUSE_SECONDS)
        self.bed.delay_api(DELAY_SECONDS if delayed else 0.0)
        cpu = self.a.cpu()
        done = self.a.runtime.timed("ADD", sandbox)
        cpu = self.a.cpu() - cpu
        self.bed.delay_api(0.0)
        self.watch.wait(*hub.links)
        if delayed:
            requests = [one for one in self.a.requests(done.began, done.ended) if one.thread.startswith(CALL_THREADS)]
            costs.delayed.append(done.ms)
            costs.requests.append(len(requests))
            costs.in_a_row.append(in_a_row(requests))
        else:
            costs.fast.append(done.ms)
            costs.cpu.append(cpu * 1e3)
        time.sleep(PAUSE_SECONDS)
        if not delayed:
            costs.work.append(self.a.cpu_of_calls(done.began, done.ended + TRACE_SECONDS) * 1e3)
        costs.deletes.append(self.a.runtime.timed("DEL", sandbox).ms)
        delay = ", the API delayed" if delayed else ""
        self.report(f"{hub.name}{delay}: ADD {done.ms:.0f} ms, DEL {costs.deletes[-1]:.0f} ms")

    def rows(self, kind: str) -> list[Row]:
        many, one = self.costs[hub_name(LINKS, kind)], self.costs[hub_name(1, kind)]
        work, cpu, wall = (statistics.median(each) for each in (many.work, many.cpu, many.fast))
        row, requests = (statistics.median(each) for each in (many.in_a_row, many.requests))
        name = f"agent: ADD of a pod with {LINKS} {kind} links"
        chain = f"with one link {statistics.median(one.in_a_row):g}; {requests:g} requests in all; "
        chain += f"{statistics.median(many.delayed):.0f} ms if each takes {DELAY_SECONDS * 1e3:.0f} ms"
        times = f"the agent's CPU {cpu:.0f} ms, wall time {wall:.0f} ms; with one link "
        times += f"{statistics.median(one.work):.1f}, {statistics.median(one.cpu):.1f} and "
        times += f"{statistics.median(one.fast):.1f} ms"
        delete = f"with one link {statistics.median(one.deletes):.1f} ms"
        return [
            at_most(f"{name}, CPU without the API's client", work, "ms", LINKS * MS_PER_LINK, times),
            at_most(f"{name}, requests to the API in a row", row, "requests", LINKS / 4, chain),
            Row(f"agent: DEL of a pod with {LINKS} {kind} links", statistics.median(many.deletes), "ms", delete),
        ]


def hub_name(links: int, kind: str, wiring: Wiring = Wiring.DIRECT) -> str:
    return f"{links} {kind}" if wiring is Wiring.DIRECT else f"{links} {kind} in {wiring} wiring"


def in_a_row(requests: Iterable[Request]) -> int:
    """The length of the longest chain of requests in which each was sent after the response to the one before."""
    count, answered = 0, float("-inf")
    for one in sorted(requests, key=lambda one: one.answered):
        if one.sent >= answered:
            count, answered = count + 1, one.answered
    return count


def measure(report: Report = print, prefix: str | None = None) -> list[Row]:
    """Measure pods with many links."""
    report("two nodes, each with an agent; the API server is a process of its own and can delay responses")
    with two_nodes(prefix) as (bed, a, b):
        bench = Bench(bed, a, b, LinkWatch(bed), report)
        for kind in (VETH, VXLAN):
            hubs = [bench.hub(kind, links) for links in (1, LINKS)]
            for delayed in (False, True):
                for _ in range(ROUNDS):
                    for hub in hubs:
                        bench.add(hub, delayed=delayed)
        report("removing the nodes")
        return [row for kind in (VETH, VXLAN) for row in bench.rows(kind)]


def _ifname(number: int) -> str:
    return f"in{number % IN_NETNS}"


if __name__ == "__main__":
    print(table(measure()))
