"""The start time of this process."""

from __future__ import annotations

import os
from pathlib import Path

_CLOCK_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def process_began() -> float:
    """The start time of this process in seconds since boot (proc_pid_stat(5), field 22).

    It is never later than the real start.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) * _CLOCK_TICK_SECONDS - _CLOCK_TICK_SECONDS
