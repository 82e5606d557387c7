"""The cost of the tunnel guard: for each tunnel that is created, and for each packet that a tunnel receives.

Rounds with and without the guard alternate. Run it as root: `python -m tests.bench.bench_guard`.
"""

from __future__ import annotations

import socket
import statistics
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from ratchet.core.interface import VxlanWire
from ratchet.core.sandbox import Location
from ratchet.core.tunnel_guard import GuardedTunnel
from ratchet.datapath import ensure, remove, tunnel_guard
from tests.bench.rows import Report, Row, table
from tests.support.namespaces import Bed
from tests.support.wires import Wires

ROUNDS, LINKS, BATCHES, PACKETS, OTHERS = 7, 25, 60, 300, 5000
ONE, TWO = "10.9.0.1", "10.9.0.2"
LINK_TARGET, PACKET_TARGET = 0.5, 1.15


def measure(report: Report = print) -> list[Row]:
    """Measure on a node whose table has OTHERS other tunnels. The figures are medians of the rounds."""
    with ExitStack() as stack:
        bed = stack.enter_context(Bed())
        bed.fabric(**{"node-1": f"{ONE}/24", "node-2": f"{TWO}/24"})
        bed.add(*(f"a-{number}" for number in range(LINKS)))
        others = [
            GuardedTunnel(4789, 10_000 + one, f"10.8.{one >> 8}.{one & 255}", f"1/{one}") for one in range(OTHERS)
        ]
        with bed.inside("node-1"):
            tunnel_guard.rebuild(lambda _: others)
            wires = [Wires(bed).tunnel(f"a-{number}", 0, ONE, TWO, vni=1000 + number) for number in range(LINKS)]
            links = _compare(report, "link", lambda guard: _made(wires, guard))
        packets = _compare(report, "packet", lambda guard: _sent(bed, replace(wires[0], guard=guard)))
    extra = links[0] - links[1]
    ratio = packets[0] / packets[1]
    return [
        Row(
            "guard: additional time per tunnel",
            extra,
            "ms",
            f"{links[0]:.2f} ms; without {links[1]:.2f}",
            f"<= {LINK_TARGET}",
            extra <= LINK_TARGET,
        ),
        Row("guard: time per tunnel, with relative to without", links[0] / links[1], "ratio", ""),
        Row(
            "guard: time per packet, with relative to without",
            ratio,
            "ratio",
            "",
            f"<= {PACKET_TARGET}",
            ratio <= PACKET_TARGET,
        ),
    ]


def _compare(report: Report, what: str, run: Callable[[bool], float]) -> tuple[float, float]:
    """The medians with the guard and without, in ms."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for number in range(ROUNDS + 1):
        for guard in (True, False) if number % 2 else (False, True):
            spent = run(guard)
            if number:
                found[guard].append(spent)
        report(f"{what} {number}/{ROUNDS}")
    return statistics.median(found[True]), statistics.median(found[False])


def _made(wires: list[VxlanWire], guard: bool) -> float:
    """Create the tunnels, and remove them. Returns ms per creation."""
    # This waits until the kernel has freed the elements that the last round removed.
    tunnel_guard.admit(GuardedTunnel(4789, 9999, TWO, "1/9999"), is_new=False)
    began = time.perf_counter()
    for wire in wires:
        ensure(replace(wire, guard=guard))
    spent = time.perf_counter() - began
    for wire in wires:
        remove(Location(wire.near.netns), wire.near.ifname)
    return spent * 1e3 / len(wires)


def _sent(bed: Bed, wire: VxlanWire) -> float:
    """Return the ms of CPU per datagram of the peer, in the faster batches, so that other load hardly counts.

    The sender's thread also does the receiver's work.
    """
    frame = b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + bytes(46)
    datagram = struct.pack(">II", 0x08000000, wire.vni << 8) + frame
    with bed.inside("node-1"):
        ensure(wire)
    with bed.inside("node-2"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((ONE, wire.port))
        batches = [_batch(sender, datagram) for _ in range(BATCHES)]
    with bed.inside("node-1"):
        remove(Location(wire.near.netns), wire.near.ifname)
    return statistics.quantiles(batches)[0]


def _batch(sender: socket.socket, datagram: bytes) -> float:
    began = time.thread_time()
    for _ in range(PACKETS):
        sender.send(datagram)
    return (time.thread_time() - began) * 1e3 / PACKETS


if __name__ == "__main__":
    print(table(measure()))
