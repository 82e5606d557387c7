"""The cost of a link in the datapath, compared with ip(8).

Run it as root: `python -m tests.bench.bench_datapath`. All interfaces are in namespaces of the benchmark.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from ratchet.core.interface import VxlanWire, Wire
from ratchet.datapath import ensure, tunnel_guard
from tests.bench.rows import Report, Row, table
from tests.support.namespaces import Bed
from tests.support.wires import Wires

ROUNDS = 5
LINKS = 25
ONE, TWO = "10.9.0.1", "10.9.0.2"
TARGET = "<= 1 ms of CPU, or ratio < 0.3"


def measure(report: Report = print) -> list[Row]:
    """Measure the datapath in this process. The figures are medians of rounds that create LINKS links each."""
    with ExitStack() as stack:
        bed = stack.enter_context(Bed())
        report(f"{2 * LINKS} namespaces for pods")
        bed.fabric(**{"node-1": f"{ONE}/24"})
        bed.add(*(f"{end}-{number}" for end in "ab" for number in range(LINKS)))
        stack.enter_context(bed.inside("node-1"))
        wires = Wires(bed)
        veths: list[Wire] = [wires.veth(f"a-{number}", f"b-{number}") for number in range(LINKS)]
        tunnels: list[Wire] = [
            wires.tunnel(f"a-{number}", 0, ONE, TWO, vni=1000 + number, mtu=1450) for number in range(LINKS)
        ]
        rows = [*_rows("vEth", veths, _ip_veth(bed), report), *_rows("VXLAN end", tunnels, _ip_vxlan(bed), report)]
        report("removing the namespaces")
        return rows


def _rows(kind: str, wires: Sequence[Wire], by_ip: Callable[[int], None], report: Report) -> list[Row]:
    """Alternate rounds of the datapath and of ip(8). The first round of each does not count."""
    cpu, wall, reference = [], [], []
    for number in range(ROUNDS + 1):
        ours = _timed(wires, lambda index: _create(wires[index]))
        theirs = _timed(wires, by_ip)
        report(f"{kind} {number}/{ROUNDS}: {ours[1]:.2f} ms per link, ip -batch {theirs[1]:.2f} ms")
        if number:
            cpu.append(ours[0])
            wall.append(ours[1])
            reference.append(theirs[1])
    median_cpu, median, ip_median = map(statistics.median, (cpu, wall, reference))
    met = median_cpu <= 1.0 or median / ip_median < 0.3
    return [
        Row(f"datapath: {kind}, CPU of the process", median_cpu, "ms", "", TARGET, met),
        Row(
            f"datapath: {kind}, wall",
            median / ip_median,
            "ratio",
            f"{median:.2f} ms; ip -batch {ip_median:.2f} ms",
            TARGET,
            met,
        ),
        Row(f"datapath: {kind}s per second", 1e3 / median, "1/s", f"ip -batch {1e3 / ip_median:.0f}/s"),
    ]


def _timed(wires: Sequence[Wire], make: Callable[[int], None]) -> tuple[float, float]:
    """Create the links, and remove them. Returns this process's CPU and wall time of the creation, in ms per link."""
    cpu, wall = _cpu(), time.perf_counter()
    for index in range(len(wires)):
        make(index)
    spent = (_cpu() - cpu) * 1e3 / len(wires), (time.perf_counter() - wall) * 1e3 / len(wires)
    for wire in wires:
        _call(["ip", "-n", Path(wire.near.netns).name, "link", "del", wire.near.ifname])
        if isinstance(wire, VxlanWire):
            tunnel_guard.withdraw(wire.port, wire.vni)
    return spent


def _create(wire: Wire) -> None:
    if not ensure(wire):
        raise AssertionError(f"{wire} exists")


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _ip_veth(bed: Bed) -> Callable[[int], None]:
    """One `ip -batch` in each of the two namespaces, because ip(8) cannot change the namespace within a batch."""

    def make(number: int) -> None:
        near, far = bed.name(f"a-{number}"), bed.name(f"b-{number}")
        peer = f"peer name in2 mtu 1450 group 5 netns {far}"
        _batch(near, f"link add in1 mtu 1450 group 5 type veth {peer}", *_finish("in1", "192.168.2.1", "fd00::1"))
        _batch(far, *_finish("in2", "192.168.2.2", "fd00::2"))

    return make


def _ip_vxlan(bed: Bed) -> Callable[[int], None]:
    def make(number: int) -> None:
        pod = bed.name(f"a-{number}")
        tunnel = f"type vxlan id {1000 + number} remote {TWO} local {ONE} dev eth0 dstport 4789 nolearning"
        _batch(bed.name("node-1"), f"link add in1 mtu 1450 group 5 netns {pod} {tunnel}")
        _batch(pod, *_finish("in1", "192.168.2.1", "fd00::1"))

    return make


def _finish(ifname: str, address: str, address6: str) -> tuple[str, ...]:
    return (
        f"addr add {address}/24 brd + dev {ifname}",
        f"addr add {address6}/64 dev {ifname} nodad",
        f"link set {ifname} up",
    )


def _batch(netns: str, *lines: str) -> None:
    _call(["ip", "-n", netns, "-batch", "-"], "\n".join(lines) + "\n")


def _call(command: Sequence[str], stdin: str = "") -> None:
    subprocess.run(command, input=stdin, text=True, check=True, capture_output=True)


if __name__ == "__main__":
    print(table(measure()))
