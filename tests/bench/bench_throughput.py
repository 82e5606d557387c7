"""One TCP stream through a link, compared with one through a link of the same kind that was created by hand.

Both links connect the same two pods and have the same MTU. They are used alternately, in an order that changes each
time. All traffic stays in the testbed's namespaces.

Run it as root: `python -m tests.bench.bench_throughput`.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
from dataclasses import dataclass

from ratchet.core.kinds import Wiring
from ratchet.core.naming import record_name
from ratchet.dev.fake_kubelet import Sandbox
from ratchet.dev.hosts import command_in, ip
from ratchet.dev.testbed import wait_for
from tests.bench.iperf import IPERF3, sent
from tests.bench.nodes import ApiProcessBed, LinkWatch, Node, add_namespaces, sandbox_in, two_nodes
from tests.bench.rows import Report, Row, at_least, table

ROUNDS = 9
TARGETS = {Wiring.DIRECT: 0.97, Wiring.PANEL: 0.9}
VETH, VXLAN = "vEth", "VXLAN"
# bench_panel.py measures a link in panel wiring on one node.
MEASURED = ((VETH, Wiring.DIRECT), (VXLAN, Wiring.DIRECT), (VXLAN, Wiring.PANEL))
OURS, BY_HAND = "10.7.0.2", "10.8.0.2"
OTHER_VNIS, OTHER_PORT = {Wiring.DIRECT: 4711, Wiring.PANEL: 4712}, 4790  # not those of Ratchet's tunnels


@dataclass(slots=True)
class Bench:
    """Two nodes for the pods."""

    bed: ApiProcessBed
    a: Node
    b: Node
    watch: LinkWatch
    report: Report

    def row(self, kind: str, wiring: Wiring = Wiring.DIRECT) -> Row:
        """Compare the two links of a kind by the medians of Gbit/s."""
        near, far = self._linked(kind, wiring)
        mtu = int(json.loads(ip("-j", "-n", near.netns, "link", "show", "in1"))[0]["mtu"])
        if kind == VETH:
            _veth_by_hand(near.netns, far.netns, mtu)
        else:
            for node, other, netns, end in ((self.a, self.b, near.netns, 1), (self.b, self.a, far.netns, 2)):
                _tunnel_by_hand(node, other, netns, end, mtu, OTHER_VNIS[wiring])
        found: dict[str, list[float]] = {OURS: [], BY_HAND: []}
        for number in range(ROUNDS + 1):
            for address in (OURS, BY_HAND) if number % 2 else (BY_HAND, OURS):
                found[address].append(sent(near.netns, far.netns, address))
            last = f"{found[OURS][-1]:.1f} Gbit/s, by hand {found[BY_HAND][-1]:.1f}"
            self.report(f"{_name(kind, wiring)} {number}/{ROUNDS}: {last}")
        ours, by_hand = (statistics.median(each[1:]) for each in (found[OURS], found[BY_HAND]))
        text = f"{ours:.1f} Gbit/s; by hand {by_hand:.1f}"
        return at_least(_name(kind, wiring), ours / by_hand, "ratio", TARGETS[wiring], text)

    def _linked(self, kind: str, wiring: Wiring) -> tuple[Sandbox, Sandbox]:
        """Create two pods with a link, and wait until it carries packets."""
        names = [f"{kind.lower()}-{wiring}-{end}" for end in ("p", "q")]
        line = f'- {{endpoints: ["{names[0]}:in1", "{names[1]}:in1"], addresses: [10.7.0.1/24, {OURS}/24]'
        self.bed.create_topology(f"{kind.lower()}-{wiring}", f"{line}, wiring: {wiring}}}")
        nodes = (self.a, self.a if kind == VETH else self.b)
        netns = add_namespaces(self.bed.hosts, *names)
        sandboxes = []
        for name, node, full in zip(names, nodes, netns, strict=True):
            pod = self.bed.create_pod(name, {"ratchet": "true"}, node.runtime.host.name)
            sandboxes.append(sandbox_in(full, pod))
            node.runtime.timed("ADD", sandboxes[-1])
        self.watch.wait(record_name("default", (names[0], "in1"), (names[1], "in1")))
        near, far = sandboxes
        wait_for("a ping through the link", lambda: _pings(near.netns, OURS))
        return near, far


def measure(report: Report = print, prefix: str | None = None) -> list[Row]:
    """Measure throughput."""
    if shutil.which(IPERF3) is None:
        report(f"{IPERF3} is not installed")
        return [Row(_name(*link), None, "ratio", f"{IPERF3} is not installed") for link in MEASURED]
    report("two nodes, each with an agent")
    with two_nodes(prefix) as (bed, a, b):
        bench = Bench(bed, a, b, LinkWatch(bed), report)
        return [bench.row(*link) for link in MEASURED]


def _name(kind: str, wiring: Wiring) -> str:
    return f"{kind}: one TCP stream" if wiring is Wiring.DIRECT else f"{kind} in {wiring} wiring: one TCP stream"


def _veth_by_hand(near: str, far: str, mtu: int) -> None:
    ip(*f"-n {near} link add hand mtu {mtu} type veth peer name hand mtu {mtu} netns {far}".split())
    for netns, address in ((near, "10.8.0.1/24"), (far, f"{BY_HAND}/24")):
        _up(netns, address)


def _tunnel_by_hand(node: Node, other: Node, netns: str, number: int, mtu: int, vni: int) -> None:
    local, remote = node.runtime.host.address, other.runtime.host.address
    tunnel = f"type vxlan id {vni} remote {remote} local {local} dev eth0 dstport {OTHER_PORT} nolearning"
    ip(*f"-n {node.runtime.host.netns} link add hand mtu {mtu} netns {netns} {tunnel}".split())
    _up(netns, f"10.8.0.{number}/24")


def _up(netns: str, address: str) -> None:
    ip(*f"-n {netns} addr add {address} dev hand".split())
    ip(*f"-n {netns} link set hand up".split())


def _pings(netns: str, address: str) -> bool:
    command = command_in(netns, "ping", "-n", "-c", "1", "-W", "1", address)
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


if __name__ == "__main__":
    print(table(measure()))
