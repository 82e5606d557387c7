"""Traffic through a link, compared with that through a link of the same kind that was created by hand.

Both links connect the same two pods and have the same MTU, unless that is larger than the underlay's. They are used
alternately, in an order that changes each time. All traffic stays in the testbed's namespaces.

Run it as root: `python -m tests.bench.bench_throughput`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass

from ratchet.core.kinds import Wiring
from ratchet.core.naming import record_name
from ratchet.dev.fake_kubelet import Sandbox
from ratchet.dev.hosts import command_in, ip
from ratchet.dev.testbed import wait_for
from tests.bench.beside import Traffic
from tests.bench.iperf import IPERF3
from tests.bench.nodes import ApiProcessBed, LinkWatch, Node, add_namespaces, sandbox_in, two_nodes
from tests.bench.rows import Report, Row, table

ROUNDS = 9
VETH, VXLAN = "vEth", "VXLAN"
OURS, BY_HAND = "10.7.0.2", "10.8.0.2"
OTHER_VNI, OTHER_PORT = 4711, 4790  # not those of Ratchet's tunnels
PLAIN_MTU = 1450  # of a tunnel by hand, whose packets are not fragmented


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of link. `target`: the least ratio of throughput. `mtu`: the declared one; None for the default."""

    kind: str
    wiring: Wiring
    target: float | None
    mtu: int | None = None

    @property
    def name(self) -> str:
        wiring = "" if self.wiring is Wiring.DIRECT else f" in {self.wiring} wiring"
        return f"{self.kind}{wiring}" + (f", MTU {self.mtu} over 1500" if self.mtu else "")

    @property
    def key(self) -> str:
        """The kind in names of objects."""
        return f"{self.kind.lower()}-{self.wiring}-{self.mtu or 'default'}"


# bench_panel.py measures a link in panel wiring on one node. The last one has no target: by hand, packets are smaller.
MEASURED = (
    Kind(VETH, Wiring.DIRECT, 0.97),
    Kind(VXLAN, Wiring.DIRECT, 0.97),
    Kind(VXLAN, Wiring.PANEL, 0.9),
    Kind(VXLAN, Wiring.PANEL, None, 9000),
)


@dataclass(slots=True)
class Bench:
    """Two nodes for the pods."""

    bed: ApiProcessBed
    a: Node
    b: Node
    watch: LinkWatch
    report: Report

    def rows(self, number: int, link: Kind) -> list[Row]:
        """Compare the two links of a kind. `number` is the kind's, for the VNI of the tunnel by hand."""
        near, far = self._linked(link)
        mtu = int(json.loads(ip("-j", "-n", near.netns, "link", "show", "in1"))[0]["mtu"])
        if link.kind == VETH:
            _veth_by_hand(near.netns, far.netns, mtu)
        else:
            plain, vni = min(mtu, PLAIN_MTU), OTHER_VNI + number
            for node, other, netns, end in ((self.a, self.b, near.netns, 1), (self.b, self.a, far.netns, 2)):
                _tunnel_by_hand(node, other, netns, end, plain, vni)
        wait_for("a ping through the link by hand", lambda: _pings(near.netns, BY_HAND))
        by_hand = f"by hand with MTU {PLAIN_MTU}" if link.mtu else "by hand"
        traffic = Traffic(near.netns, far.netns, OURS, BY_HAND, by_hand)
        return traffic.rows(link.name, ROUNDS, link.target, self.report)

    def _linked(self, link: Kind) -> tuple[Sandbox, Sandbox]:
        """Create two pods with a link, and wait until it carries packets."""
        names = [f"{link.key}-{end}" for end in ("p", "q")]
        item = f'endpoints: ["{names[0]}:in1", "{names[1]}:in1"], addresses: [10.7.0.1/24, {OURS}/24]'
        mtu = f", mtu: {link.mtu}" if link.mtu else ""
        self.bed.create_topology(link.key, f"- {{{item}, wiring: {link.wiring}{mtu}}}")
        nodes = (self.a, self.a if link.kind == VETH else self.b)
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
    """Measure throughput and round trips."""
    if shutil.which(IPERF3) is None:
        report(f"{IPERF3} is not installed")
        return [Row(f"{link.name}: one TCP stream", None, "ratio", f"{IPERF3} is not installed") for link in MEASURED]
    report("two nodes, each with an agent")
    with two_nodes(prefix) as (bed, a, b):
        bench = Bench(bed, a, b, LinkWatch(bed), report)
        return [row for number, link in enumerate(MEASURED) for row in bench.rows(number, link)]


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
