"""Two agents with up to MANY links: time and CPU of a further link, memory, and requests while idle.

The links are tunnels. ADDs through the shim create them in batches of BATCH links: first those of all primaries on `a`,
then those of all pairs on `b`, CONCURRENCY at a time. No ADD waits for its peer. Each pod has one link. Several
sandboxes share a namespace, because the kernel would otherwise spend most of its time on namespaces.

Run it as root: `python -m tests.bench.bench_scale`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from ratchet.core.kinds import Wiring
from ratchet.core.naming import record_name
from ratchet.dev.fake_kubelet import Sandbox
from ratchet.dev.testbed import Testbed
from tests.bench.nodes import (
    KUBECONFIG,
    LinkWatch,
    Node,
    add_namespaces,
    run_concurrently,
    sandbox_in,
    two_nodes,
    wiring_label,
)
from tests.bench.rows import Report, Row, at_most, table
from tests.support.cluster import PAIR

FEW, MANY, BATCH, WARM_UP = 500, 3000, 100, 20
# The medians of this many batches before FEW and before MANY are compared.
COMPARED = 3
# The kernel's own additional ms for a VXLAN at MANY links. It is subtracted.
KERNEL_GROWTH_MS = 0.15
IN_NETNS = 10
# The pause after the last link, and the time in which requests are counted. Each watch restarts once in that time.
PAUSE_SECONDS, IDLE_SECONDS = 10.0, 120.0
CARRIER_THREAD = "carrier"  # of an agent: it follows the panel's events and OAM frames


@dataclass(slots=True)
class Scale:
    """Two nodes and their figures. `idle`, `loaded`: MiB without links and with all. `batches`, `cpu`: ms per link."""

    bed: Testbed
    a: Node
    b: Node
    watch: LinkWatch
    report: Report
    wiring: Wiring = Wiring.DIRECT
    idle: float = 0.0
    loaded: float = 0.0
    batches: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, first: int) -> None:
        """Measure a batch of links with numbers from `first`."""
        cpu = self._cpu()
        self.batches.append(self.link(first, BATCH))
        self.cpu.append((self._cpu() - cpu) / BATCH * 1e3)

    def _cpu(self) -> float:
        return self.a.cpu() + self.b.cpu()

    def link(self, first: int, count: int) -> float:
        """Create links with numbers from `first`. Returns ms per link, from the first ADD until the last is linked."""
        names = [f"link-{number}" for number in range(first, first + count)]
        ends = [self._sandboxes(side, node, names) for side, node in (("p", self.a), ("q", self.b))]
        began = time.monotonic()
        for node, sandboxes in zip((self.a, self.b), ends, strict=True):
            run_concurrently(partial(node.runtime.timed, "ADD"), sandboxes)
        records = [
            record_name("default", (f"{name}-p", _ifname(first + index)), (f"{name}-q", _ifname(first + index)))
            for index, name in enumerate(names)
        ]
        return (self.watch.wait(*records, seconds=120.0) - began) / count * 1e3

    def _sandboxes(self, side: str, node: Node, names: Sequence[str]) -> list[Sandbox]:
        """Create the pods of one side of the links, and a sandbox for each."""
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
            **wiring_label(self.wiring),
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
            self.report(f"{what}: {left:.0f} s left")
            time.sleep(min(10.0, left))

    def requests_per_minute(self) -> tuple[float, str]:
        """The requests per minute of the busier agent while idle, and their kinds."""
        began = time.monotonic()
        self.wait(IDLE_SECONDS, "counting requests of idle agents")
        requests = max((node.requests(began) for node in (self.a, self.b)), key=len)
        watches = sum("watch=1" in one.path for one in requests)
        lists = sum("limit=" in one.path or "NotOlderThan" in one.path for one in requests)
        text = f"in {IDLE_SECONDS:.0f} s {sum(one.writes for one in requests)} writes, {lists} lists, {watches} watches"
        return len(requests) / IDLE_SECONDS * 60, text

    def idle_cpu(self, seconds: float) -> tuple[float, float]:
        """The seconds of CPU per minute of the idle agent of `a`, and of its thread for OAM frames."""
        began, before, of_thread = time.monotonic(), self.a.cpu(), self.a.cpu_of_thread(CARRIER_THREAD)
        self.wait(seconds, "measuring the CPU of idle agents")
        minutes = (time.monotonic() - began) / 60
        return (self.a.cpu() - before) / minutes, (self.a.cpu_of_thread(CARRIER_THREAD) - of_thread) / minutes

    def most_memory(self) -> float:
        return max(self.a.memory(), self.b.memory())


def measure(report: Report = print, prefix: str | None = None) -> list[Row]:
    """Measure many links."""
    report(f"two nodes, each with an agent; API server: {KUBECONFIG or 'a process of its own'}")
    with two_nodes(prefix, KUBECONFIG) as (bed, a, b):
        scale = Scale(bed, a, b, LinkWatch(bed), report)
        scale.idle = scale.most_memory()
        scale.link(MANY, WARM_UP)
        for first in range(0, MANY, BATCH):
            scale.measure(first)
            times = f"{scale.batches[-1]:.1f} ms per link in the last batch, CPU {scale.cpu[-1]:.1f} ms"
            report(f"{first + BATCH} links: {times}; {scale.most_memory():.0f} MiB")
        scale.wait(PAUSE_SECONDS, "waiting until the agents are idle")
        scale.loaded = scale.most_memory()
        rate, text = scale.requests_per_minute()
        report("removing the nodes")
        return [
            *_rows(scale),
            at_most(f"agent: API requests per minute, idle with {MANY} links", rate, "requests", 24, text),
        ]


def _rows(scale: Scale) -> list[Row]:
    def compared(name: str, batches: Sequence[float]) -> Row:
        """Compare the cost of a link at MANY links with that at FEW."""
        few, many = (statistics.median(batches[: links // BATCH][-COMPARED:]) for links in (FEW, MANY))
        ratio = (many - KERNEL_GROWTH_MS) / few
        return at_most(
            f"agents: {name}, {MANY} links relative to {FEW}", ratio, "ratio", 1.2, f"{many:.3g} and {few:.3g} ms"
        )

    return [
        at_most("agent: memory without links", scale.idle, "MiB", 80, "RSS"),
        at_most(f"agent: memory with {MANY} links", scale.loaded, "MiB", 150, "RSS"),
        compared("time per link", scale.batches),
        compared("CPU per link", scale.cpu),
    ]


def _ifname(number: int) -> str:
    return f"in{number % IN_NETNS}"


if __name__ == "__main__":
    print(table(measure()))
