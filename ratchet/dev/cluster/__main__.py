"""The command `hack/cluster`: a real Kubernetes on this machine."""

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
    """Run the command and return its exit status."""
    arguments = _parser().parse_args()
    try:
        if os.geteuid() != 0:
            raise RatchetError("cannot manage a cluster: root is required")
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
    parser = argparse.ArgumentParser(
        prog="cluster", description="Run a real Kubernetes with two nodes on this machine."
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(os.environ.get("RATCHET_CLUSTER", FOLDER)),
        help=f"folder of the cluster (default: $RATCHET_CLUSTER, or {FOLDER})",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("build", help="build Kubernetes, the flannel plugin and an image of FRR, once")
    up = commands.add_parser("up", help="start the cluster; build Kubernetes first if missing")
    up.add_argument(
        "--nodes", type=int, default=len(NODES), help="number of nodes; 0 for the control plane alone (default: 2)"
    )
    commands.add_parser("down", help="stop the cluster and remove all its files")
    commands.add_parser("status", help="print the state of machines and daemons")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    pid = commands.add_parser("pid", help="print the first process of a machine, for `nsenter -t PID -a`")
    pid.add_argument("machine", choices=(*NODES, "control-plane"))
    load = commands.add_parser("load", help="import an image on every node")
    load.add_argument("image", type=Path, help="OCI archive, such as one of hack/image")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    cluster = Cluster(arguments.folder.absolute())
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"  {time.monotonic() - began:5.1f} s  {line}", flush=True)

    match arguments.command:
        case "build":
            report(
                f"built Kubernetes in {binaries.kubernetes(report)} and the flannel plugin {binaries.flannel(report)}"
            )
            report(f"built the image of FRR: {frr_image(report)}")
        case "up":
            cluster.up(arguments.nodes, report)
            report(f"up: export KUBECONFIG={cluster.kubeconfig}")
        case "down":
            cluster.down(report)
        case "status":
            print("\n".join(cluster.status()))
        case "kubeconfig":
            if not cluster.is_up:
                raise RatchetError(f"cannot print the kubeconfig: no cluster is up in {cluster.folder}")
            print(cluster.kubeconfig)
        case "pid":
            print(cluster.machine(arguments.machine).pid)
        case "load":
            cluster.load(arguments.image)


if __name__ == "__main__":
    sys.exit(main())
