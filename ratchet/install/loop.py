"""Keeping the plugin installed on a node, for as long as it is deployed there: what the DaemonSet's installer does.

Whoever manages the node's network may write its configuration anew at any time; Ratchet's stands behind it again a
moment later. When the pod ends, the node is left as it is, unless its DaemonSet is gone: then it is put back as it was.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.install.conflist import configure
from ratchet.install.files import remove
from ratchet.install.kubeconfig import Kubeconfig
from ratchet.install.plugin import LAUNCHER, install, uninstall
from ratchet.store.api_errors import ForbiddenError, NotFoundError, UnauthorizedError
from ratchet.store.apiserver import ApiServer

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps a node's folders. With `conf_dir` None the network is configured by somebody else.

    `socket` is the agent's: a network that calls it is configured once there is one. None where there is no agent, and
    the plugin does all itself, with a Python of its own. `network` is a file with the network, None for the node's own
    with us behind it. `kubeconfig` is written for the plugin, before the network that calls it.
    """

    bin_dir: Path
    conf_dir: Path | None
    socket: Path | None
    network: Path | None = None
    kubeconfig: Kubeconfig | None = None

    def keep(self, stopping: threading.Event) -> None:
        """Look again and again until told to stop. What cannot be done now is said once, and tried again."""
        said = ""
        while True:
            try:
                self.look()
                said = ""
            except RatchetError as error:
                if str(error) != said:
                    log.warning("%s", error)
                said = str(error)
            if stopping.wait(LOOK_SECONDS):
                return

    def look(self) -> None:
        """Have everything in its place, the configuration last. Raises RatchetError."""
        agent = self.socket is not None
        if not (self.bin_dir / LAUNCHER).exists():
            install(self.bin_dir, agent=agent, fallback=False, relocatable=not agent)
            log.info("put the plugin into %s", self.bin_dir)
        if self.kubeconfig is not None and self.kubeconfig.write():
            log.info("wrote %s", self.kubeconfig.path)
        can_serve = self.socket is None or self.socket.exists()
        if self.conf_dir is not None and can_serve and configure(self.conf_dir, self.network):
            log.info("configured the network in %s", self.conf_dir)

    def leave(self, api: ApiServer, daemon_set: str) -> None:
        """Put the node back as it was if the DaemonSet (`namespace/name`) is gone, or being deleted."""
        if is_gone(api, daemon_set):
            for path in self.uninstall():
                log.info("removed %s", path)
        else:
            log.info("the node stays as it is: %s is deployed", daemon_set)

    def uninstall(self) -> list[Path]:
        """Put the node back as it was; what was removed. Raises RatchetError."""
        removed = uninstall(self.bin_dir, self.conf_dir)
        if self.kubeconfig is not None and self.kubeconfig.path.exists():
            remove(self.kubeconfig.path)
            removed.append(self.kubeconfig.path)
        return removed


def is_gone(api: ApiServer, daemon_set: str) -> bool:
    """Whether a DaemonSet (`namespace/name`) is deployed no more, as far as can be known: not while the API is away.

    Its account and its permissions go with it, so that it is gone as well where we may not ask any more.
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
