"""A link of one namespace while a pod of another one, the hog, has many links: ms, and the ratio to the link alone.

All links are in direct wiring. The hog has no peers: its ADD joins all of its links, and its DEL leaves them. The other
link is a vEth. It is measured from its first ADD until it is linked, then its two DELs are. All pods are on one node.

Run it as root: `python -m tests.bench.bench_fairness`.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ratchet.core.limits import LINKS_PER_POD
from ratchet.core.naming import record_name
from ratchet.dev.fake_kubelet import Sandbox
from ratchet.dev.testbed import wait_for
from tests.bench.nodes import (
    NODES,
    ApiProcessBed,
    LinkWatch,
    Node,
    add_namespaces,
    add_node,
    sandbox_in,
)
from tests.bench.rows import Report, Row, at_most, table
from tests.support.cluster import PATIENT

IN_TOPOLOGY = 256
COUNT_ALONE = 20
# Both namespaces share the agent's interpreter, and two cores with the API server.
RATIO = 10.0
OTHER, HOG = "other", "hog"
LABELS = {"ratchet": "true"}
ALONE = "nothing"


@dataclass(slots=True)
class Times:
    """The times of links under one load: ms until linked, and ms of both DELs."""

    linked: list[float] = field(default_factory=list)
    deleted: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        linked, deleted = self.linked, self.deleted
        return (
            f"{len(linked)} links, median {statistics.median(linked):.0f} ms, longest {max(linked):.0f} ms; "
            f"two DELs {statistics.median(deleted):.0f} and {max(deleted):.0f} ms"
        )


@dataclass(slots=True)
class Bench:
    """A node with pods of two namespaces. `times`: by the load, a command of the hog or ALONE. `hog`: ms by command."""

    bed: ApiProcessBed
    node: Node
    watch: LinkWatch
    report: Report
    times: dict[str, Times] = field(default_factory=dict)
    hog: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def make_hog(self) -> Sandbox:
        """Create a pod that topologies link to LINKS_PER_POD missing pods."""
        self.bed.namespace = HOG
        for first in range(0, LINKS_PER_POD, IN_TOPOLOGY):
            numbers = range(first, min(LINKS_PER_POD, first + IN_TOPOLOGY))
            lines = (_line(f"hub:e{number}", f"p{number}:in1") for number in numbers)
            self.bed.create_topology(f"hog-{first}", "\n".join(lines))
        (netns,) = add_namespaces(self.bed.hosts, "hub")
        return sandbox_in(netns, self.bed.create_pod("hub", LABELS, "a"))

    def link(self, load: str) -> None:
        """Measure one link of the other namespace: its two ADDs, and its two DELs."""
        self.count += 1
        self.bed.namespace = OTHER
        names = [f"{side}{self.count}" for side in "pq"]
        self.bed.create_topology(f"link-{self.count}", _line(f"{names[0]}:in1", f"{names[1]}:in1"))
        pods = [self.bed.create_pod(name, LABELS, "a") for name in names]
        netns = add_namespaces(self.bed.hosts, *names)
        sandboxes = [sandbox_in(one, pod) for one, pod in zip(netns, pods, strict=True)]
        began = self.node.runtime.timed("ADD", sandboxes[0]).began
        self.node.runtime.timed("ADD", sandboxes[1])
        linked = self.watch.wait(record_name(OTHER, (names[0], "in1"), (names[1], "in1")))
        times = self.times.setdefault(load, Times())
        times.linked.append((linked - began) * 1e3)
        times.deleted.append(sum(self.node.runtime.timed("DEL", sandbox).ms for sandbox in sandboxes))

    def link_during(self, command: str, hog: Sandbox) -> None:
        """Start a call for the hog, and measure one link after another until the call ends."""
        took = list[float]()
        requests = len(self.node.requests())
        caller = threading.Thread(target=lambda: took.append(self.node.runtime.timed(command, hog).ms))
        caller.start()
        wait_for(f"requests of the {command}", lambda: len(self.node.requests()) > requests + LINKS_PER_POD / 20)
        self.link(command)
        while caller.is_alive():
            self.link(command)
        caller.join()
        (self.hog[command],) = took
        self.report(f"{command} of {LINKS_PER_POD} links: {took[0]:.0f} ms; meanwhile {self.times[command]}")

    def rows(self) -> Iterator[Row]:
        alone = self.times[ALONE]
        for command in self.hog:
            loaded = self.times[command]
            name = f"agent: a direct link during the {command} of another namespace's pod with {LINKS_PER_POD} links"
            for what, ms, base in (
                ("until linked", loaded.linked, alone.linked),
                ("DELs", loaded.deleted, alone.deleted),
            ):
                here, there = statistics.median(ms), statistics.median(base)
                comparison = (
                    f"{here:.0f} ms, alone {there:.0f} ms; the other {command} takes {self.hog[command]:.0f} ms"
                )
                yield at_most(f"{name}, {what}", here / there, "times", RATIO, comparison)


def _line(one: str, other: str) -> str:
    return f"- {{endpoints: ['{one}', '{other}'], wiring: direct}}"


def measure(report: Report = print, prefix: str | None = None) -> list[Row]:
    """Measure fairness between namespaces."""
    with _prepared(report, prefix) as bench:
        for _ in range(COUNT_ALONE):
            bench.link(ALONE)
        report(f"alone: {bench.times[ALONE]}")
        hog = bench.make_hog()
        for command in ("ADD", "DEL"):
            bench.link_during(command, hog)
        return list(bench.rows())


@contextmanager
def _prepared(report: Report, prefix: str | None) -> Iterator[Bench]:
    with ExitStack() as stack:
        bed = stack.enter_context(ApiProcessBed(prefix))
        for namespace in (OTHER, HOG):
            bed.make("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        node = add_node(bed, stack, "a", NODES["a"], PATIENT)
        yield Bench(bed, node, LinkWatch(bed), report)


if __name__ == "__main__":
    print(table(measure()))
