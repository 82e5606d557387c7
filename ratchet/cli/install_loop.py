"""`ratchet install --keep`: keep the plugin installed until SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path

from ratchet.agent.frame import SOCKET
from ratchet.errors import RatchetError
from ratchet.install.deployment import PATIENCE_SECONDS, DeploymentWatch
from ratchet.install.kubeconfig import Kubeconfig, api_server_url
from ratchet.install.loop import InstallLoop
from ratchet.store.apiserver import connect


def keep_installed(
    bin_dir: Path,
    conf_dir: Path | None,
    network: Path | None,
    daemon_set: str,
    *,
    agent: bool,
    kubeconfig: Path | None,
) -> int:
    """Keep the plugin installed until SIGTERM, and return the exit status.

    `network`: a network configuration to install instead of a chained one. `daemon_set`: NAMESPACE/NAME. `agent`:
    install the shim for a node agent. `kubeconfig`: a kubeconfig to write for the plugin. Raises RatchetError if it
    cannot start.
    """
    if daemon_set.count("/") != 1:
        raise RatchetError(f"cannot keep the plugin for {daemon_set}: expected NAMESPACE/DAEMONSET")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    api = connect(os.environ.get("RATCHET_KUBECONFIG"), patience=PATIENCE_SECONDS)
    loop = InstallLoop(
        bin_dir,
        conf_dir,
        Path(os.environ.get("RATCHET_SOCKET", SOCKET)) if agent else None,
        network,
        Kubeconfig(kubeconfig, api_server_url(os.environ)) if kubeconfig else None,
    )
    deployment = DeploymentWatch(api, daemon_set)
    # A daemon thread: its watch stays open during the verdict, and must not keep the process from ending.
    threading.Thread(target=deployment.run, daemon=True).start()
    with closing(loop):
        loop.run(stopping)
        loop.uninstall_if_deleted(deployment)
    return 0
