"""Run all benchmarks: print a table and the agent's profile, and write build/bench.json.

A missed target is reported, and the exit status is 0.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ratchet.dev.hosts import namespaces_under, remove_namespace
from ratchet.errors import RatchetError
from tests.bench import (
    bench_agent,
    bench_carrier,
    bench_datapath,
    bench_edits,
    bench_fairness,
    bench_guard,
    bench_many,
    bench_memory,
    bench_panel,
    bench_plugin,
    bench_scale,
    bench_throughput,
    bench_time_to_carrier,
    bench_topologies,
    bench_wirings,
)
from tests.bench.rows import Row, table, to_json

REPOSITORY = Path(__file__).resolve().parents[2]
JSON = REPOSITORY / "build" / "bench.json"
PROFILE = REPOSITORY / "build" / "bench-profile.txt"
# Prefixes of the names of namespaces. The second one is that of tests/support/namespaces.py.
PREFIXES = (f"bench{os.getpid():x}-", f"rt{os.getpid():x}n")


def main() -> int:
    for path in (JSON, PROFILE):
        path.unlink(missing_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopped)
    try:
        with _nothing_left():
            rows = _measured()
    except (RatchetError, AssertionError, OSError, subprocess.SubprocessError) as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 1
    JSON.parent.mkdir(exist_ok=True)
    JSON.write_text(to_json(rows))
    missed = sum(row.met is False for row in rows)
    print(f"\n{table(rows)}\n\n{_machine()}; medians; written to {JSON.relative_to(REPOSITORY)}.")
    print(f"targets: {missed} of {sum(row.target is not None for row in rows)} missed")
    return 0


def _measured() -> list[Row]:
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"  {time.monotonic() - began:5.1f} s  {line}", flush=True)

    print("==> Calls of the daemonless plugin, compared with Debian's Go plugins", flush=True)
    rows = bench_plugin.measure(report, PREFIXES[0])
    print("==> Calls that the node agent serves, compared with Debian's Go plugins", flush=True)
    served, profile = bench_agent.measure(report, PREFIXES[0])
    profile.write(PROFILE)
    rows += served
    print("==> A pod with many links", flush=True)
    rows += bench_many.measure(report, PREFIXES[0])
    print("==> A link while a pod of another namespace has many links", flush=True)
    rows += bench_fairness.measure(report, PREFIXES[0])
    print("==> Topologies of 10, 50 and 100 pods", flush=True)
    rows += bench_topologies.measure(report, PREFIXES[0])
    print("==> Thousands of links between two agents", flush=True)
    rows += bench_scale.measure(report, PREFIXES[0])
    rows += bench_memory.measure(report, PREFIXES[0])
    print("==> Panel wiring, compared with direct wiring", flush=True)
    rows += bench_wirings.measure(report, PREFIXES[0])
    rows += bench_time_to_carrier.measure(report, PREFIXES[0])
    print("==> Edits of a topology while its pods run", flush=True)
    rows += bench_edits.measure(report, PREFIXES[0])
    print("==> The datapath alone, compared with ip -batch", flush=True)
    rows += bench_datapath.measure(report)
    rows += bench_carrier.measure(report)
    rows += bench_guard.measure(report)
    rows += bench_panel.measure(report)
    print("==> Traffic through links, compared with links that were created by hand", flush=True)
    rows += bench_throughput.measure(report, PREFIXES[0])
    print(f"\n{profile.table()}\n\nThe whole profile is in {PROFILE.relative_to(REPOSITORY)}.")
    return rows


@contextmanager
def _nothing_left() -> Iterator[None]:
    """Remove the remaining namespaces at the end of the block. An interrupt may have left some."""
    try:
        yield
    finally:
        _ignore_interrupts()
        for prefix in PREFIXES:
            for name in namespaces_under(prefix):
                remove_namespace(name)


def _stopped(number: int, _frame: FrameType | None) -> NoReturn:
    """Exit through all cleanups. A second signal does not interrupt them."""
    _ignore_interrupts()
    print("interrupted: removing nodes and namespaces", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def _ignore_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _machine() -> str:
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
