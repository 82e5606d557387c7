"""The workers: threads that take links and pods from the work queue and reconcile them."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from ratchet.agent.controller import LinkController
from ratchet.agent.logs import about
from ratchet.agent.membership import Membership
from ratchet.agent.metrics import Metrics
from ratchet.agent.priority import ForegroundGate
from ratchet.agent.queue import ReconcileKey, ReconcileKind, ReconcileQueue
from ratchet.errors import RatchetError

log = logging.getLogger(__name__)

# Seconds that calls in a row may delay a reconciliation.
RECONCILE_WAITS_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Workers:
    """Reconciles the keys of a queue, and queues those that fail again."""

    queue: ReconcileQueue
    controller: LinkController
    membership: Membership
    foreground: ForegroundGate
    metrics: Metrics

    def start(self, count: int) -> None:
        """Start `count` threads. They end when the queue is closed."""
        self.queue.limit_tenants(count)
        for number in range(count):
            threading.Thread(target=self._run, name=f"worker-{number}", daemon=True).start()

    def _run(self) -> None:
        while (key := self.queue.take()) is not None:
            self.foreground.yield_to_calls(RECONCILE_WAITS_SECONDS)
            try:
                self._reconcile(key)
            except RatchetError as error:
                self._retry(key, error)
            except Exception as fault:
                log.exception("reconciliation failed kind=%s name=%s", key.kind, key.name)
                self._retry(key, fault)
            else:
                self.queue.done(key)

    def _reconcile(self, key: ReconcileKey) -> None:
        if key.kind is ReconcileKind.LINK:
            self.controller.reconcile(key.name)
        else:
            self.membership.reconcile(key.namespace, key.name)

    def _retry(self, key: ReconcileKey, error: Exception) -> None:
        delay = self.queue.failed(key)
        self.metrics.retry(type(error).__name__)
        with about(link=key.name if key.kind is ReconcileKind.LINK else None):
            log.warning('reconciliation failed kind=%s retry_in=%.1fs cause="%s"', key.kind, delay, error)
