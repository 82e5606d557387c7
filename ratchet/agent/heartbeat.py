"""The heartbeat: renews this node's Lease, and decides by the other nodes' Leases which are lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from ratchet.agent.settings import Settings
from ratchet.agent.underlay import Underlays
from ratchet.core import oam
from ratchet.core.heartbeat import Attendance, NodeLease
from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.store.interface import Store

log = logging.getLogger(__name__)

# Heartbeats per read of the other nodes' Leases.
BEATS_FOR_A_READ = 2
# Read intervals without a read after which the reader counts as cut off itself.
GAPS_TO_BE_BLIND = 2.5


class NodeListener(Protocol):
    """The listener for changes of nodes, called from the heartbeat's thread."""

    def node_changed(self, node: str) -> None:
        """Handle the loss or the return of another node."""
        ...

    def underlay_changed(self) -> None:
        """Handle a change of this node's underlay. After a RatchetError it is called again."""
        ...


class Heartbeat:
    """Renews this node's Lease, and watches the other nodes' Leases and the underlay.

    Lost nodes, returned nodes and changes of the underlay are reported to `listener`. A node is lost if its Lease has
    not changed for `node_lost_after` and the node is not Ready. An agent that only restarts does not cost its node the
    carriers. `sends_oam` tells whether this agent sends OAM frames, which its Lease announces. `clock` returns
    monotonic seconds. `last_contact` is its value at the last renewal.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        underlays: Underlays,
        listener: NodeListener,
        clock: Callable[[], float] = time.monotonic,
        sends_oam: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._sends_oam = sends_oam
        self._store = store
        self._underlays = underlays
        self._listener = listener
        self._clock = clock
        self._attendance = Attendance()
        self._lost: frozenset[str] = frozenset()
        self._silent: frozenset[str] = frozenset()
        self._oam: frozenset[str] = frozenset()
        self._beats = 0
        self._underlay_changed = False
        self.last_contact = float("-inf")

    def start(self, stopping: threading.Event) -> None:
        """Start the heartbeat in a thread, until `stopping` is set."""

        def run() -> None:
            while True:
                began = self._clock()
                try:
                    self.beat()
                except Exception:
                    log.exception("heartbeat failed")
                if stopping.wait(max(0.1, self._settings.heartbeat - (self._clock() - began))):
                    return

        threading.Thread(target=run, name="heartbeat", daemon=True).start()

    def is_lost(self, node: str) -> bool:
        """Whether a node is lost, as of the last read."""
        return node in self._lost

    def is_silent(self, node: str) -> bool:
        """Whether a node's Lease is not renewed, as of the last read. The node itself may be ready."""
        return node in self._silent

    def announces_oam(self, node: str) -> bool:
        """Whether the agent of a node announces OAM frames that this agent reads, as of the last read."""
        return self._sends_oam() if node == self._settings.node_name else node in self._oam

    def oam_renewed(self, node: str) -> float | None:
        """Seconds since the agent of a node renewed its announcement of OAM frames, at most.

        None: it announces none, or no renewal was read yet.
        """
        if not self.announces_oam(node):
            return None
        if node == self._settings.node_name:
            return 0.0
        renewed = self._attendance.renewed(node)
        return None if renewed is None else self._clock() - renewed

    def beat(self) -> None:
        """Renew the Lease, follow this node's underlay and, every second time, read the other nodes' Leases."""
        self._follow_underlay()
        try:
            vtep = self._underlays.own(self._store).parent.address
        except RatchetError as error:
            log.warning('cannot find the underlay cause="%s"', error)
            vtep = ""
        try:
            self._read_formats()
            written = self._store.formats.written_schema
            sent = oam.VERSION if self._sends_oam() else 0
            lease = NodeLease(self._settings.node_name, vtep, written_schema=written, oam=sent)
            renewed = self._store.nodes.renew_lease(lease, self._settings.node_lost_after, datetime.now(UTC))
            if self._beats % BEATS_FOR_A_READ == 0:
                self._read(renewed)
            self._beats += 1
            self.last_contact = self._clock()
        except RatchetError as error:
            log.warning('heartbeat failed cause="%s"', error)
            if isinstance(error, ApiUnavailableError):
                return
        self._follow_node_addresses()

    def _read_formats(self) -> None:
        """Read the formats before the first renewal, which announces what this agent writes.

        This includes this node's own Lease, which announces the formats that the earlier agent read. An agent that
        cannot read the Leases announces the earlier format.
        """
        try:
            self._store.formats.writes_current(self._store)
        except RatchetError as error:
            log.warning('cannot read the node Leases cause="%s"', error)

    def _follow_underlay(self) -> None:
        """Observe the node's interfaces, and report a changed underlay to the listener."""
        self._underlay_changed |= self._underlays.refresh(self._store)
        try:
            if self._underlay_changed:
                self._listener.underlay_changed()
                self._underlay_changed = False
        except RatchetError as error:
            log.warning('cannot apply the changed underlay cause="%s"', error)

    def _follow_node_addresses(self) -> None:
        """Read the node's addresses from the API, not from the cache. It is last, because the API may be slow."""
        try:
            changed = self._store.nodes.refresh_addresses(self._settings.node_name)
        except RatchetError as error:
            log.warning('cannot read the node addresses node=%s cause="%s"', self._settings.node_name, error)
            return
        if changed:
            self._follow_underlay()

    def _read(self, renewed: str) -> None:
        """Read the other nodes' Leases, and report which nodes are lost or back.

        `renewed` is the version of this node's own Lease.
        """
        leases = self._store.nodes.list_leases_since(renewed)
        others = [one for one in leases if one.node != self._settings.node_name]
        self._store.formats.read(self._store, others)
        versions = {one.node: one.version for one in others}
        longest_gap = self._settings.heartbeat * BEATS_FOR_A_READ * GAPS_TO_BE_BLIND
        self._attendance = self._attendance.read(versions, self._clock(), longest_gap)
        self._oam = frozenset(one.node for one in others if one.oam == oam.VERSION)
        self._silent = silent = self._attendance.lost(self._settings.node_lost_after)
        # A node that is lost already is not read again until its Lease changes.
        lost = frozenset(one for one in silent if one in self._lost or not self._store.nodes.is_ready(one))
        before, self._lost = self._lost, lost
        for node in lost - before:
            log.warning("node lost node=%s lease_unchanged_for=%.0fs", node, self._settings.node_lost_after)
        for node in before - lost:
            log.info("node returned node=%s", node)
        for node in lost ^ before:
            self._listener.node_changed(node)
