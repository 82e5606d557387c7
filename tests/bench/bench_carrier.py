"""The time from `ip link set IFNAME down` at one end of a vEth to the loss of carrier at the other.

Run it as root: `python -m tests.bench.bench_carrier`. All interfaces are in namespaces of the benchmark.
"""

from __future__ import annotations

import socket
import statistics
import time
from dataclasses import replace

from ratchet.core.naming import reserved_ifindex
from ratchet.datapath import ensure
from ratchet.datapath.messages import ACT, IFF_UP, RTM_NEWLINK
from ratchet.datapath.netns import open_netns
from ratchet.datapath.nlattr import HEADER, IFINFOMSG, message
from ratchet.datapath.rtnetlink import Channel, split_messages
from tests.bench.rows import Report, Row, at_most, table
from tests.support.links import wanted
from tests.support.namespaces import Bed
from tests.support.wires import Wires

ROUNDS = 5
RTMGRP_LINK = 1
IFF_RUNNING = 0x40
# The kernel reports changes of carrier that are not urgent once per second (net/core/link_watch.c).
PAUSE = 1.1
SECONDS = 10.0
TARGET_MS = 20


def measure(report: Report = print) -> list[Row]:
    """Measure a link with the ifindexes that ADD reserves, and one whose ends have the same ifindex."""
    link = wanted()
    primary, pair = (reserved_ifindex(link, end, ()) for end in (link.primary, link.pair))
    ours = _median(primary, pair)
    report(f"loss of carrier: {ours:.2f} ms")
    same = _median(primary, primary)
    report(f"loss of carrier with equal ifindexes: {same:.2f} ms")
    name = "datapath: vEth, loss of carrier at the peer"
    return [at_most(name, ours, "ms", TARGET_MS, f"equal ifindexes {same:.0f} ms")]


def _median(near: int, far: int) -> float:
    """The median time in ms. `near` and `far` are the ifindexes of the two ends."""
    with Bed() as bed:
        bed.add("pod-a", "pod-b")
        plain = Wires(bed).veth()
        ensure(replace(plain, near=replace(plain.near, index=near), far=replace(plain.far, index=far)))
        with bed.inside("pod-b"):
            events = link_events()
        with events, open_netns(bed.path("pod-a")) as netns, Channel(netns) as pod:
            return statistics.median(shut_and_open(pod, near, events, far)[0] for _ in range(ROUNDS))


def shut_and_open(pod: Channel, near: int, events: socket.socket, far: int) -> tuple[float, float]:
    """Set the near end down, and up again. Returns the ms until the far end has lost its carrier, and has it again."""
    times = []
    for up in (False, True):
        time.sleep(PAUSE)
        begun = time.perf_counter()
        pod.do(_administrative(near, up=up))
        await_carrier(events, far, has=up)
        times.append((time.perf_counter() - begun) * 1e3)
    lost, gained = times
    return lost, gained


def _administrative(index: int, *, up: bool) -> bytearray:
    """As `ip link set IFNAME up` or `down`."""
    return message(RTM_NEWLINK, ACT, IFINFOMSG.pack(0, 0, 0, index, IFF_UP if up else 0, IFF_UP))


def link_events() -> socket.socket:
    """A socket with the events of all links in the calling thread's namespace. It times out after SECONDS."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    events.settimeout(SECONDS)
    events.bind((0, RTMGRP_LINK))
    return events


def await_carrier(events: socket.socket, index: int, *, has: bool) -> None:
    """Wait for the event that a link has gained or lost its carrier."""
    while True:
        for _, kind, _, raw in split_messages(events.recv(1 << 16)):
            _, _, _, changed, flags, _ = IFINFOMSG.unpack_from(raw, HEADER.size)
            if (kind, changed, bool(flags & IFF_RUNNING)) == (RTM_NEWLINK, index, has):
                return


if __name__ == "__main__":
    print(table(measure()))
