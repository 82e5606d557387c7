"""`ratchet uninstall`: remove what `ratchet install` wrote."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ratchet.cli.install import add_bin_dir
from ratchet.cli.manual import Manual
from ratchet.datapath import tunnel_guard
from ratchet.datapath.guard_rules import TABLE
from ratchet.errors import GuardError, RatchetError
from ratchet.install import uninstall
from ratchet.install.files import exists
from ratchet.install.lock import FolderLock
from ratchet.install.loop import HOW_TO_REMOVE

MANUAL = Manual(
    description="""
        Remove the network configuration 00-ratchet.conflist first, then the plugin and its Python, then the guard of
        the tunnel port. The node uses its former network configuration again. Links of running pods stay, without the
        guard, until the pods end. Stop the agent first: it makes the guard again.
    """,
    examples=(("Uninstall from a node", "ratchet uninstall --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d"),),
    exit_status={
        0: "the files are removed, or were not there",
        1: "a file cannot be removed, or `ratchet install --keep` runs on this node",
    },
)


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_bin_dir(parser)
    parser.add_argument(
        "--conf-dir", type=Path, metavar="DIR", help="directory of the network configurations, such as /etc/cni/net.d"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    _refuse_if_kept(arguments.conf_dir)
    for path in uninstall(arguments.bin_dir, arguments.conf_dir):
        print(f"removed {path}")
    try:
        if tunnel_guard.remove_table():
            print(f"removed the nftables table inet {TABLE}")
    except GuardError as error:
        print(f"{error}\n{HOW_TO_REMOVE}", file=sys.stderr)
    return 0


def _refuse_if_kept(conf_dir: Path | None) -> None:
    """Raise RatchetError if `ratchet install --keep` is at work: it would install everything again."""
    if conf_dir is None or not exists(conf_dir):
        return
    lock = FolderLock(conf_dir)
    if not lock.try_acquire():
        raise RatchetError(
            f"cannot uninstall from {conf_dir}: an installer is at work and would install again",
            details="delete the DaemonSet ratchet-install first; it uninstalls the plugin itself (docs/install.md)",
        )
    lock.release()
