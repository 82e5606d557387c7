"""What links cost two agents that have FEW or MANY already: time and CPU for each more, memory, idle requests.

Links are tunnels between the two nodes, made by ADDs through the shim that do not wait for their peers, in batches of
BATCH links: all primaries' ADDs on `a`, then all pairs' on `b`, AT_ONCE at once. Each pod has one link; several pods'
sandboxes share one namespace, or the kernel would be at work on namespaces rather than on links.

Run it by its path, as root: `python tests/bench/bench_scale.py`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet.core.naming import record_name  # noqa: E402
from ratchet.dev.fake_kubelet import Sandbox  # noqa: E402
from ratchet.dev.testbed import Testbed  # noqa: E402
from tests.bench.nodes import (  # noqa: E402
    KUBECONFIG,
    NODES,
    ApartBed,
    Node,
    Watching,
    add_namespaces,
    add_node,
    all_at_once,
    sandbox_in,
)
from tests.bench.rows import Row, Say, at_most, table  # noqa: E402
from tests.support.cluster import PAIR, PATIENT  # noqa: E402

FEW, MANY, BATCH, WARM_UP = 500, 3000, 100, 20
# So many batches before FEW and before MANY are compared by their medians.
COMPARED = 3
# ms that the kernel needs more for a VXLAN of MANY than for one of FEW; it is in no comparison.
KERNEL_GROWTH_MS = 0.15
IN_NETNS = 10
# For what an agent does after the last link to be over; and for how long its requests are then counted: as long as a
# watch lasts, so that each is begun anew once.
SETTLE_SECONDS, IDLE_SECONDS = 10.0, 120.0


@dataclass(slots=True)
class Scale:
    """Two nodes, and what was found of them: MiB without links and with all; of each batch ms per link, and of CPU."""

    bed: Testbed
    a: Node
    b: Node
    watching: Watching
    say: Say
    idle: float = 0.0
    loaded: float = 0.0
    batches: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, first: int) -> None:
        """A batch of links more, numbered from `first`."""
        cpu = self._cpu()
        self.batches.append(self.link(first, BATCH))
        self.cpu.append((self._cpu() - cpu) / BATCH * 1e3)

    def _cpu(self) -> float:
        return self.a.cpu() + self.b.cpu()

    def link(self, first: int, count: int) -> float:
        """So many more links, numbered from `first`; ms per link, from the first ADD until the last is linked."""
        names = [f"link-{number}" for number in range(first, first + count)]
        ends = [self._sandboxes(side, node, names) for side, node in (("p", self.a), ("q", self.b))]
        began = time.monotonic()
        for node, sandboxes in zip((self.a, self.b), ends, strict=True):
            all_at_once(partial(node.runtime.timed, "ADD"), sandboxes)
        records = [
            record_name("default", (f"{name}-p", _ifname(first + index)), (f"{name}-q", _ifname(first + index)))
            for index, name in enumerate(names)
        ]
        return (self.watching.wait(*records, seconds=120.0) - began) / count * 1e3

    def _sandboxes(self, side: str, node: Node, names: Sequence[str]) -> list[Sandbox]:
        """Pods of one side of the links, and a sandbox for each."""
        numbers = [int(name.rpartition("-")[2]) for name in names]
        netns = add_namespaces(self.bed.hosts, *(f"{side}{number}" for number in numbers if number % IN_NETNS == 0))
        pods = [
            self.bed.create_pod(f"{name}-{side}", self._labels(side, name, number), node.runtime.host.name)
            for name, number in zip(names, numbers, strict=True)
        ]
        return [sandbox_in(netns[index // IN_NETNS], pod) for index, pod in enumerate(pods)]

    def _labels(self, side: str, name: str, number: int) -> dict[str, str]:
        if side == "q":
            return PAIR
        return {
            "ratchet": "true",
            "ratchet.primary": "true",
            "ratchet.pair_name": f"{name}-q",
            "ratchet.local_ifname": _ifname(number),
            "ratchet.pair_ifname": _ifname(number),
            "ratchet.local_ip": f"10.{number // 100}.{number % 100}.1",
            "ratchet.pair_ip": f"10.{number // 100}.{number % 100}.2",
        }

    def wait(self, seconds: float, what: str) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.say(f"{what}: {left:.0f} s more")
            time.sleep(min(10.0, left))

    def asked_per_minute(self) -> tuple[float, str]:
        """Requests of the agent that asks more, of an idle minute, and which they are."""
        began = time.monotonic()
        self.wait(IDLE_SECONDS, "the agents are idle")
        asked = max((node.requests(began) for node in (self.a, self.b)), key=len)
        watches = sum("watch=1" in one.path for one in asked)
        lists = sum("limit=" in one.path for one in asked)
        text = f"in {IDLE_SECONDS:.0f} s {sum(one.writes for one in asked)} writes, {lists} lists, {watches} watches"
        return len(asked) / IDLE_SECONDS * 60, text

    def most_memory(self) -> float:
        return max(self.a.memory(), self.b.memory())


def measure(say: Say = print, prefix: str | None = None) -> list[Row]:
    """All figures of many links."""
    with _prepared(say, prefix) as scale:
        scale.idle = scale.most_memory()
        scale.link(MANY, WARM_UP)
        for first in range(0, MANY, BATCH):
            scale.measure(first)
            times = f"{scale.batches[-1]:.1f} ms for each of the last {BATCH}, {scale.cpu[-1]:.1f} ms of CPU"
            say(f"{first + BATCH} links: {times}; {scale.most_memory():.0f} MiB")
        scale.wait(SETTLE_SECONDS, "the agents come to rest")
        scale.loaded = scale.most_memory()
        rate, text = scale.asked_per_minute()
        say("the nodes go")
        return [*_rows(scale), at_most(f"agent: API calls a minute, idle with {MANY} links", rate, "calls", 24, text)]


def _rows(scale: Scale) -> list[Row]:
    def compared(name: str, batches: Sequence[float]) -> Row:
        """The cost of a link of MANY against that of one of FEW."""
        few, many = (statistics.median(batches[: links // BATCH][-COMPARED:]) for links in (FEW, MANY))
        ratio = (many - KERNEL_GROWTH_MS) / few
        return at_most(
            f"agents: {name}, at {MANY} links against {FEW}", ratio, "ratio", 1.2, f"{many:.3g} and {few:.3g} ms"
        )

    return [
        at_most("agent: memory without links", scale.idle, "MiB", 80, "RSS"),
        at_most(f"agent: memory with {MANY} links", scale.loaded, "MiB", 150, "RSS"),
        compared("time for each link", scale.batches),
        compared("CPU for each link", scale.cpu),
    ]


@contextmanager
def _prepared(say: Say, prefix: str | None) -> Iterator[Scale]:
    say(f"two nodes, each with an agent; the API is {KUBECONFIG or 'a process of its own'}")
    with ExitStack() as stack:
        bed = stack.enter_context(ApartBed(prefix, KUBECONFIG))
        a, b = (add_node(bed, stack, name, address, PATIENT) for name, address in NODES.items())
        yield Scale(bed, a, b, Watching(bed), say)


def _ifname(number: int) -> str:
    return f"in{number % IN_NETNS}"


if __name__ == "__main__":
    print(table(measure()))
