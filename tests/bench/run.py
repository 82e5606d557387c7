"""All benches, with a table for people, build/bench.json for comparisons, and the profile of what the agent does.

Exits with 0 wherever it could measure: a bar that does not hold is said, and is no failure of the bench.
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

REPOSITORY = Path(__file__).resolve().parents[2]
# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(REPOSITORY)]

from ratchet.dev.hosts import namespaces_under, remove_namespace  # noqa: E402
from ratchet.errors import RatchetError  # noqa: E402
from tests.bench import (  # noqa: E402
    bench_agent,
    bench_datapath,
    bench_fairness,
    bench_guard,
    bench_many,
    bench_memory,
    bench_plugin,
    bench_scale,
    bench_throughput,
    bench_topologies,
)
from tests.bench.rows import Row, table, to_json  # noqa: E402

JSON = REPOSITORY / "build" / "bench.json"
PROFILE = REPOSITORY / "build" / "bench-profile.txt"
# The second is what tests/support/namespaces.py has its names begin with.
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
        print(f"could not measure: {error}", file=sys.stderr)
        return 1
    JSON.parent.mkdir(exist_ok=True)
    JSON.write_text(to_json(rows))
    missed = sum(row.holds is False for row in rows)
    print(f"\n{table(rows)}\n\n{_machine()}; medians. Written to {JSON.relative_to(REPOSITORY)}.")
    print(f"{missed} of {sum(row.bar is not None for row in rows)} bars: does not hold" if missed else "All bars hold.")
    return 0


def _measured() -> list[Row]:
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"  {time.monotonic() - began:5.1f} s  {line}", flush=True)

    print("==> the plugin's calls, each a process, beside Debian's Go plugins", flush=True)
    rows = bench_plugin.measure(say, PREFIXES[0])
    print("==> calls that the node agent serves, beside the same Go plugins", flush=True)
    served, profile = bench_agent.measure(say, PREFIXES[0])
    profile.write(PROFILE)
    rows += served
    print("==> a pod with many links", flush=True)
    rows += bench_many.measure(say, PREFIXES[0])
    print("==> a link beside another namespace's pod with many links", flush=True)
    rows += bench_fairness.measure(say, PREFIXES[0])
    print("==> topologies of 10, 50 and 100 pods", flush=True)
    rows += bench_topologies.measure(say, PREFIXES[0])
    print("==> 1,000 links between two agents", flush=True)
    rows += bench_scale.measure(say, PREFIXES[0])
    rows += bench_memory.measure(say, PREFIXES[0])
    print("==> the datapath alone, beside ip -batch", flush=True)
    rows += bench_datapath.measure(say)
    rows += bench_guard.measure(say)
    print("==> TCP through links, beside links that were made by hand", flush=True)
    rows += bench_throughput.measure(say, PREFIXES[0])
    print(f"\n{profile.table()}\n\nAll of it is in {PROFILE.relative_to(REPOSITORY)}.")
    return rows


@contextmanager
def _nothing_left() -> Iterator[None]:
    """Remove, at the end, namespaces that an interrupt of their own removal may have left."""
    try:
        yield
    finally:
        _ignore_interrupts()
        for prefix in PREFIXES:
            for name in namespaces_under(prefix):
                remove_namespace(name)


def _stopped(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave by way of everything that cleans up, which no second interrupt may stop."""
    _ignore_interrupts()
    print("stopped; taking everything down", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def _ignore_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _machine() -> str:
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
