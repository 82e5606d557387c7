"""The underlays of this node: found once, refreshed by the heartbeat, used by all calls."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from functools import lru_cache

from ratchet.agent.settings import Settings
from ratchet.core.underlay import Underlay
from ratchet.errors import ApiUnavailableError, InvalidConfigError, RatchetError
from ratchet.node.underlay import UnderlayConfig, find_underlay
from ratchet.store.interface import Store

log = logging.getLogger(__name__)

# The completed configurations that are kept. A node usually has one or two.
CONFIGURATIONS = 64


class Underlays:
    """The underlay for each configuration in use. Thread-safe.

    A network configuration overrides the agent's settings. An underlay that cannot be found is looked up by each call.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._own = UnderlayConfig(
            settings.parent_interface, settings.parent_address, settings.vxlan_port, settings.guard
        )
        self._completed = lru_cache(CONFIGURATIONS)(self._complete)
        self._lock = threading.Lock()
        self._found: dict[UnderlayConfig, Underlay] = {}
        self._missing: set[UnderlayConfig] = set()

    def __call__(self, underlay: UnderlayConfig | None, node: str, store: Store) -> Underlay:
        """The underlay for the settings of a network configuration. Raises InvalidConfigError."""
        if node != self._settings.node_name:
            raise InvalidConfigError(
                f"cannot link a pod of node {node}: this agent serves node {self._settings.node_name}",
                details="set --node-name to the name of the Node object",
            )
        config = self._completed(underlay)
        with self._lock:
            found = self._found.get(config)
        return found or self._find(config, store)

    def refresh(self, store: Store) -> bool:
        """Find all underlays in use again, and return whether one has changed."""
        with self._lock:
            before = {**self._found, **dict.fromkeys(self._missing)}
        for config in before:
            try:
                self._find(config, store)
            except RatchetError as error:
                log.warning('cannot find the underlay cause="%s"', error)
        with self._lock:
            return any(self._found.get(config) != underlay for config, underlay in before.items())

    def own(self, store: Store) -> Underlay:
        """Find the underlay of the agent's own settings now. Raises InvalidConfigError."""
        return self._find(self._own, store)

    def _complete(self, underlay: UnderlayConfig | None) -> UnderlayConfig:
        """The configuration, with the agent's settings for what it does not set."""
        if underlay is None:
            return self._own
        parent = underlay if underlay.interface or underlay.address else self._own
        guard = self._own.guard if underlay.guard is None else underlay.guard
        return parent._replace(vxlan_port=underlay.vxlan_port or self._own.vxlan_port, guard=guard)

    def guards(self, underlay: UnderlayConfig | None) -> bool:
        """Whether tunnels of a network configuration are guarded."""
        return self._completed(underlay).guard is not False

    def _find(self, config: UnderlayConfig, store: Store) -> Underlay:
        try:
            found = find_underlay(config, self._settings.node_name, store)
            underlay = replace(found, has_agent=True, vxlan_ports=self._settings.vxlan_ports)
        except ApiUnavailableError:
            raise  # the underlay may exist, so the known one stays
        except RatchetError:
            with self._lock:
                self._found.pop(config, None)
                self._missing.add(config)
            raise
        with self._lock:
            self._missing.discard(config)
            if self._found.get(config) not in (None, underlay):
                parent = underlay.parent
                log.info("underlay changed interface=%s vtep=%s mtu=%d", parent.ifname, parent.address, parent.mtu)
            self._found[config] = underlay
        return underlay
