"""Whether anything else has the UDP port of this node's tunnels: checked at the agent's start and at each resync."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ratchet.errors import DatapathError, RatchetError
from ratchet.node.journal import Journal
from ratchet.node.tunnel_port import port_fault
from ratchet.store.announcements import EventType, record_node_event
from ratchet.store.apiserver import ApiServer

log = logging.getLogger(__name__)

REASON = "TunnelPortTaken"
PATIENCE_SECONDS = 2.0


@dataclass(slots=True)
class PortClash:
    """Finds who else has the UDP port, and reports it in the log, in `fault` and as an Event of the node.

    Links on one node work without the port, and the port may be free by the time of the first tunnel. So the agent is
    ready nevertheless.
    """

    api: ApiServer
    journal: Journal
    node: str
    port: int
    sends_events: bool
    fault: str = field(default="", init=False)
    _is_holder_lost: bool = field(default=False, init=False)

    def check(self) -> None:
        """Find out who has the port now. If that fails, or nothing is known, `fault` stays as it is."""
        try:
            fault = port_fault(self.port, self.journal)
        except DatapathError as error:
            log.warning('tunnel port not checked port=%d cause="%s"', self.port, error)
            return
        was_lost, self._is_holder_lost = self._is_holder_lost, fault is None
        if fault is None:
            if self.fault and not was_lost:
                log.info("tunnel port in use, its holder is not found any more port=%d", self.port)
            return
        if fault == self.fault:
            return
        self.fault = fault
        if not fault:
            log.info("tunnel port free again port=%d", self.port)
            return
        log.error('tunnel port taken, links between nodes fail cause="%s" details="set another --vxlan-port"', fault)
        if self.sends_events:
            self._report(f"{fault}: links to other nodes fail. Set another --vxlan-port for the agents of all nodes")

    def _report(self, text: str) -> None:
        api = self.api.patient(PATIENCE_SECONDS)
        try:
            record_node_event(api, self.node, REASON, text, EventType.WARNING, now=datetime.now(UTC))
        except RatchetError as error:
            log.info('event not sent reason=%s node=%s cause="%s"', REASON, self.node, error)
