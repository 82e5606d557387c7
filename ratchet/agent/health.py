"""The agent's health, as /livez and /readyz report it."""

from __future__ import annotations

import time
from collections.abc import Callable

from ratchet.agent.heartbeat import Heartbeat
from ratchet.agent.informers import Informers
from ratchet.node.journal import Journal

# Seconds without an answer of the API until the agent is not ready, and without periodic work until it is not live.
OUT_OF_TOUCH_SECONDS = 60.0
STUCK_SECONDS = 180.0


class AgentHealth:
    """Decides whether the agent is live and ready. `clock` returns monotonic seconds."""

    def __init__(
        self,
        informers: Informers,
        heartbeat: Heartbeat,
        journal: Journal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._informers = informers
        self._heartbeat = heartbeat
        self._journal = journal
        self._clock = clock
        self._progress = clock()

    def note_progress(self) -> None:
        """Note that the periodic work goes on."""
        self._progress = self._clock()

    def why_not_live(self) -> str | None:
        """Why the agent is not live; None if it is."""
        stuck = self._clock() - self._progress
        return f"the agent has not done its periodic work for {stuck:.0f} s" if stuck > STUCK_SECONDS else None

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
