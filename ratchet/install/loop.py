"""Keep the plugin installed while its DaemonSet is deployed: `ratchet install --keep`.

The node's network add-on may change, remove or overwrite network configurations at any time, and the loop follows.

At the end of the pod the node stays as it is, unless the DaemonSet is known to be deleted: then the loop uninstalls the
plugin.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ratchet.datapath import tunnel_guard
from ratchet.datapath.guard_rules import TABLE
from ratchet.errors import GuardError, RatchetError
from ratchet.install.chain import CONFIG
from ratchet.install.deployment import DeploymentWatch
from ratchet.install.files import exists, remove
from ratchet.install.follow import NetworkFollower
from ratchet.install.kubeconfig import Kubeconfig
from ratchet.install.lock import FolderLock
from ratchet.install.plugin import install, is_installed, uninstall

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 2.0
# While the node has no network: the runtime may start pods as soon as it has one, and those miss their links.
WAITING_SECONDS = 0.2

HOW_TO_REMOVE = f"If the node has the guard of the tunnel port, remove it with: nft delete table inet {TABLE}"


@dataclass(slots=True)
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
    _follower: NetworkFollower | None = field(default=None, init=False)
    _claim: FolderLock | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.conf_dir is not None:
            self._follower = NetworkFollower(self.conf_dir, self.network)
            self._claim = FolderLock(self.conf_dir)
        elif self.kubeconfig is not None:
            self._claim = FolderLock(self.kubeconfig.path.parent)

    def close(self) -> None:
        """Let another installer of the node take over."""
        if self._claim is not None:
            self._claim.release()

    def run(self, stopping: threading.Event) -> None:
        """Reconcile every INTERVAL_SECONDS until `stopping` is set, and more often while the node has no network.

        An error is logged once and retried.
        """
        logged = ""
        while True:
            try:
                self._take_over()
                self.reconcile()
                logged = ""
            except RatchetError as error:
                if str(error) != logged:
                    log.warning("%s%s", error, f" ({error.details})" if error.details else "")
                logged = str(error)
            is_waiting = self._follower is not None and self._follower.is_waiting
            if stopping.wait(WAITING_SECONDS if is_waiting else INTERVAL_SECONDS):
                return

    def _take_over(self) -> None:
        """Become the one installer of this node. Raises RatchetError while another one is."""
        if self._claim is not None and not self._claim.try_acquire():
            raise RatchetError(
                f"cannot keep {self._claim.folder}: another installer is at work",
                details="it ends with its pod, then this one takes over; delete it if it belongs to another deployment",
            )

    def reconcile(self) -> None:
        """Write the files that are missing or differ, the network configuration last. Raises RatchetError."""
        agent = self.socket is not None
        if not is_installed(self.bin_dir):
            install(self.bin_dir, agent=agent, fallback=False, relocatable=not agent)
            log.info("plugin installed bin_dir=%s", self.bin_dir)
        if self.kubeconfig is not None and self.kubeconfig.write():
            log.info("kubeconfig written path=%s", self.kubeconfig.path)
        if self._follower is not None and self._may_configure_network():
            self._follower.reconcile()

    def _may_configure_network(self) -> bool:
        """Whether the agent serves, or Ratchet's network configuration is in use already."""
        if self.socket is None or exists(self.socket):
            return True
        return self.conf_dir is not None and exists(self.conf_dir / CONFIG)

    def uninstall_if_deleted(self, deployment: DeploymentWatch, pause: Callable[[float], object] = time.sleep) -> None:
        """Uninstall if the DaemonSet is known to be deleted. `pause` waits for a number of seconds.

        Raises RatchetError, also if another installer is at work: then the node is that one's.
        """
        verdict = deployment.find_verdict(pause)
        if not verdict.deleted:
            level = logging.WARNING if verdict.deleted is None else logging.INFO
            log.log(level, "plugin kept daemonset=%s reason=%s", deployment.daemon_set, verdict.reason)
            return
        self._take_over()
        for path in self.uninstall():
            log.info("file removed path=%s", path)

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
