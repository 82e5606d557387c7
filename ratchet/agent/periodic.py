"""The agent's periodic work: resyncs, checks of interfaces, tunnels, the panel and VNI Leases."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from ratchet.agent.health import AgentHealth
from ratchet.agent.informers import Informers
from ratchet.agent.node_events import NodeEvents
from ratchet.agent.panel import NodePanel
from ratchet.agent.port_clash import PortClash
from ratchet.agent.queue import ReconcileQueue
from ratchet.agent.resync import Resync
from ratchet.agent.rounds import Rounds
from ratchet.agent.tunnel_guard import TunnelGuard
from ratchet.agent.tunnel_silence import TunnelSilence
from ratchet.agent.vni_check import VniCheck
from ratchet.node.journal import Journal
from ratchet.node.panel_sweep import sweep_panel
from ratchet.node.verified import VerifiedEnds

# Seconds between two steps.
STEP_SECONDS = 2.0
# The period of kernel checks in seconds, and the most links per second. A check sends no API request. Above
# OBSERVE_SECONDS * OBSERVE_RATE links the rate decides.
OBSERVE_SECONDS, OBSERVE_RATE = 30.0, 30.0


@dataclass(frozen=True, slots=True)
class PeriodicWork:
    """Runs the periodic work of one agent in the caller's thread.

    `resync_seconds` is the interval between resyncs.
    """

    journal: Journal
    resync: Resync
    resync_seconds: float
    vni_check: VniCheck
    informers: Informers
    queue: ReconcileQueue
    verified: VerifiedEnds
    health: AgentHealth
    guard: TunnelGuard
    port: PortClash
    panel: NodePanel
    silence: TunnelSilence
    events: NodeEvents

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set."""
        began = time.monotonic()
        observations = Rounds[str](OBSERVE_SECONDS, OBSERVE_RATE, began)
        next_resync, next_guard_check = began + self.resync_seconds, began + OBSERVE_SECONDS
        vnis_listed = False
        while not stopping.wait(STEP_SECONDS):
            self.health.note_progress()
            self.journal.flush()
            self.panel.look()
            self.silence.check()
            self.events.send()
            now = time.monotonic()
            if now >= next_resync:
                self.resync.run()
                self.vni_check.list()
                self.port.check()
                sweep_panel(self.journal.panel)
                next_resync = now + self.resync_seconds
            elif not vnis_listed and self.informers.links_listed:
                vnis_listed = self.vni_check.list()
            self.vni_check.check_some()
            if now >= next_guard_check:
                self.guard.check()
                next_guard_check = now + OBSERVE_SECONDS
            for link in observations.due(self.resync.links, now):
                self.verified.expire(link)
                self.queue.enqueue_link(link)
