"""A link through the patch panel of one node, compared with a vEth.

Run it as root: `python -m tests.bench.bench_panel`. All interfaces are in namespaces of the benchmark.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from ratchet.core.sandbox import Location
from ratchet.datapath import ensure, remove
from ratchet.datapath.panel.attachments import remove_group
from ratchet.datapath.panel.namespace import Panel
from ratchet.dev.testbed import wait_for
from tests.bench.beside import Traffic
from tests.bench.iperf import IPERF3
from tests.bench.rows import Report, Row, at_most, table
from tests.support.namespaces import Bed
from tests.support.panels import Panels, connect, group_of
from tests.support.wires import Wires

LINKS, ROUNDS = 25, 5
STREAM_ROUNDS = 7
COST_TARGET, STREAM_TARGET = 2.2, 0.90
MTU = 1400
BY_HAND = ("10.8.0.1", "10.8.0.2")
PATCH = "panel: a patch"


def measure(report: Report = print) -> list[Row]:
    """Measure the cost of a patched link, its throughput and its round trip."""
    with Bed() as bed, tempfile.TemporaryDirectory() as lock, Panels(bed, lock) as panels:
        bed.add("pod-a", "pod-b", *(f"{end}-{number}" for end in "ab" for number in range(LINKS)))
        panel = panels.make()
        return [*_cost(bed, panels, panel, report), *_traffic(bed, panels, panel, report)]


def _cost(bed: Bed, panels: Panels, panel: Panel, report: Report) -> list[Row]:
    """The time to make a link, and to remove a pod's end: two cables, patched and raised; a vEth with the addresses."""
    wires = Wires(bed)

    def patched(number: int) -> None:
        near = panels.cable(panel, f"a-{number}", "a", link=f"link-{number}", mtu=MTU)
        far = panels.cable(panel, f"b-{number}", "b", link=f"link-{number}", mtu=MTU)
        connect(panel, near, far.index)
        connect(panel, far, near.index)

    def direct(number: int) -> None:
        wire = wires.veth(f"a-{number}", f"b-{number}", MTU)
        ensure(replace(wire, near=replace(wire.near, index=1_000_000), far=replace(wire.far, index=1_000_001)))

    def unplug(number: int, end: str = "a") -> None:
        remove_group(panel, group_of(f"{end}-{number}"))

    def remove_veth(number: int) -> None:
        remove(Location(bed.path(f"a-{number}")), "in1")

    found: dict[str, list[Spent]] = {"panel": [], "vEth": []}
    for number in range(ROUNDS + 1):
        found["panel"].append(_timed(patched, unplug))
        for index in range(LINKS):
            unplug(index, "b")
        found["vEth"].append(_timed(direct, remove_veth))
        last = ", ".join(f"{name} {each[-1].made:.2f} ms" for name, each in found.items())
        report(f"a link through the panel, and a vEth {number}/{ROUNDS}: {last}")
    made, removed = (
        {name: statistics.median(one[part] for one in each[1:]) for name, each in found.items()} for part in (0, 1)
    )
    return [
        at_most("panel: two cables and their patch", made["panel"] / made["vEth"], "ratio", COST_TARGET, _texts(made)),
        Row("panel: removal of a pod's end", removed["panel"] / removed["vEth"], "ratio", _texts(removed)),
    ]


class Spent(NamedTuple):
    """The ms to make a link, and to remove the end of one of its pods."""

    made: float
    removed: float


def _texts(ms: Mapping[str, float]) -> str:
    return f"{ms['panel']:.2f} ms; vEth {ms['vEth']:.2f} ms"


def _timed(make: Callable[[int], None], remove: Callable[[int], None]) -> Spent:
    """Make LINKS links, and remove the end of one of their pods."""
    times = [time.perf_counter()]
    for act in (make, remove):
        for number in range(LINKS):
            act(number)
        times.append(time.perf_counter())
    began, made, ended = times
    return Spent((made - began) * 1e3 / LINKS, (ended - made) * 1e3 / LINKS)


def _traffic(bed: Bed, panels: Panels, panel: Panel, report: Report) -> list[Row]:
    """One TCP stream and round trips through a patch, compared with a vEth."""
    if shutil.which(IPERF3) is None:
        return [Row(f"{PATCH}: one TCP stream", None, "ratio", f"{IPERF3} is not installed")]
    near, far = panels.cable(panel, "pod-a", "a", mtu=MTU), panels.cable(panel, "pod-b", "b", mtu=MTU)
    connect(panel, near, far.index)
    connect(panel, far, near.index)
    bed.ip("pod-a", *f"link add hand mtu {MTU} type veth peer name hand mtu {MTU} netns {bed.name('pod-b')}".split())
    for pod, address in zip(("pod-a", "pod-b"), BY_HAND, strict=True):
        bed.ip(pod, "addr", "add", f"{address}/24", "dev", "hand")
        bed.ip(pod, "link", "set", "hand", "up")
    ours, by_hand = Wires.ADDRESSES[1][0].partition("/")[0], BY_HAND[1]
    for address in (ours, by_hand):
        wait_for("a ping", partial(bed.pings, "pod-a", address))
    near_netns, far_netns = (bed.name(pod) for pod in ("pod-a", "pod-b"))
    return Traffic(near_netns, far_netns, ours, by_hand, "vEth").rows(PATCH, STREAM_ROUNDS, STREAM_TARGET, report)


if __name__ == "__main__":
    print(table(measure()))
