"""Signs of life: this node's own, and those of the others, by which a node that is lost is known."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from ratchet.agent.settings import Settings
from ratchet.agent.underlay import Underlays
from ratchet.core.heartbeat import Attendance, NodeLease
from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.store.interface import Store

log = logging.getLogger(__name__)

# Of its own beats; the others' Leases are read at every second one.
BEATS_FOR_A_READ = 2
GAPS_TO_BE_BLIND = 2.5


class Heartbeat:
    """Says that this node is there, and knows which others are not.

    A node is lost when its Lease has been silent for as long as the settings say, and the cluster does not hold it for
    ready either: an agent that is away for a while is no reason to pull its node's cables. `on_change` is told each
    node that is lost or is back; `on_move` is called when this node's own side of tunnels has changed.
    """

    def __init__(
        self,
        settings: Settings,
        records: Store,
        sites: Underlays,
        on_change: Callable[[str], None],
        on_move: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._records = records
        self._underlays = sites
        self._on_change = on_change
        self._on_move = on_move
        self._clock = clock
        self._attendance = Attendance()
        self._lost: frozenset[str] = frozenset()
        self._beats = 0
        self._has_moved = False
        self.last_contact = float("-inf")

    def start(self, stopping: threading.Event) -> None:
        def run() -> None:
            while True:
                began = self._clock()
                try:
                    self.beat()
                except Exception:
                    log.exception("a fault in the heartbeat")
                if stopping.wait(max(0.1, self._settings.heartbeat - (self._clock() - began))):
                    return

        threading.Thread(target=run, name="heartbeat", daemon=True).start()

    def is_lost(self, node: str) -> bool:
        return node in self._lost

    def beat(self) -> None:
        """One sign of life, and at every second one a look at the others'."""
        self._follow_underlay()
        try:
            vtep = self._underlays.own(self._records).parent.address
        except RatchetError as error:
            log.warning("%s", error)
            vtep = ""
        try:
            self._read_formats()
            written = self._records.formats.written_schema
            lease = NodeLease(self._settings.node_name, vtep, written_schema=written)
            self._records.nodes.renew_lease(lease, self._settings.node_lost_after, datetime.now(UTC))
            if self._beats % BEATS_FOR_A_READ == 0:
                self._read()
            self._beats += 1
            self.last_contact = self._clock()
        except RatchetError as error:
            log.warning("no sign of life could be given: %s", error)
            if isinstance(error, ApiUnavailableError):
                return
        self._follow_node_addresses()

    def _read_formats(self) -> None:
        """Read the formats before the first renewal, which announces what this agent writes.

        This node's own Lease is among those that are read: it announces what the agent before this one read. An agent
        that cannot read the Leases announces the earlier format.
        """
        try:
            self._records.formats.writes_current(self._records)
        except RatchetError as error:
            log.warning("cannot read the node Leases: %s", error)

    def _follow_underlay(self) -> None:
        """Look at the node's interfaces again, and call `on_move` if the tunnels' side of this node has changed."""
        self._has_moved |= self._underlays.refresh(self._records)
        try:
            if self._has_moved:
                self._on_move()
                self._has_moved = False
        except RatchetError as error:
            log.warning("this node's move is not followed yet: %s", error)

    def _follow_node_addresses(self) -> None:
        """Read the node's addresses from the API, past the cache. Last, because the API may be slow or away."""
        try:
            changed = self._records.nodes.refresh_addresses(self._settings.node_name)
        except RatchetError as error:
            log.warning("cannot read the addresses of node %s: %s", self._settings.node_name, error)
            return
        if changed:
            self._follow_underlay()

    def _read(self) -> None:
        others = [one for one in self._records.nodes.list_leases() if one.node != self._settings.node_name]
        self._records.formats.read(self._records, others)
        leases = {one.node: one.version for one in others}
        longest_gap = self._settings.heartbeat * BEATS_FOR_A_READ * GAPS_TO_BE_BLIND
        self._attendance = self._attendance.read(leases, self._clock(), longest_gap)
        silent = self._attendance.lost(self._settings.node_lost_after)
        # Those that are lost already are not asked about again until they are heard of.
        lost = frozenset(one for one in silent if one in self._lost or not self._records.nodes.is_ready(one))
        before, self._lost = self._lost, lost
        for node in lost - before:
            log.warning("node %s is lost: its Lease has been silent for %.0f s", node, self._settings.node_lost_after)
        for node in before - lost:
            log.info("node %s is back", node)
        for node in lost ^ before:
            self._on_change(node)
