"""`ratchet install`: install the plugin, once or until stopped."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ratchet.cli.manual import Manual
from ratchet.errors import RatchetError
from ratchet.install import plugin

MANUAL = Manual(
    description="""
        Install the CNI plugin on this node: the executable ratchet in --bin-dir and, with --conf-dir, the network
        configuration 00-ratchet.conflist. Files are replaced by a rename, so run it again to upgrade, also while pods
        start.

        Without --agent the executable does all the work itself. With --agent it is a small static program that passes
        each call to the node agent; ratchet-daemonless beside it serves the calls while the agent is down.
    """,
    examples=(
        (
            "Install the plugin for a node agent, chained after the node's network",
            "ratchet install --agent --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d",
        ),
        (
            "Install the plugin without an agent",
            "ratchet install --bin-dir /opt/cni/bin --kubeconfig /etc/cni/net.d/ratchet.d/kubeconfig",
        ),
    ),
    exit_status={
        0: "the files are installed",
        1: "a file cannot be written, the flags do not fit together, or the runtime would not call the plugin because "
        "the first network in --conf-dir is a meta plugin such as Multus",
    },
)


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_bin_dir(parser)
    parser.add_argument(
        "--conf-dir",
        type=Path,
        metavar="DIR",
        help="directory of the network configurations, such as /etc/cni/net.d; chain ratchet after the first one there",
    )
    parser.add_argument(
        "--network", type=Path, metavar="FILE", help="with --conf-dir: install this network configuration instead"
    )
    parser.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="kubeconfig of the plugin, unless its configuration names one"
    )
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="state directory of the plugin (default: /var/lib/cni/ratchet)"
    )
    _add_kinds(parser)
    _add_keep(parser)
    parser.set_defaults(run=_run)


def _add_kinds(parser: argparse.ArgumentParser) -> None:
    """The flags that say which plugin is installed."""
    parser.add_argument("--agent", action="store_true", help="pass each call to the node agent, which must be running")
    parser.add_argument(
        "--no-fallback",
        dest="fallback",
        action="store_false",
        help="with --agent: do not install ratchet-daemonless; ADD fails with code 11 while the agent is down",
    )
    parser.add_argument(
        "--relocatable",
        action="store_true",
        help="copy Python and its libraries too, so that the node needs neither",
    )


def _add_keep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep",
        metavar="NAMESPACE/DAEMONSET",
        help="keep everything installed until SIGTERM, then uninstall if the API server confirms that this DaemonSet "
        "is deleted; requires --agent --no-fallback, or --relocatable",
    )
    parser.add_argument(
        "--write-kubeconfig",
        type=Path,
        metavar="FILE",
        help="with --keep: write a kubeconfig for the plugin, with the service account of this pod",
    )


def add_bin_dir(parser: argparse.ArgumentParser) -> None:
    """Declare the flag --bin-dir."""
    parser.add_argument(
        "--bin-dir",
        type=Path,
        metavar="DIR",
        required=True,
        help="directory of the runtime's CNI plugins, such as /opt/cni/bin",
    )


def _run(arguments: argparse.Namespace) -> int:
    _refuse_incomplete(arguments)
    if arguments.keep:
        return _keep(arguments)
    written = plugin.install(
        arguments.bin_dir,
        arguments.conf_dir,
        arguments.kubeconfig,
        arguments.state_dir,
        agent=arguments.agent,
        fallback=arguments.fallback,
        relocatable=arguments.relocatable,
        network=arguments.network,
    )
    for path in written:
        print(f"installed {path}")
    if arguments.agent and plugin.find_shim() is None:
        print(
            f"ratchet: there is no shim for this machine ({os.uname().machine}): a Python program replaces it, which "
            "starts more slowly and does not keep a DEL while the agent is down\n"
            "         wheels contain the shim for x86_64 and aarch64; in a checkout, `make install` builds it with a C "
            "compiler",
            file=sys.stderr,
        )
    return 0


def _refuse_incomplete(arguments: argparse.Namespace) -> None:
    """Raise RatchetError if a flag requires another flag that is missing."""
    if not arguments.agent and not arguments.fallback:
        raise RatchetError("cannot install: --no-fallback requires --agent")
    if arguments.network and not arguments.conf_dir:
        raise RatchetError("cannot install: --network requires --conf-dir")
    if arguments.write_kubeconfig and not arguments.keep:
        raise RatchetError("cannot install: --write-kubeconfig requires --keep")
    with_agent_alone = arguments.agent and not arguments.fallback
    if arguments.keep and with_agent_alone is arguments.relocatable:
        raise RatchetError("cannot install: --keep requires either --agent --no-fallback or --relocatable")


def _keep(arguments: argparse.Namespace) -> int:
    from ratchet.cli.install_loop import keep_installed

    return keep_installed(
        arguments.bin_dir,
        arguments.conf_dir,
        arguments.network,
        arguments.keep,
        agent=arguments.agent,
        kubeconfig=arguments.write_kubeconfig,
    )
