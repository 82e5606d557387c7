"""`ratchet agent`: the command line of the node agent."""

from __future__ import annotations

import argparse
import os

from ratchet.agent.settings import add_arguments, settings_of
from ratchet.cli.extras import optional_imports
from ratchet.cli.manual import Manual

MANUAL = Manual(
    description="""
        Run the node agent until SIGTERM. The agent serves the container runtime's CNI calls at a Unix socket. It
        completes links whose peer starts late, repairs links, renews the node Lease, and exports metrics.

        Each flag has an environment variable: --node-name is RATCHET_NODE_NAME. In the file of --config (YAML or
        JSON) the key is node_name. A flag overrides a variable, a variable overrides the file.

        The agent runs as root. It needs pip install 'ratchet-cni[agent]'.
    """,
    examples=(
        ("Read the settings from a file", "ratchet agent --config /etc/ratchet/agent.yaml"),
        ("Use VNIs that no other VXLAN of the cluster has", "ratchet agent --vni-range 100000-200000"),
    ),
    exit_status={
        0: "the agent stopped after SIGTERM or SIGINT",
        1: "the agent cannot start: a setting is invalid, or another agent serves the socket",
    },
)


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_arguments(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments, os.environ)
    with optional_imports("agent", "agent"):
        from ratchet.agent.agent import run
    return run(settings)
