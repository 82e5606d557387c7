"""A link through the patch panel of one node, compared with a vEth.

Run it as root: `python -m tests.bench.bench_panel`. All interfaces are in namespaces of the benchmark.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ratchet.datapath import ensure
from ratchet.datapath.panel.attachments import remove_group
from ratchet.datapath.panel.namespace import Panel
from ratchet.dev.testbed import wait_for
from tests.bench.iperf import IPERF3, sent
from tests.bench.rows import Report, Row, at_least, at_most, table
from tests.support.namespaces import Bed
from tests.support.panels import Panels, connect, group_of
from tests.support.wires import Wires

LINKS, ROUNDS = 25, 5
STREAM_ROUNDS = 7
COST_TARGET, STREAM_TARGET = 2.2, 0.90
MTU = 1400
BY_HAND = ("10.8.0.1", "10.8.0.2")
STREAM = "panel: one TCP stream through a patch"


def measure(report: Report = print) -> list[Row]:
    """Measure the cost of a patched link, and its throughput."""
    with Bed() as bed, tempfile.TemporaryDirectory() as lock, Panels(bed, lock) as panels:
        bed.add("pod-a", "pod-b", *(f"{end}-{number}" for end in "ab" for number in range(LINKS)))
        panel = panels.make()
        return [_cost(bed, panels, panel, report), _stream(bed, panels, panel, report)]


def _cost(bed: Bed, panels: Panels, panel: Panel, report: Report) -> Row:
    """The time to make a link: two cables, patched and raised; and a vEth with the same addresses."""
    wires = Wires(bed)

    def patched(number: int) -> None:
        near = panels.cable(panel, f"a-{number}", "a", link=f"link-{number}", mtu=MTU)
        far = panels.cable(panel, f"b-{number}", "b", link=f"link-{number}", mtu=MTU)
        connect(panel, near, far.index)
        connect(panel, far, near.index)

    def direct(number: int) -> None:
        wire = wires.veth(f"a-{number}", f"b-{number}", MTU)
        ensure(replace(wire, near=replace(wire.near, index=1_000_000), far=replace(wire.far, index=1_000_001)))

    def remove(number: int) -> None:
        remove_group(panel, group_of(f"a-{number}"))
        remove_group(panel, group_of(f"b-{number}"))

    def remove_veth(number: int) -> None:
        bed.ip(f"a-{number}", "link", "del", "in1")

    found: dict[str, list[float]] = {"panel": [], "vEth": []}
    for number in range(ROUNDS + 1):
        found["panel"].append(_timed(patched, remove))
        found["vEth"].append(_timed(direct, remove_veth))
        last = f"{found['panel'][-1]:.2f} ms, vEth {found['vEth'][-1]:.2f} ms"
        report(f"a link through the panel {number}/{ROUNDS}: {last}")
    panel_ms, veth_ms = (statistics.median(each[1:]) for each in (found["panel"], found["vEth"]))
    return at_most(
        "panel: two cables and their patch",
        panel_ms / veth_ms,
        "ratio",
        COST_TARGET,
        f"{panel_ms:.2f} ms; vEth {veth_ms:.2f} ms",
    )


def _timed(make: Callable[[int], None], remove: Callable[[int], None]) -> float:
    """Make LINKS links, and remove them. Returns the ms of a link's creation."""
    began = time.perf_counter()
    for number in range(LINKS):
        make(number)
    spent = (time.perf_counter() - began) * 1e3 / LINKS
    for number in range(LINKS):
        remove(number)
    return spent


def _stream(bed: Bed, panels: Panels, panel: Panel, report: Report) -> Row:
    if shutil.which(IPERF3) is None:
        return Row(STREAM, None, "ratio", f"{IPERF3} is not installed")
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
    found: dict[str, list[float]] = {ours: [], by_hand: []}
    for number in range(STREAM_ROUNDS + 1):
        for address in (ours, by_hand) if number % 2 else (by_hand, ours):
            found[address].append(sent(bed.name("pod-a"), bed.name("pod-b"), address))
        last = f"{found[ours][-1]:.1f} Gbit/s, vEth {found[by_hand][-1]:.1f}"
        report(f"one TCP stream through a patch {number}/{STREAM_ROUNDS}: {last}")
    patch, veth = (statistics.median(found[address][1:]) for address in (ours, by_hand))
    spread = f"{min(found[ours][1:]):.1f} to {max(found[ours][1:]):.1f}"
    return at_least(STREAM, patch / veth, "ratio", STREAM_TARGET, f"{patch:.1f} Gbit/s ({spread}); vEth {veth:.1f}")


if __name__ == "__main__":
    print(table(measure()))
