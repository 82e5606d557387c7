"""The script of a forked agent: `ratchet agent` with these arguments, in a session of its own.

The kernel kills the agent when the server ends that forked it (prctl(2), PR_SET_PDEATHSIG), as with `setpriv`.
"""

from __future__ import annotations

import os
import signal
import sys

from ratchet.cli.main import main
from ratchet.datapath.netns import _libc

PR_SET_PDEATHSIG = 1

os.setsid()
if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
    raise OSError("cannot bind the agent to its parent")
os._exit(main(["agent", *sys.argv[1:]]))
