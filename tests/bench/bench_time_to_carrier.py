"""The time to carrier in both wirings: after the ADD that completes a link, and after a pod sets its end down or up.

The times of panel wiring are compared with those of direct wiring, in rounds that alternate. In direct wiring the other
end of a tunnel does not learn that a pod has set its end down, so there the comparison is with a vEth.

Run it as root: `python -m tests.bench.bench_time_to_carrier`.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ratchet.core.kinds import Wiring
from ratchet.datapath.messages import RTM_NEWLINK
from ratchet.datapath.netns import inside, open_netns
from ratchet.datapath.nlattr import HEADER, IFINFOMSG
from ratchet.datapath.rtnetlink import Channel, split_messages
from ratchet.dev.hosts import netns_path
from tests.bench.bench_agent import Pair, pairs_of, pause
from tests.bench.bench_carrier import IFF_RUNNING, link_events, shut_and_open
from tests.bench.beside import spread
from tests.bench.nodes import KUBECONFIG, LinkWatch, Node, two_nodes
from tests.bench.rows import Report, Row, table

ROUNDS, PAIRS = 10, 4
PLACES = {"one node": "a", "two nodes": "b"}
LO = 1  # the ifindex of lo

Times = dict[tuple[str, Wiring], list[float]]


@dataclass(slots=True)
class Bench:
    """The ms after an ADD, and until the carrier is lost and is there again, by place and wiring."""

    nodes: Mapping[str, Node]
    watch: LinkWatch
    report: Report
    added: Times = field(default_factory=lambda: defaultdict(list))
    lost: Times = field(default_factory=lambda: defaultdict(list))
    gained: Times = field(default_factory=lambda: defaultdict(list))

    def measure(self, place: str, wiring: Wiring, pair: Pair) -> None:
        """Link two pods, set the end of the one whose peer is on `a` down and up, and remove both."""
        key, a, node = (place, wiring), self.nodes["a"], self.nodes[PLACES[place]]
        peer = pair.joined(node)
        pause()
        with ThreadPoolExecutor() as pool, _events(pair.far) as far, _events(pair.near) as near:
            ends = [pool.submit(_time_of_carrier, events) for events in (far, near)]
            pod = pair.pod_sandbox()
            began = a.runtime.timed("ADD", pod).began
            self.added[key].append((max(one.result() for one in ends) - began) * 1e3)
        self.watch.wait(pair.link)
        if key != ("two nodes", Wiring.DIRECT):
            lost, gained = _shut_and_open(pair)
            self.lost[key].append(lost)
            self.gained[key].append(gained)
        a.runtime.timed("DEL", pod)
        node.runtime.timed("DEL", peer)

    def rows(self) -> list[Row]:
        rows = []
        for what, times in (("ADD", self.added), ("a pod sets its end up", self.gained)):
            rows += [_row(f"carrier: {what} to carrier", times, place) for place in PLACES]
        return [*rows, *(_row("carrier: a pod sets its end down to loss of carrier", self.lost, p) for p in PLACES)]


def measure(report: Report = print, prefix: str | None = None) -> list[Row]:
    """Measure links of both wirings on one node and between two nodes."""
    report(f"two nodes, each with an agent; API server: {KUBECONFIG or 'a process of its own'}")
    with two_nodes(prefix, KUBECONFIG) as (bed, a, b):
        bench = Bench({"a": a, "b": b}, LinkWatch(bed), report)
        pairs = {
            (place, wiring): pairs_of(bed, f"{wiring}-carrier-{node}", PAIRS, node, wiring)
            for place, node in PLACES.items()
            for wiring in Wiring
        }
        pause(30)
        for number in range(ROUNDS + 1):
            for place in PLACES:
                for wiring in Wiring if number % 2 else reversed(Wiring):
                    bench.measure(place, wiring, pairs[place, wiring][number % PAIRS])
            last = ", ".join(f"{place} {wiring} {each[-1]:.1f} ms" for (place, wiring), each in bench.added.items())
            report(f"ADD to carrier {number}/{ROUNDS}: {last}")
        report("removing the nodes")
        return bench.rows()


def _row(name: str, times: Times, place: str) -> Row:
    panel = times[place, Wiring.PANEL][1:]
    direct = times.get((place, Wiring.DIRECT)) or times["one node", Wiring.DIRECT]
    ratio = statistics.median(panel) / statistics.median(direct[1:])
    other = "direct" if (place, Wiring.DIRECT) in times else "vEth"
    return Row(f"{name} on {place}, panel / {other}", ratio, "ratio", f"{spread(panel)} ms; {spread(direct[1:])} ms")


def _shut_and_open(pair: Pair) -> tuple[float, float]:
    near, far = _index(pair.near, "in2"), _index(pair.far, "in1")
    with _events(pair.near) as events, open_netns(netns_path(pair.far)) as netns, Channel(netns) as pod:
        return shut_and_open(pod, far, events, near)


@contextmanager
def _events(name: str) -> Iterator[socket.socket]:
    with ExitStack() as stack:
        with open_netns(netns_path(name)) as netns, inside(netns):
            events = stack.enter_context(link_events())
        yield events


def _index(name: str, ifname: str) -> int:
    with open_netns(netns_path(name)) as netns, inside(netns):
        return socket.if_nametoindex(ifname)


def _time_of_carrier(events: socket.socket) -> float:
    """Wait until any interface but `lo` has carrier. The monotonic time then."""
    while True:
        for _, kind, _, raw in split_messages(events.recv(1 << 16)):
            _, _, _, index, flags, _ = IFINFOMSG.unpack_from(raw, HEADER.size)
            if kind == RTM_NEWLINK and index != LO and flags & IFF_RUNNING:
                return time.monotonic()


if __name__ == "__main__":
    print(table(measure()))
