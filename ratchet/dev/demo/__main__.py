"""The process that keeps a demo up: `python -m ratchet.dev.demo FD SCENARIO [--kubeconfig FILE]`."""

from __future__ import annotations

import sys
from pathlib import Path

from ratchet.dev.demo.runner import SCENARIOS, run_and_stay
from ratchet.errors import RatchetError

if __name__ == "__main__":
    kubeconfig = Path(sys.argv[sys.argv.index("--kubeconfig") + 1]) if "--kubeconfig" in sys.argv else None
    try:
        sys.exit(run_and_stay(int(sys.argv[1]), SCENARIOS[sys.argv[2]], kubeconfig))
    except RatchetError as error:
        sys.exit(f"ratchet: {error}\n         {error.details}")
