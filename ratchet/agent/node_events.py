"""Events of the node: sent from the periodic work, a few at a time, because a slow API delays that work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.store.announcements import EventType, record_node_event
from ratchet.store.apiserver import ApiServer

log = logging.getLogger(__name__)

# Events of one `send`, and seconds for which each is tried.
MOST = 5
PATIENCE_SECONDS = 2.0


class NodeReason(StrEnum):
    """The reason of an Event of the node, one word in CamelCase (core/v1, Event.reason)."""

    TUNNELS_SILENT = "TunnelsSilent"
    TUNNELS_VERIFIED = "TunnelsVerified"
    PANEL_LOST = "PanelLost"

    @property
    def type(self) -> EventType:
        return EventType.NORMAL if self is NodeReason.TUNNELS_VERIFIED else EventType.WARNING


class _Pending(NamedTuple):
    reason: NodeReason
    text: str
    at: datetime


@dataclass(slots=True)
class NodeEvents:
    """Sends the Events of one node. `report` is thread-safe, `send` is for one thread. Neither raises RatchetError.

    An Event waits while the API does not answer. A newer one about the same `subject` replaces it.
    """

    api: ApiServer
    node: str
    enabled: bool
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _pending: dict[str, _Pending] = field(default_factory=dict)
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def report(self, subject: str, reason: NodeReason, text: str) -> None:
        """Queue an Event."""
        if self.enabled:
            with self._changing:
                self._pending.pop(subject, None)
                self._pending[subject] = _Pending(reason, text, self.now())

    def send(self) -> None:
        """Send MOST of the queued Events. The API's refusals are logged."""
        api = self.api.patient(PATIENCE_SECONDS)
        with self._changing:
            taken = list(self._pending.items())[:MOST]
        for subject, event in taken:
            reason, text, at = event
            try:
                record_node_event(api, self.node, reason, text, reason.type, now=at)
            except ApiUnavailableError:
                return  # the heartbeat logs it
            except RatchetError as error:
                log.info('event not sent reason=%s node=%s cause="%s"', reason, self.node, error)
            with self._changing:
                if self._pending.get(subject) is event:
                    del self._pending[subject]
