"""`hack/cluster`: a real Kubernetes on this machine, up and down."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from ratchet.dev.cluster import binaries
from ratchet.dev.cluster.cluster import FOLDER, NODES, Cluster
from ratchet.dev.cluster.frr import frr_image
from ratchet.errors import RatchetError


def main() -> int:
    """Run the command; its exit status."""
    arguments = _parser().parse_args()
    try:
        if os.geteuid() != 0:
            raise RatchetError("cannot do anything about a cluster: it takes root")
        _run(arguments)
    except RatchetError as error:
        print(f"cluster: {error}", file=sys.stderr)
        if error.details:
            print(f"         {error.details}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cluster", description="A real Kubernetes on this machine, with two nodes.")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(os.environ.get("RATCHET_CLUSTER", FOLDER)),
        help=f"where it is ($RATCHET_CLUSTER, {FOLDER})",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "build", help="build what no package brings: Kubernetes, flannel's plugin, an image of FRR; once"
    )
    up = commands.add_parser("up", help="start it; Kubernetes is built first, once")
    up.add_argument("--nodes", type=int, default=len(NODES), help="0 for the control plane alone (2)")
    commands.add_parser("down", help="end it, and leave nothing")
    commands.add_parser("status", help="what there is of it")
    commands.add_parser("kubeconfig", help="the path of the administrator's kubeconfig")
    pid = commands.add_parser("pid", help="the first process of a machine, as `nsenter -t PID -a` takes it")
    pid.add_argument("machine", choices=(*NODES, "control-plane"))
    load = commands.add_parser("load", help="have every node know an image")
    load.add_argument("image", type=Path, help="an OCI archive, as hack/image makes it")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    cluster = Cluster(arguments.folder.absolute())
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"  {time.monotonic() - began:5.1f} s  {line}", flush=True)

    match arguments.command:
        case "build":
            say(f"Kubernetes is in {binaries.kubernetes(say)}, flannel's plugin {binaries.flannel(say)}")
            say(f"the image of FRR is {frr_image(say)}")
        case "up":
            cluster.up(arguments.nodes, say)
            say(f"up: export KUBECONFIG={cluster.kubeconfig}")
        case "down":
            cluster.down(say)
        case "status":
            print("\n".join(cluster.status()))
        case "kubeconfig":
            if not cluster.is_up:
                raise RatchetError(f"cannot name a kubeconfig: there is no cluster in {cluster.folder}")
            print(cluster.kubeconfig)
        case "pid":
            print(cluster.machine(arguments.machine).pid)
        case "load":
            cluster.load(arguments.image)


if __name__ == "__main__":
    sys.exit(main())
