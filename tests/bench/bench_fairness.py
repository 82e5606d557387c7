"""A link of one namespace beside a pod with many links of another namespace: ms, and the ratio to the link alone.

The pod with many links has no peers: its ADD joins all of its links, its DEL leaves them. The other link is a vEth,
measured from its first ADD until it is linked; then its two DELs. All pods are on one node, with one agent.

Run it by its path, as root: `python tests/bench/bench_fairness.py`.
"""

from __future__ import annotations

import statistics
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet.core.limits import LINKS_PER_POD  # noqa: E402
from ratchet.core.naming import record_name  # noqa: E402
from ratchet.dev.fake_kubelet import Sandbox  # noqa: E402
from ratchet.dev.testbed import wait_for  # noqa: E402
from tests.bench.nodes import (  # noqa: E402
    NODES,
    ApartBed,
    Node,
    Watching,
    add_namespaces,
    add_node,
    sandbox_in,
)
from tests.bench.rows import Row, Say, at_most, table  # noqa: E402
from tests.support.cluster import PATIENT  # noqa: E402

IN_TOPOLOGY = 256
ALONE = 20
# Requests of both namespaces share the agent's interpreter and two cores with the API server.
RATIO = 10.0
OTHER, HOG = "other", "hog"
ASKS = {"ratchet": "true"}
NOTHING = "nothing"


@dataclass(slots=True)
class Taken:
    """What links took beside something: ms until linked, and ms of both DELs."""

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
    """A node that serves two namespaces. `taken` is by what ran beside the links: NOTHING, or a command of the hog."""

    bed: ApartBed
    node: Node
    watching: Watching
    say: Say
    taken: dict[str, Taken] = field(default_factory=dict)
    hog: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def make_hog(self) -> Sandbox:
        """A pod that topologies link to LINKS_PER_POD pods, which do not exist."""
        self.bed.namespace = HOG
        for first in range(0, LINKS_PER_POD, IN_TOPOLOGY):
            numbers = range(first, min(LINKS_PER_POD, first + IN_TOPOLOGY))
            lines = (f"- endpoints: [hub:e{number}, p{number}:in1]" for number in numbers)
            self.bed.create_topology(f"hog-{first}", "\n".join(lines))
        (netns,) = add_namespaces(self.bed.hosts, "hub")
        return sandbox_in(netns, self.bed.create_pod("hub", ASKS, "a"))

    def link(self, beside: str) -> None:
        """Measure one link of the other namespace: its two ADDs, and its two DELs."""
        self.count += 1
        self.bed.namespace = OTHER
        names = [f"{side}{self.count}" for side in "pq"]
        self.bed.create_topology(f"link-{self.count}", f"- endpoints: [{names[0]}:in1, {names[1]}:in1]")
        pods = [self.bed.create_pod(name, ASKS, "a") for name in names]
        netns = add_namespaces(self.bed.hosts, *names)
        sandboxes = [sandbox_in(one, pod) for one, pod in zip(netns, pods, strict=True)]
        began = self.node.runtime.timed("ADD", sandboxes[0]).began
        self.node.runtime.timed("ADD", sandboxes[1])
        linked = self.watching.wait(record_name(OTHER, (names[0], "in1"), (names[1], "in1")))
        taken = self.taken.setdefault(beside, Taken())
        taken.linked.append((linked - began) * 1e3)
        taken.deleted.append(sum(self.node.runtime.timed("DEL", sandbox).ms for sandbox in sandboxes))

    def beside(self, command: str, hog: Sandbox) -> None:
        """Measure links one after another until the hog's call has ended. It has begun before the first one."""
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
        self.say(f"{command} of {LINKS_PER_POD} links: {took[0]:.0f} ms; beside it {self.taken[command]}")

    def rows(self) -> Iterator[Row]:
        alone = self.taken[NOTHING]
        for command in self.hog:
            beside = self.taken[command]
            name = f"agent: a link beside the {command} of another namespace's pod with {LINKS_PER_POD} links"
            for what, ms, base in (
                ("until linked", beside.linked, alone.linked),
                ("DELs", beside.deleted, alone.deleted),
            ):
                here, there = statistics.median(ms), statistics.median(base)
                told = f"{here:.0f} ms, alone {there:.0f} ms; the other {command} takes {self.hog[command]:.0f} ms"
                yield at_most(f"{name}, {what}", here / there, "times", RATIO, told)


def measure(say: Say = print, prefix: str | None = None) -> list[Row]:
    """All figures of fairness between namespaces."""
    with _prepared(say, prefix) as bench:
        for _ in range(ALONE):
            bench.link(NOTHING)
        say(f"alone: {bench.taken[NOTHING]}")
        hog = bench.make_hog()
        for command in ("ADD", "DEL"):
            bench.beside(command, hog)
        return list(bench.rows())


@contextmanager
def _prepared(say: Say, prefix: str | None) -> Iterator[Bench]:
    with ExitStack() as stack:
        bed = stack.enter_context(ApartBed(prefix))
        for namespace in (OTHER, HOG):
            bed.make("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        node = add_node(bed, stack, "a", NODES["a"], PATIENT)
        yield Bench(bed, node, Watching(bed), say)


if __name__ == "__main__":
    print(table(measure()))
