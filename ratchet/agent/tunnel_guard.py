"""The agent's care for the guard of the tunnel port: made at start, checked from time to time, drops reported.

Each link's reconciliation adds and changes its own tunnel in the table (`datapath/vxlan`). This module repairs the
table as a whole, and removes tunnels that are gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ratchet.agent.announce import Announcer
from ratchet.agent.events import Reason
from ratchet.agent.metrics import Metrics
from ratchet.agent.underlay import Underlays
from ratchet.core.tunnel_guard import (
    GuardedTunnel,
    GuardTable,
    count_new_drops,
    faults,
    gone_tunnels,
    rebuilt_tunnels,
)
from ratchet.datapath import tunnel_guard
from ratchet.errors import GuardError
from ratchet.node.held_tunnels import held_owners, held_tunnels, owned_ends
from ratchet.node.journal import Journal

log = logging.getLogger(__name__)

FRAGMENTS_VNI = 0  # under which the table counts fragments that are too short for a VNI


@dataclass(slots=True)
class _State:
    """What the last start or check has found. `fault`: why the node has no guard; empty if it has one."""

    layout: tuple[object, ...] = ()
    fault: str = ""
    drops: Mapping[tuple[int, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TunnelGuard:
    """Keeps the guard of one node. `enabled` is the agent's setting; a network configuration overrides it.

    `start` and `check` are for one thread. They never raise RatchetError: links work without the guard, so a node that
    cannot have it is reported, in the log, by `fault` and in the metrics.
    """

    enabled: bool
    journal: Journal
    underlays: Underlays
    announcer: Announcer
    metrics: Metrics
    _state: _State = field(default_factory=_State)

    @property
    def fault(self) -> str:
        """Why the tunnels of this node are not guarded; empty if they are, or are not to be."""
        return self._state.fault

    def start(self) -> None:
        """Make the table in one transaction, from this node's tunnels and those that the table has.

        Removes it if no tunnel is to be guarded.
        """
        if self._is_wanted():
            self._attempt(self._rebuild)
            return
        try:
            if tunnel_guard.remove_table():
                log.info("tunnel guard removed, it is turned off")
        except GuardError as error:
            log.warning("%s", error)

    def check(self) -> None:
        """Repair the table if it is not as it must be, and report dropped datagrams.

        A bug is logged, so that the periodic work continues.
        """
        try:
            if self._is_wanted():
                self._attempt(self._repair)
        except Exception:
            log.exception("check of the tunnel guard failed")

    def _is_wanted(self) -> bool:
        return self.enabled or any(self.underlays.guards(entry.underlay) for entry in self.journal.entries())

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except GuardError as error:
            fault = f"{error} ({error.details})" if error.details else str(error)
            if fault != self._state.fault:
                log.error('tunnel port not guarded, links work without it cause="%s"', fault)
        else:
            fault = ""
            if self._state.fault:
                log.info("tunnel port guarded again")
        self._state.fault = fault
        self.metrics.guarded(not fault and self._is_wanted())

    def _repair(self) -> None:
        table = tunnel_guard.read_table()
        held = held_owners(self.journal)
        found = faults(table, self._state.layout, gone_tunnels(table, held, _existing(table, held)))
        if found:
            log.warning('tunnel guard repaired cause="%s"', "; ".join(found))
            self._rebuild()
        else:
            self._report_drops(table)

    def _rebuild(self) -> None:
        # The table's own tunnel of an end that cannot be observed stays while any device of it exists.
        observed = held_tunnels(self.journal, self.underlays.guards)
        observed_keys = {one.key for one in observed}
        unguarded = {owner for owner, entry, _ in owned_ends(self.journal) if not self.underlays.guards(entry.underlay)}

        def decide(table: GuardTable) -> tuple[GuardedTunnel, ...]:
            others = tunnel_guard.tunnels_exist([one for one in table.tunnels if one.key not in observed_keys])
            gone = gone_tunnels(table, (), lambda tunnel: tunnel.key in observed_keys | others)
            return rebuilt_tunnels(table, observed, gone, unguarded)

        self._state.layout = tunnel_guard.rebuild(decide)
        self._state.drops = {}

    def _report_drops(self, table: GuardTable) -> None:
        drops = tunnel_guard.read_drops()
        tunnels = {one.key: one for one in table.tunnels}
        for key, packets in count_new_drops(self._state.drops, drops).items():
            self.metrics.guard_dropped("fragment" if key[1] == FRAGMENTS_VNI else "source", packets)
            tunnel = tunnels.get(key)
            if tunnel is not None:
                self._report_dropped(tunnel, packets)
        self._state.drops = drops

    def _report_dropped(self, tunnel: GuardedTunnel, packets: int) -> None:
        for owner, entry, end in owned_ends(self.journal):
            if owner != tunnel.owner:
                continue
            log.warning(
                "tunnel datagrams dropped link=%s vni=%d port=%d peer=%s packets=%d",
                *(end.link, tunnel.vni, tunnel.port, tunnel.peer, packets),
            )
            if entry.pod is not None:
                text = f"{end.ifname}: dropped tunnel datagrams that did not come from the peer's VTEP {tunnel.peer}"
                self.announcer.event(entry.pod, Reason.DATAGRAMS_DROPPED, text, end.ifname)


def _existing(table: GuardTable, held: set[str]) -> Callable[[GuardedTunnel], bool]:
    """A question for tunnels whose owners are not `held`: whether any device on this node still claims them."""
    existing = tunnel_guard.tunnels_exist([one for one in table.tunnels if one.owner not in held])
    return lambda tunnel: tunnel.key in existing
