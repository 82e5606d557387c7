"""What the ADD of a pod with a hundred links costs, whose peers have all joined before: of CPU, and of round trips.

The API is a process of its own that can be moved away: it then holds back every answer, so that requests of one ADD
that are under way together can be told from those of which one was sent after another was answered. The ADD of a pod
with one link is run beside it.

Run it by its path, as root: `python tests/bench/bench_many.py`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet.core.naming import record_name  # noqa: E402
from ratchet.core.pod import PodRef  # noqa: E402
from tests.bench.nodes import (  # noqa: E402
    NODES,
    ApartBed,
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

LINKS, ROUNDS = 100, 3
IN_NETNS = 10
FAR_SECONDS = 0.02
REST_SECONDS = 0.5
SETTLE_SECONDS = 0.1  # what a call writes of itself comes after its answer
MS_PER_LINK = 3.0
ASKS = {"ratchet": "true"}
VETH, VXLAN = "vEth", "VXLAN"
OF_CALLS = ("call", "helper")  # threads that serve calls


@dataclass(frozen=True, slots=True)
class Hub:
    """A pod with so many links of one kind, and where its sandboxes are; its peers are there for good."""

    kind: str
    pod: PodRef
    netns: str
    links: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{len(self.links)} {self.kind}"


@dataclass(slots=True)
class Taken:
    """What ADDs and DELs of a hub took, in ms: `near` and `far` from the API, of the agent's CPU, and of that outside
    the API's client (`work`); and how often an ADD asked the API, in all and in a row."""

    near: list[float] = field(default_factory=list)
    far: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    in_a_row: list[int] = field(default_factory=list)
    gone: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Bench:
    """Two nodes, `a` for hubs and for the peers of vEths, `b` for the peers of tunnels; what was found, by hub."""

    bed: ApartBed
    a: Node
    b: Node
    watching: Watching
    say: Say
    taken: dict[str, Taken] = field(default_factory=lambda: defaultdict(Taken))

    def hub(self, kind: str, links: int) -> Hub:
        """A pod in a topology with that many others, which have joined."""
        name, node = f"hub-{kind.lower()}-{links}", self.a if kind == VETH else self.b
        peers = [f"{name}-{number}" for number in range(links)]
        lines = (f'- endpoints: ["{name}:e{number}", "{peer}:{_ifname(number)}"]' for number, peer in enumerate(peers))
        self.bed.create_topology(name, "\n".join(lines))
        pod = self.bed.create_pod(name, ASKS, "a")
        pods = [self.bed.create_pod(peer, ASKS, node.runtime.host.name) for peer in peers]
        netns = add_namespaces(self.bed.hosts, name, *(f"{peer}-at" for peer in peers[::IN_NETNS]))
        sandboxes = [sandbox_in(netns[1 + number // IN_NETNS], one) for number, one in enumerate(pods)]
        all_at_once(partial(node.runtime.timed, "ADD"), sandboxes)
        names = (
            record_name("default", (name, f"e{number}"), (peer, _ifname(number))) for number, peer in enumerate(peers)
        )
        return Hub(kind, pod, netns[0], tuple(names))

    def add(self, hub: Hub, *, far: bool) -> None:
        """An ADD that completes all the hub's links, and the DEL that cuts them."""
        sandbox, taken = sandbox_in(hub.netns, hub.pod), self.taken[hub.name]
        time.sleep(REST_SECONDS)
        self.bed.move_api(FAR_SECONDS if far else 0.0)
        cpu = self.a.cpu()
        done = self.a.runtime.timed("ADD", sandbox)
        cpu = self.a.cpu() - cpu
        self.bed.move_api(0.0)
        self.watching.wait(*hub.links)
        if far:
            requests = [one for one in self.a.requests(done.began, done.ended) if one.thread.startswith(OF_CALLS)]
            taken.far.append(done.ms)
            taken.asked.append(len(requests))
            taken.in_a_row.append(in_a_row(requests))
        else:
            taken.near.append(done.ms)
            taken.cpu.append(cpu * 1e3)
        time.sleep(REST_SECONDS)
        if not far:
            taken.work.append(self.a.worked(done.began, done.ended + SETTLE_SECONDS) * 1e3)
        taken.gone.append(self.a.runtime.timed("DEL", sandbox).ms)
        self.say(f"{hub.name}{', the API far away' if far else ''}: ADD {done.ms:.0f} ms, DEL {taken.gone[-1]:.0f} ms")

    def rows(self, kind: str) -> list[Row]:
        many, one = self.taken[f"{LINKS} {kind}"], self.taken[f"1 {kind}"]
        work, cpu, wall = (statistics.median(each) for each in (many.work, many.cpu, many.near))
        row, asked = (statistics.median(each) for each in (many.in_a_row, many.asked))
        name = f"agent: ADD of a pod with {LINKS} {kind} links"
        alone = f"with one link {statistics.median(one.in_a_row):g}; {asked:g} requests in all, and "
        alone += f"{statistics.median(many.far):.0f} ms, where each takes {FAR_SECONDS * 1e3:.0f} ms"
        took = f"of {cpu:.0f} ms of the agent's in all, and {wall:.0f} ms until the answer; with one link "
        took += f"{statistics.median(one.work):.1f}, {statistics.median(one.cpu):.1f} and "
        took += f"{statistics.median(one.near):.1f} ms"
        gone = f"with one link {statistics.median(one.gone):.1f} ms"
        return [
            at_most(f"{name}, CPU without the API's client", work, "ms", LINKS * MS_PER_LINK, took),
            at_most(f"{name}, requests to the API in a row", row, "requests", LINKS / 4, alone),
            Row(f"agent: DEL of a pod with {LINKS} {kind} links", statistics.median(many.gone), "ms", gone),
        ]


def in_a_row(requests: Iterable[Request]) -> int:
    """The most of these of which each was sent after the one before it was answered."""
    count, answered = 0, float("-inf")
    for one in sorted(requests, key=lambda one: one.answered):
        if one.sent >= answered:
            count, answered = count + 1, one.answered
    return count


def measure(say: Say = print, prefix: str | None = None) -> list[Row]:
    """All figures of pods with many links."""
    say("two nodes, each with an agent; the API is a process of its own, which can be moved away")
    with _prepared(say, prefix) as bench:
        for kind in (VETH, VXLAN):
            hubs = [bench.hub(kind, links) for links in (1, LINKS)]
            for far in (False, True):
                for _ in range(ROUNDS):
                    for hub in hubs:
                        bench.add(hub, far=far)
        say("the nodes go")
        return [row for kind in (VETH, VXLAN) for row in bench.rows(kind)]


@contextmanager
def _prepared(say: Say, prefix: str | None) -> Iterator[Bench]:
    with ExitStack() as stack:
        bed = stack.enter_context(ApartBed(prefix))
        a, b = (add_node(bed, stack, name, address, PATIENT) for name, address in NODES.items())
        yield Bench(bed, a, b, Watching(bed), say)


def _ifname(number: int) -> str:
    return f"in{number % IN_NETNS}"


if __name__ == "__main__":
    print(table(measure()))
