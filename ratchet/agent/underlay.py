"""The node's side of tunnels, found once and followed: the answer to every call without asking the kernel each time."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from ratchet.agent.settings import Settings
from ratchet.core.plan import Underlay
from ratchet.errors import ApiUnavailableError, InvalidConfigError, RatchetError
from ratchet.node.underlay import UnderlayConfig, find_underlay
from ratchet.store.interface import Store

log = logging.getLogger(__name__)


class Underlays:
    """Where this node's tunnels leave it, for each way in which that is said.

    What a network's configuration says goes before the agent's settings. One that cannot be found is looked for anew
    with each call.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._own = UnderlayConfig(settings.parent_interface, settings.parent_address, settings.vxlan_port)
        self._lock = threading.Lock()
        self._found: dict[UnderlayConfig, Underlay] = {}
        self._missing: set[UnderlayConfig] = set()

    def __call__(self, underlay: UnderlayConfig | None, node: str, records: Store) -> Underlay:
        """The site that an underlay comes to. Raises InvalidConfigError."""
        if node != self._settings.node_name:
            raise InvalidConfigError(
                f"cannot link a pod of node {node}: this agent is of node {self._settings.node_name}",
                details="give the agent the node's name as the API has it (--node-name)",
            )
        said = self._completed(underlay)
        with self._lock:
            found = self._found.get(said)
        return found or self._look(said, records)

    def refresh(self, records: Store) -> bool:
        """Look again at all that is in use; whether anything is other than it was."""
        with self._lock:
            before = {**self._found, **dict.fromkeys(self._missing)}
        for said in before:
            try:
                self._look(said, records)
            except RatchetError as error:
                log.warning("%s", error)
        with self._lock:
            return any(self._found.get(said) != site for said, site in before.items())

    def own(self, records: Store) -> Underlay:
        """The site as the agent's own settings have it, looked at now. Raises InvalidConfigError."""
        return self._look(self._own, records)

    def _completed(self, underlay: UnderlayConfig | None) -> UnderlayConfig:
        """An underlay with the agent's settings for what the network configuration leaves out."""
        if underlay is None:
            return self._own
        parent = underlay if underlay.interface or underlay.address else self._own
        return replace(parent, vxlan_port=underlay.vxlan_port or self._own.vxlan_port)

    def _look(self, said: UnderlayConfig, records: Store) -> Underlay:
        try:
            site = replace(find_underlay(said, self._settings.node_name, records), has_agent=True)
        except ApiUnavailableError:
            raise  # which is no word on what is there
        except RatchetError:
            with self._lock:
                self._found.pop(said, None)
                self._missing.add(said)
            raise
        with self._lock:
            self._missing.discard(said)
            if self._found.get(said) not in (None, site):
                log.info("tunnels leave by %s, %s, MTU %d now", *_shown(site))
            self._found[said] = site
        return site


def _shown(site: Underlay) -> tuple[str, str, int]:
    return site.parent.ifname, site.parent.address, site.parent.mtu
