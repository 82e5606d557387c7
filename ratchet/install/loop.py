"""Keep the plugin installed while its DaemonSet is deployed: `ratchet install --keep`.

The node's network add-on may overwrite the network configuration at any time. The loop writes it again. At the end of
the pod the node stays as it is, unless the DaemonSet is deleted: then the loop uninstalls the plugin.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from ratchet.datapath import tunnel_guard
from ratchet.datapath.guard_rules import TABLE
from ratchet.errors import GuardError, RatchetError
from ratchet.install.conflist import configure
from ratchet.install.files import remove
from ratchet.install.kubeconfig import Kubeconfig
from ratchet.install.plugin import LAUNCHER, install, uninstall
from ratchet.store.api_errors import ForbiddenError, NotFoundError, UnauthorizedError
from ratchet.store.apiserver import ApiServer

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 2.0

HOW_TO_REMOVE = f"If the node has the guard of the tunnel port, remove it with: nft delete table inet {TABLE}"


@dataclass(frozen=True, slots=True)
class InstallLoop:
    """Keeps the files of a node as they must be.

    `conf_dir`: None to leave the network configuration alone. `socket`: the agent's socket; the network is
    configured once it exists. None without an agent: then a bundle of Python is installed. `network`: a file with the
    network configuration; None to chain Ratchet after the node's network. `kubeconfig`: written for the plugin before
    the network configuration.
    """

    bin_dir: Path
    conf_dir: Path | None
    socket: Path | None
    network: Path | None = None
    kubeconfig: Kubeconfig | None = None

    def run(self, stopping: threading.Event) -> None:
        """Reconcile every INTERVAL_SECONDS until `stopping` is set. An error is logged once and retried."""
        logged = ""
        while True:
            try:
                self.reconcile()
                logged = ""
            except RatchetError as error:
                if str(error) != logged:
                    log.warning("%s", error)
                logged = str(error)
            if stopping.wait(INTERVAL_SECONDS):
                return

    def reconcile(self) -> None:
        """Write the files that are missing or differ, the network configuration last. Raises RatchetError."""
        agent = self.socket is not None
        if not (self.bin_dir / LAUNCHER).exists():
            install(self.bin_dir, agent=agent, fallback=False, relocatable=not agent)
            log.info("plugin installed bin_dir=%s", self.bin_dir)
        if self.kubeconfig is not None and self.kubeconfig.write():
            log.info("kubeconfig written path=%s", self.kubeconfig.path)
        can_serve = self.socket is None or self.socket.exists()
        if self.conf_dir is not None and can_serve and configure(self.conf_dir, self.network):
            log.info("network configured conf_dir=%s", self.conf_dir)

    def uninstall_if_deleted(self, api: ApiServer, daemon_set: str) -> None:
        """Uninstall if the DaemonSet (`namespace/name`) is deleted or being deleted. Raises RatchetError."""
        if is_deleted(api, daemon_set):
            for path in self.uninstall():
                log.info("file removed path=%s", path)
        else:
            log.info("plugin kept daemonset=%s", daemon_set)

    def uninstall(self) -> list[Path]:
        """Remove all files that were installed, and return their paths. Raises RatchetError."""
        removed = uninstall(self.bin_dir, self.conf_dir)
        if self.kubeconfig is not None and self.kubeconfig.path.exists():
            remove(self.kubeconfig.path)
            removed.append(self.kubeconfig.path)
        _remove_guard()
        return removed


def _remove_guard() -> None:
    try:
        if tunnel_guard.remove_table():
            log.info("tunnel guard removed")
    except GuardError as error:  # as in the manifests, where this container may not change the node's network
        log.info('tunnel guard kept cause="%s" details="%s"', error, HOW_TO_REMOVE)


def is_deleted(api: ApiServer, daemon_set: str) -> bool:
    """Whether a DaemonSet (`namespace/name`) is deleted or being deleted. False if the API is unreachable.

    Its account and roles are deleted with it, so an account without permission counts as deleted.
    """
    namespace, _, name = daemon_set.partition("/")
    try:
        found = api.get(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}")
    except (NotFoundError, ForbiddenError, UnauthorizedError):
        return True
    except RatchetError as error:
        log.warning("%s", error)
        return False
    return "deletionTimestamp" in found["metadata"]
