"""The agent's health, as /livez and /readyz report it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from ratchet.agent.heartbeat import Heartbeat
from ratchet.agent.informers import Informers
from ratchet.agent.queue import ReconcileKey
from ratchet.agent.workers import STUCK_SECONDS
from ratchet.node.journal import Journal

log = logging.getLogger(__name__)

# Seconds without an answer of the API until the agent is not ready, and without periodic work until it is not live.
OUT_OF_TOUCH_SECONDS = 60.0
IDLE_SECONDS = 180.0


class Work(Protocol):
    """The work queue of the agent's workers."""

    def longest_work(self) -> tuple[ReconcileKey, float] | None:
        """The key that is with a worker for the longest time, and the time in seconds. None if no worker has a key."""
        ...


class Guard(Protocol):
    """The guard of the tunnel port."""

    @property
    def fault(self) -> str:
        """Why the tunnels are not guarded; empty if they are, or are not to be."""
        ...


class Port(Protocol):
    """The UDP port of the tunnels."""

    @property
    def fault(self) -> str:
        """What else uses the port; empty if nothing is found."""
        ...


class Panel(Protocol):
    """The patch panel."""

    @property
    def fault(self) -> str:
        """Why it cannot be used; empty if it can, or if there is none yet."""
        ...


class Carrier(Protocol):
    """The carrier of links in panel wiring."""

    @property
    def fault(self) -> str:
        """Why it does not follow the pods of other nodes; empty if it does."""
        ...


class AgentHealth:
    """Decides whether the agent is live and ready. `clock` returns monotonic seconds."""

    def __init__(
        self,
        informers: Informers,
        heartbeat: Heartbeat,
        work: Work,
        journal: Journal,
        guard: Guard,
        port: Port,
        panel: Panel,
        carrier: Carrier,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._informers = informers
        self._heartbeat = heartbeat
        self._work = work
        self._journal = journal
        self._guard = guard
        self._port = port
        self._panel = panel
        self._carrier = carrier
        self._clock = clock
        self._progress = clock()
        self._logged: ReconcileKey | None = None

    def note_progress(self) -> None:
        """Note that the periodic work goes on."""
        self._progress = self._clock()

    def why_not_live(self) -> str | None:
        """Why the agent is not live; None if it is. It does not name links or pods: anybody may read it."""
        idle = self._clock() - self._progress
        if idle > IDLE_SECONDS:
            return f"the agent has not done its periodic work for {idle:.0f} s"
        work = self._work.longest_work()
        if work is None or work[1] <= STUCK_SECONDS:
            return None
        self._log_stuck(*work)
        return f"a worker has reconciled the same {work[0].kind} for {work[1]:.0f} s"

    def _log_stuck(self, key: ReconcileKey, seconds: float) -> None:
        """Log once on which key a worker is stuck."""
        if key != self._logged:
            self._logged = key
            log.error("worker stuck kind=%s namespace=%s name=%s seconds=%.0f", *key, seconds)

    def why_not_ready(self) -> str | None:
        """Why the agent is not ready; None if it is."""
        if not self._informers.links_listed:
            return "the node's links have not been read yet"
        if forbidden := self._informers.forbidden_topologies():
            return f"{forbidden} ({forbidden.details})"
        silence = self._clock() - self._heartbeat.last_contact
        if silence == float("inf"):
            return "the API has not answered yet"
        if silence > OUT_OF_TOUCH_SECONDS:
            return f"the API has not answered for {silence:.0f} s"
        if deferred := self._journal.deferred:
            return f"the state directory is full or read-only (journal changes kept in memory: {deferred})"
        return None

    def note(self) -> str:
        """What an operator of a ready agent should know; empty if nothing."""
        unguarded = f"not guarded: {self._guard.fault}" if self._guard.fault else ""
        return "; ".join(filter(None, (self._port.fault, unguarded, self._panel.fault, self._carrier.fault)))
