"""`ratchet install --keep`: until SIGTERM, which is when a pod ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from ratchet.agent.frame import SOCKET
from ratchet.errors import RatchetError
from ratchet.install.kubeconfig import Kubeconfig, server_of
from ratchet.install.loop import Keeper
from ratchet.store.apiserver import connect

API_SECONDS = 5.0


def keep_installed(
    bin_dir: Path,
    conf_dir: Path | None,
    network: Path | None,
    daemon_set: str,
    *,
    agent: bool,
    kubeconfig: Path | None,
) -> int:
    """Keep the plugin installed until told to stop, with a kubeconfig if one is to be written; the exit status.

    Raises RatchetError where it cannot begin.
    """
    if daemon_set.count("/") != 1:
        raise RatchetError(f"cannot keep the plugin for {daemon_set}: expected NAMESPACE/DAEMONSET")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    api = connect(os.environ.get("RATCHET_KUBECONFIG"), patience=API_SECONDS)
    keeper = Keeper(
        bin_dir,
        conf_dir,
        Path(os.environ.get("RATCHET_SOCKET", SOCKET)) if agent else None,
        network,
        Kubeconfig(kubeconfig, server_of(os.environ)) if kubeconfig else None,
    )
    keeper.keep(stopping)
    keeper.leave(api, daemon_set)
    return 0
