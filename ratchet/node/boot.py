"""The current boot of the node: its ID and the time since it began."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

_SINCE_BOOT = time.CLOCK_BOOTTIME


def since_boot() -> float:
    """Seconds since boot, suspended time included (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime(_SINCE_BOOT)


@cache
def boot_id() -> str:
    """The kernel's ID of this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
