"""`ratchet uninstall`: remove what `ratchet install` wrote."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ratchet.cli.install import add_bin_dir
from ratchet.cli.manual import Manual
from ratchet.cni.plugin_keys import DEFAULT_STATE_DIR
from ratchet.core.panel import PANEL_PATH
from ratchet.datapath import tunnel_guard
from ratchet.datapath.guard_rules import TABLE
from ratchet.datapath.panel.removal import cables_at, remove_panel
from ratchet.errors import GuardError, RatchetError
from ratchet.install import uninstall
from ratchet.install.files import exists
from ratchet.install.lock import FolderLock
from ratchet.install.loop import HOW_TO_REMOVE
from ratchet.node.journal import Journal

MANUAL = Manual(
    description="""
        Remove the network configuration 00-ratchet.conflist first, then the plugin and its Python, then the guard of
        the tunnel port. The node uses its former network configuration again. Links of running pods stay, without the
        guard, until the pods end. Stop the agent first: it makes the guard again.

        Nothing is removed while pods have links in panel wiring, because nothing would remove their tunnels later. With
        --force the patch panel is removed too: these pods lose the interfaces of these links.
    """,
    examples=(
        ("Uninstall from a node", "ratchet uninstall --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d"),
        ("Also if pods have links in panel wiring", "ratchet uninstall --bin-dir /opt/cni/bin --force"),
    ),
    exit_status={
        0: "the files are removed, or were not there",
        1: "a file cannot be removed, pods have links in panel wiring, or `ratchet install --keep` runs on this node",
    },
)


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_bin_dir(parser)
    parser.add_argument(
        "--conf-dir", type=Path, metavar="DIR", help="directory of the network configurations, such as /etc/cni/net.d"
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        default=DEFAULT_STATE_DIR,
        help="state directory of the plugin or the agent, which names the pods (default: %(default)s)",
    )
    parser.add_argument(
        "--panel", metavar="PATH", default=PANEL_PATH, help="path of the patch panel (default: %(default)s)"
    )
    parser.add_argument(
        "--force", action="store_true", help="remove the patch panel also if pods have links in it; they lose the links"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    _refuse_if_kept(arguments.conf_dir)
    if not arguments.force:
        _refuse_if_wired(arguments.panel, Journal(arguments.state_dir))
    for path in uninstall(arguments.bin_dir, arguments.conf_dir):
        print(f"removed {path}")
    if remove_panel(arguments.panel):
        print(f"removed the patch panel {arguments.panel}")
    try:
        if tunnel_guard.remove_table():
            print(f"removed the nftables table inet {TABLE}")
    except GuardError as error:
        print(f"{error}\n{HOW_TO_REMOVE}", file=sys.stderr)
    return 0


def _refuse_if_wired(panel: str, journal: Journal) -> None:
    """Raise RatchetError, which names the pods, if the patch panel has cables."""
    cables = cables_at(panel)
    if not cables:
        return
    pods = {entry.slot.group: str(entry.pod) for entry in journal.entries() if entry.slot and entry.pod}
    # A cable of an attachment without a readable entry is shown by its link's name.
    users = sorted({pods.get(cable.group, cable.alias or cable.ifname) for cable in cables})
    raise RatchetError(
        f"cannot uninstall: {len(cables)} interfaces of pods lead into the patch panel {panel}: {', '.join(users)}",
        details="delete these pods, or have them start again in direct wiring; --force removes their interfaces",
    )


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
