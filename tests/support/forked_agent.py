"""The script of a forked agent: `ratchet agent` in a session of its own.

The first argument is a JSON array with the numbers of the only capabilities that it keeps, or null for all. The others
are the command's. The kernel kills the agent when the server ends that forked it (prctl(2), PR_SET_PDEATHSIG), as with
`setpriv`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Collection
from pathlib import Path

from ratchet.cli.main import main
from ratchet.datapath.netns import _libc

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
LAST = Path("/proc/sys/kernel/cap_last_cap")


def keep_capabilities(kept: Collection[int]) -> None:
    """Give up all capabilities but these, also for programs that this process starts."""
    for number in set(range(int(LAST.read_text()) + 1)) - {*kept}:
        check(_libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0))
    check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    mask = sum(1 << number for number in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    check(_libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)))  # effective, permitted, inheritable


def check(status: int) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), "cannot prepare the process of an agent")


capabilities, *arguments = sys.argv[1:]
os.setsid()
if (numbers := json.loads(capabilities)) is not None:
    keep_capabilities(numbers)
check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
os._exit(main(["agent", *arguments]))
