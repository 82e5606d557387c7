"""The cluster and the namespace of a command: from its flags, else as kubectl chooses them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ratchet.cli.object_rules import namespace_problem
from ratchet.errors import InvalidConfigError, RatchetError
from ratchet.store.api_errors import ForbiddenError, NotFoundError
from ratchet.store.apiserver import SELECTION_SECONDS, connect
from ratchet.store.connection import namespace_of
from ratchet.store.paths import namespace_path
from ratchet.store.store import ApiStore

_ADVICE = "name a kubeconfig with --kubeconfig or in $KUBECONFIG, or copy it to ~/.kube/config"

Read = TypeVar("Read")


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
    api = _naming_flags(lambda: connect(_kubeconfig(arguments), context=arguments.context))
    api = api.with_timeout(SELECTION_SECONDS)
    return ApiStore(api, arguments.records_in, use_topologies=arguments.topologies == "on")


def chosen_namespace(arguments: argparse.Namespace) -> str:
    """The namespace of -n, else the context's namespace. Raises InvalidConfigError."""
    namespace: str | None = arguments.namespace
    return namespace or _naming_flags(lambda: namespace_of(_kubeconfig(arguments), arguments.context))


def require_namespace(store: ApiStore, namespace: str, action: str) -> None:
    """Raise RatchetError if the namespace does not exist. `action` is what cannot be done, such as "list links".

    Without the permission to get the namespace, it is taken to exist.
    """
    if problem := namespace_problem(namespace):
        raise RatchetError(f"cannot {action}: {problem}")
    try:
        store.api.get(namespace_path(namespace))
    except NotFoundError as cause:
        raise RatchetError(f"cannot {action}: namespace {namespace} does not exist") from cause
    except ForbiddenError:
        return


def _kubeconfig(arguments: argparse.Namespace) -> str | None:
    """The kubeconfig that kubectl would use; None for the service account of the pod that runs this.

    Raises InvalidConfigError if there is none, and this is no pod.
    """
    home = Path.home() / ".kube" / "config"
    found = arguments.kubeconfig or os.environ.get("KUBECONFIG") or (str(home) if home.is_file() else None)
    if found is None and "KUBERNETES_SERVICE_HOST" not in os.environ:
        raise InvalidConfigError(
            f"cannot find a cluster: $KUBECONFIG is not set, and there is no {home}", details=_ADVICE
        )
    return found


def _naming_flags(read: Callable[[], Read]) -> Read:
    """The result of `read`, whose errors advise a user of the command line."""
    try:
        return read()
    except InvalidConfigError as error:
        raise InvalidConfigError(str(error), details=error.details and _ADVICE) from error
