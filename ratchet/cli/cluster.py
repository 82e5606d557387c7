"""The cluster and the namespace of a command: from its flags, else as kubectl chooses them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ratchet.store.apiserver import SELECTION_SECONDS, connect
from ratchet.store.connection import namespace_of
from ratchet.store.store import ApiStore


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that `records_of` and `chosen_namespace` read."""
    parser.add_argument(
        "--kubeconfig",
        metavar="FILE",
        default=None,
        help="kubeconfig for the Kubernetes API (default: $KUBECONFIG, ~/.kube/config, or the pod's service account)",
    )
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig (default: the current context)")
    parser.add_argument(
        "--records-in", metavar="NAMESPACE", default="ratchet", help="namespace of the link records (default: ratchet)"
    )
    parser.add_argument(
        "--topologies",
        choices=("on", "off"),
        default="on",
        help="whether ConfigMaps declare links; use the value of the nodes (default: on)",
    )


def records_of(arguments: argparse.Namespace) -> ApiStore:
    """The records of the cluster that the flags name. Raises InvalidConfigError."""
    api = connect(_kubeconfig(arguments), context=arguments.context).with_timeout(SELECTION_SECONDS)
    return ApiStore(api, arguments.records_in, use_topologies=arguments.topologies == "on")


def chosen_namespace(arguments: argparse.Namespace) -> str:
    """The namespace of -n, else the context's namespace. Raises InvalidConfigError."""
    namespace: str | None = arguments.namespace
    return namespace or namespace_of(_kubeconfig(arguments), arguments.context)


def _kubeconfig(arguments: argparse.Namespace) -> str | None:
    """The kubeconfig that kubectl would use; None for the service account of the pod that runs this."""
    home = Path.home() / ".kube" / "config"
    return arguments.kubeconfig or os.environ.get("KUBECONFIG") or (str(home) if home.is_file() else None)
