"""What a link costs our own process, beside ip(8) doing the same job in the same minutes.

Run it by its path, as root: `python tests/bench/bench_datapath.py`. Everything happens in namespaces of its own.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet.core.interface import VxlanWire, Wire  # noqa: E402
from ratchet.datapath import ensure, tunnel_guard  # noqa: E402
from tests.bench.rows import Row, Say, table  # noqa: E402
from tests.support.namespaces import Bed  # noqa: E402
from tests.support.wires import Wires  # noqa: E402

ROUNDS = 5
LINKS = 25
ONE, TWO = "10.9.0.1", "10.9.0.2"
BAR = "<= 1 ms of CPU, or ratio < 0.3"


def measure(say: Say = print) -> list[Row]:
    """The datapath alone, as this process calls it: medians of the rounds, each of which makes LINKS links."""
    with ExitStack() as stack:
        bed = stack.enter_context(Bed())
        say(f"{2 * LINKS} namespaces for pods")
        bed.fabric(**{"node-1": f"{ONE}/24"})
        bed.add(*(f"{end}-{number}" for end in "ab" for number in range(LINKS)))
        stack.enter_context(bed.inside("node-1"))
        wires = Wires(bed)
        veths: list[Wire] = [wires.veth(f"a-{number}", f"b-{number}") for number in range(LINKS)]
        tunnels: list[Wire] = [
            wires.tunnel(f"a-{number}", 0, ONE, TWO, vni=1000 + number, mtu=1450) for number in range(LINKS)
        ]
        rows = [*_rows("vEth", veths, _ip_veth(bed), say), *_rows("VXLAN end", tunnels, _ip_vxlan(bed), say)]
        say("the namespaces go")
        return rows


def _rows(kind: str, wires: Sequence[Wire], theirs: Callable[[int], None], say: Say) -> list[Row]:
    """Ours and ip(8)'s turn and turn about, one round of each before anything counts."""
    cpu, wall, beside = [], [], []
    for number in range(ROUNDS + 1):
        mine = _timed(wires, lambda index: _made(wires[index]))
        his = _timed(wires, theirs)
        say(f"{kind} {number}/{ROUNDS}: {mine[1]:.2f} ms a link, ip -batch {his[1]:.2f} ms")
        if number:
            cpu.append(mine[0])
            wall.append(mine[1])
            beside.append(his[1])
    own, ours, ips = statistics.median(cpu), statistics.median(wall), statistics.median(beside)
    holds = own <= 1.0 or ours / ips < 0.3
    return [
        Row(f"datapath: {kind}, CPU of our process", own, "ms", "", BAR, holds),
        Row(f"datapath: {kind}, wall", ours / ips, "ratio", f"{ours:.2f} ms; ip -batch {ips:.2f} ms", BAR, holds),
        Row(f"datapath: {kind}s a second", 1e3 / ours, "1/s", f"ip -batch {1e3 / ips:.0f}/s"),
    ]


def _timed(wires: Sequence[Wire], make: Callable[[int], None]) -> tuple[float, float]:
    """CPU of this process and wall time, in ms a link; taking the links down again is not counted."""
    cpu, wall = _cpu(), time.perf_counter()
    for index in range(len(wires)):
        make(index)
    spent = (_cpu() - cpu) * 1e3 / len(wires), (time.perf_counter() - wall) * 1e3 / len(wires)
    for wire in wires:
        _call(["ip", "-n", Path(wire.near.netns).name, "link", "del", wire.near.ifname])
        if isinstance(wire, VxlanWire):
            tunnel_guard.withdraw(wire.port, wire.vni)
    return spent


def _made(wire: Wire) -> None:
    if not ensure(wire):
        raise AssertionError(f"{wire} stood already")


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _ip_veth(bed: Bed) -> Callable[[int], None]:
    """One `ip -batch` in each of the two namespaces, as ip(8) cannot change it within a batch."""

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
