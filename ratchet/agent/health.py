"""The agent's health, as /livez and /readyz report it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from ratchet.agent.heartbeat import Heartbeat
from ratchet.agent.informers import Informers

# Seconds without an answer of the API until the agent is not ready, and without periodic work until it is not live.
OUT_OF_TOUCH_SECONDS = 60.0
STUCK_SECONDS = 180.0


class Guard(Protocol):
    """The guard of the tunnel port."""

    @property
    def fault(self) -> str:
        """Why the tunnels are not guarded; empty if they are, or are not to be."""
        ...


class AgentHealth:
    """Decides whether the agent is live and ready. `clock` returns monotonic seconds."""

    def __init__(
        self,
        informers: Informers,
        heartbeat: Heartbeat,
        guard: Guard,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._informers = informers
        self._heartbeat = heartbeat
        self._guard = guard
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
        return None

    def note(self) -> str:
        """What an operator of a ready agent should know; empty if nothing."""
        return f"not guarded: {self._guard.fault}" if self._guard.fault else ""
