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
from ratchet.datapath import rtnetlink, vxlan
from ratchet.errors import RatchetError
from ratchet.node.locks import LOCK_SECONDS
from ratchet.node.record_writer import CONFLICT_SECONDS

log = logging.getLogger(__name__)

# Seconds that calls in a row may delay a reconciliation.
RECONCILE_WAITS_SECONDS = 0.3
# Seconds for which a worker's request is retried. A worker holds its link's lock, for which DEL waits. So its requests
# fail early, and the queue retries the link.
WORKER_PATIENCE_SECONDS = 4.0
# A pass over a link has at most this many critical sections: for each side a dead sandbox, an end, its error and a lost
# peer, and one for the VNI. A section makes its last requests after CONFLICT_SECONDS. An error ends the pass.
_SECTIONS, _LAST_API_REQUESTS, _LAST_KERNEL_REQUESTS = 9, 3, 2
_SECTION_SECONDS = (
    2 * LOCK_SECONDS  # for the lock between threads, and for that between processes
    + CONFLICT_SECONDS
    + _LAST_API_REQUESTS * WORKER_PATIENCE_SECONDS
    + _LAST_KERNEL_REQUESTS * rtnetlink.TIMEOUT
    + vxlan.PATIENCE
)
# Seconds after which a worker that has the same key is stuck. A pass over a pod takes less: it waits for no other pass.
STUCK_SECONDS = RECONCILE_WAITS_SECONDS + _SECTIONS * _SECTION_SECONDS


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
        details = error.details if isinstance(error, RatchetError) else ""
        remedy = f' details="{details}"' if details else ""
        self.metrics.retry(type(error).__name__)
        with about(link=key.name if key.kind is ReconcileKind.LINK else None):
            log.warning('reconciliation failed kind=%s retry_in=%.1fs cause="%s"%s', key.kind, delay, error, remedy)
