"""`ratchet uninstall`: take away what install put there."""

from __future__ import annotations

import argparse
from pathlib import Path

from ratchet.install import uninstall


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bin-dir", type=Path, required=True, help="the runtime's plugin folder, as /opt/cni/bin")
    parser.add_argument("--conf-dir", type=Path, help="as /etc/cni/net.d: the network is then what it was")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    for path in uninstall(arguments.bin_dir, arguments.conf_dir):
        print(f"removed {path}")
    return 0
