"""`ratchet demo`: pods, nodes and links on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ratchet.cli.extras import optional_imports
from ratchet.cli.manual import Manual

MANUAL = Manual(
    description="""
        Run a demo on this machine. Network namespaces are the nodes and the pods, and an embedded API server is the
        Kubernetes API. The demo shows the states of each link and pings over it, then removes everything. It needs
        pip install 'ratchet-cni[demo]', and root or user namespaces.

        pair links two pods on two nodes, without agents. late-peer runs an agent on each node; the peer starts late, is
        killed, and starts again on the other node. cloud-router links four pods in a chain and routes over them.
    """,
    examples=(
        ("Link two pods", "ratchet demo"),
        ("Keep the routers running, to look around", "ratchet demo cloud-router --keep"),
        ("Remove what --keep left", "ratchet demo --down"),
    ),
    exit_status={0: "the demo succeeded", 1: "a step failed, or a requirement is missing"},
)


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    parser.add_argument(
        "scenario",
        nargs="?",
        choices=("pair", "late-peer", "cloud-router"),
        default="pair",
        help="demo to run (default: pair)",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--keep", action="store_true", help="leave everything up and print how to look around")
    choice.add_argument("--down", action="store_true", help="remove what --keep left; not with --keep")
    parser.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="use this API server (default: the embedded API server)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    with optional_imports("demo", "demo"):
        from ratchet.dev import demo
    if arguments.down:
        return demo.take_down()
    return demo.run(arguments.scenario, kubeconfig=arguments.kubeconfig, keep=arguments.keep)
