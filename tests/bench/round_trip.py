"""The round trip between two namespaces, measured with ping(8)."""

from __future__ import annotations

import re
import statistics
import subprocess

from ratchet.dev.hosts import command_in
from ratchet.errors import RatchetError

PINGS = 2000
_TIME = re.compile(r" time=([\d.]+) ms$", re.MULTILINE)


def round_trip(near: str, address: str) -> float:
    """The mean time in µs until `address` answers the namespace `near`. Each ping follows an answer.

    ping(8) counts whole µs, so the mean is that of all its lines. Raises RatchetError.
    """
    program = ["ping", "-n", "-i", "0", "-c", str(PINGS), address]
    done = subprocess.run(command_in(near, *program), check=False, capture_output=True, text=True, timeout=30.0)
    times = [float(one) * 1e3 for one in _TIME.findall(done.stdout)]
    if done.returncode != 0 or not times:
        raise RatchetError(f"cannot ping {address}: {done.stdout[-500:]} {done.stderr[-500:]}")
    return statistics.mean(times)
