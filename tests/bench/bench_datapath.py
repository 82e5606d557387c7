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
from typing import Any

# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet.core.device import Wire  # noqa: E402
from ratchet.datapath import ensure  # noqa: E402
from tests.support.namespaces import Bed  # noqa: E402
from tests.support.wires import Wires  # noqa: E402

ROUNDS = 5
LINKS = 40
ONE, TWO = "10.9.0.1", "10.9.0.2"


def measure() -> list[dict[str, Any]]:
    """Rows of name, value, unit, bar, holds, against: milliseconds for one link, the median of the rounds."""
    with ExitStack() as stack:
        bed = stack.enter_context(Bed())
        bed.fabric(**{"node-1": f"{ONE}/24"})
        bed.add(*(f"{end}-{number}" for end in "ab" for number in range(LINKS)))
        stack.enter_context(bed.inside("node-1"))
        wires = Wires(bed)
        veths: list[Wire] = [wires.veth(f"a-{number}", f"b-{number}") for number in range(LINKS)]
        tunnels: list[Wire] = [
            wires.tunnel(f"a-{number}", 0, ONE, TWO, vni=1000 + number, mtu=1450) for number in range(LINKS)
        ]
        return [*_rows("vEth", veths, _ip_veth(bed)), *_rows("VXLAN", tunnels, _ip_vxlan(bed))]


def _rows(kind: str, wires: Sequence[Wire], theirs: Callable[[int], None]) -> list[dict[str, Any]]:
    """Ours and ip(8)'s turn and turn about, one round of each before anything counts."""
    cpu, wall, beside = [], [], []
    for number in range(ROUNDS + 1):
        mine = _timed(wires, lambda index: _made(wires[index]))
        his = _timed(wires, theirs)
        if number:
            cpu.append(mine[0])
            wall.append(mine[1])
            beside.append(his[1])
    own, ratio = statistics.median(cpu), statistics.median(wall) / statistics.median(beside)
    holds = own <= 1.0 or ratio < 0.3
    bar = "<= 1 ms of our own process, or ratio < 0.3"
    ip_ms = f"ip -batch, {statistics.median(beside):.2f} ms"
    return [
        {"name": f"{kind}: own CPU a link", "value": own, "unit": "ms", "bar": bar, "holds": holds, "against": ""},
        {"name": f"{kind}: wall a link", "value": statistics.median(wall), "unit": "ms", "bar": "", "holds": None}
        | {"against": ip_ms},
        {"name": f"{kind}: wall to ip -batch", "value": ratio, "unit": "ratio", "bar": bar, "holds": holds}
        | {"against": ip_ms},
    ]


def _timed(wires: Sequence[Wire], make: Callable[[int], None]) -> tuple[float, float]:
    """CPU of this process and wall time, in ms a link; taking the links down again is not counted."""
    cpu, wall = _cpu(), time.perf_counter()
    for index in range(len(wires)):
        make(index)
    spent = (_cpu() - cpu) * 1e3 / len(wires), (time.perf_counter() - wall) * 1e3 / len(wires)
    for wire in wires:
        _call(["ip", "-n", Path(wire.near.netns).name, "link", "del", wire.near.ifname])
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


def main() -> int:
    rows = measure()
    print(f"{'':32} {'value':>8} {'unit':6} {'holds':6} bar; against")
    for row in rows:
        verdict = {None: "", True: "yes", False: "NO"}[row["holds"]]
        print(
            f"{row['name']:32} {row['value']:8.3f} {row['unit']:6} {verdict:6} {row['bar']} {row['against']}".rstrip()
        )
    return 0 if all(row["holds"] in (None, True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
