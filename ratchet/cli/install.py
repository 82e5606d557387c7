"""`ratchet install`: put the plugin in place, once or for as long as it is wanted."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.install import executables


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bin-dir", type=Path, required=True, help="the runtime's plugin folder, as /opt/cni/bin")
    parser.add_argument("--conf-dir", type=Path, help="as /etc/cni/net.d: stand behind the network configured there")
    parser.add_argument("--network", type=Path, help="with --conf-dir: the configuration to put there instead")
    parser.add_argument("--kubeconfig", type=Path, help="what the plugin reaches the API with")
    parser.add_argument("--state-dir", type=Path, help="where the plugin keeps its state (/var/lib/cni/ratchet)")
    parser.add_argument("--agent", action="store_true", help="hand each call to the node agent, which runs already")
    parser.add_argument(
        "--no-fallback", dest="fallback", action="store_false", help="with --agent: never do without the agent"
    )
    parser.add_argument(
        "--relocatable", action="store_true", help="bring Python along: the plugin needs nothing of the node's"
    )
    parser.add_argument(
        "--keep",
        metavar="NAMESPACE/DAEMONSET",
        help="see to it that all stays in place, until stopped; then remove it if that DaemonSet is gone "
        "(with --agent --no-fallback, or with --relocatable)",
    )
    parser.add_argument(
        "--write-kubeconfig", type=Path, metavar="FILE", help="with --keep: for the plugin, with this pod's account"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    _refuse_incomplete(arguments)
    if arguments.keep:
        return _keep(arguments)
    written = executables.install(
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
    if arguments.agent and executables.find_shim() is None:
        print(
            f"there is no shim for this machine ({os.uname().machine}): a Python program stands in for it, which takes "
            "longer to start and keeps no DEL that no agent takes;\n"
            "wheels have the shim for x86_64 and aarch64, in a checkout `make install` builds it, with a C compiler",
            file=sys.stderr,
        )
    return 0


def _refuse_incomplete(arguments: argparse.Namespace) -> None:
    """Raise RatchetError where an option is said of another one that is missing."""
    if not arguments.agent and not arguments.fallback:
        raise RatchetError("cannot install: --no-fallback is said of --agent, which is missing")
    if arguments.network and not arguments.conf_dir:
        raise RatchetError("cannot install: --network is said of --conf-dir, which is missing")
    if arguments.write_kubeconfig and not arguments.keep:
        raise RatchetError("cannot install: --write-kubeconfig is said of --keep, which is missing")
    with_agent_alone = arguments.agent and not arguments.fallback
    if arguments.keep and with_agent_alone is arguments.relocatable:
        raise RatchetError("cannot install: --keep is said of --agent --no-fallback, or else of --relocatable")


def _keep(arguments: argparse.Namespace) -> int:
    from ratchet.cli.keep import keep_installed

    return keep_installed(
        arguments.bin_dir,
        arguments.conf_dir,
        arguments.network,
        arguments.keep,
        agent=arguments.agent,
        kubeconfig=arguments.write_kubeconfig,
    )
