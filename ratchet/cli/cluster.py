"""Which cluster and which namespace a command means: by options, and where none is given as kubectl has it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ratchet.store.apiserver import connect, namespace_of
from ratchet.store.records import Records


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options that `records_of` and `namespace_meant` read."""
    parser.add_argument("--kubeconfig", default=None, help="how to reach the API ($KUBECONFIG, ~/.kube/config)")
    parser.add_argument("--context", help="the kubeconfig's context to use (its current one)")
    parser.add_argument(
        "--records-in", metavar="NAMESPACE", default="ratchet", help="where the links are recorded (ratchet)"
    )
    parser.add_argument(
        "--topologies",
        choices=("on", "off"),
        default="on",
        help="whether ConfigMaps declare links, as on the nodes (on)",
    )


def records_of(arguments: argparse.Namespace) -> Records:
    """The records of the cluster that is meant. Raises InvalidConfigError."""
    api = connect(_kubeconfig(arguments), context=arguments.context)
    return Records(api, arguments.records_in, use_topologies=arguments.topologies == "on")


def namespace_meant(arguments: argparse.Namespace) -> str:
    """The one that `-n` names, or else the context's. Raises InvalidConfigError."""
    namespace: str | None = arguments.namespace
    return namespace or namespace_of(_kubeconfig(arguments), arguments.context)


def _kubeconfig(arguments: argparse.Namespace) -> str | None:
    """Where kubectl would look; None for the account of the pod that this is in."""
    home = Path.home() / ".kube" / "config"
    return arguments.kubeconfig or os.environ.get("KUBECONFIG") or (str(home) if home.is_file() else None)
