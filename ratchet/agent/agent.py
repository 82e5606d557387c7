"""The node agent: composition of its parts, start and shutdown."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from types import FrameType

import ratchet.agent.preload  # noqa: F401  # see there
from ratchet.agent.announce import Announcer
from ratchet.agent.carrier import CarrierFollower
from ratchet.agent.changes import ChangeHandler
from ratchet.agent.controller import LinkController
from ratchet.agent.earlier_boots import drop_earlier_boots
from ratchet.agent.failures import EndFailures
from ratchet.agent.handover import Handover
from ratchet.agent.health import AgentHealth
from ratchet.agent.heartbeat import Heartbeat
from ratchet.agent.http import PROBE_LIMITS, PUBLIC_LIMITS, HttpServer
from ratchet.agent.informers import Informers
from ratchet.agent.inspect import Inspector
from ratchet.agent.link_operations import LinkOperations
from ratchet.agent.liveness import SandboxLiveness
from ratchet.agent.logs import configure
from ratchet.agent.lost_peers import LostPeers
from ratchet.agent.membership import Membership
from ratchet.agent.metrics import Gauges, Metrics
from ratchet.agent.node_events import NodeEvents
from ratchet.agent.operation_files import OperationFiles
from ratchet.agent.operation_status import OperationStatus
from ratchet.agent.pages import health_pages, public_pages
from ratchet.agent.panel import NodePanel
from ratchet.agent.panel_loss import PanelLoss
from ratchet.agent.periodic import PeriodicWork
from ratchet.agent.port_clash import PortClash
from ratchet.agent.priority import ForegroundGate
from ratchet.agent.queue import ReconcileQueue
from ratchet.agent.resync import Resync
from ratchet.agent.server import Server
from ratchet.agent.service import CallService
from ratchet.agent.settings import Settings
from ratchet.agent.spool import Spool, spool_directories
from ratchet.agent.spool_replay import SpoolReplayer
from ratchet.agent.status import LinkStatus
from ratchet.agent.tunnel_guard import TunnelGuard
from ratchet.agent.tunnel_peers import TunnelPeers
from ratchet.agent.tunnel_silence import TunnelSilence
from ratchet.agent.underlay import Underlays
from ratchet.agent.vni_check import VniCheck
from ratchet.agent.workers import WORKER_PATIENCE_SECONDS, Workers
from ratchet.core.model import Link
from ratchet.node.interrupts import Interrupts
from ratchet.node.journal import Journal
from ratchet.node.verified import VerifiedEnds
from ratchet.store.apiserver import SELECTION_SECONDS, ApiServer, connect
from ratchet.store.cached_store import CachedStore
from ratchet.store.declaration_budget import DeclarationBudget
from ratchet.store.store import ApiStore

log = logging.getLogger(__name__)

# Seconds: the spool is replayed before calls are served, a background request is retried, announcements may still be
# sent at shutdown.
SPOOL_FIRST_SECONDS = 5.0
PATIENCE_SECONDS = 10.0
ANNOUNCE_AT_END_SECONDS = 2.0
# After `drain_seconds`, calls that undo something get more time. With the default of 20 s and the announcements this is
# less than the 30 s after which the kubelet and the unit file kill the agent.
UNDO_AT_END_SECONDS = 7.0
# Background threads must not delay calls of the runtime, which are shorter than Python's default of 5 ms.
SWITCH_SECONDS = 0.001
# gc.set_threshold(): Python's default (700, 10, 10) runs the collector every few requests, which took 5 % of a link's
# CPU. Almost no object here is part of a cycle.
COLLECTION_THRESHOLDS = 20_000, 20, 20


class Agent:
    """The agent of one node. `run` serves until a signal stops it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._metrics = Metrics()
        self._foreground = ForegroundGate()
        self._queue = ReconcileQueue()
        self._verified = VerifiedEnds()
        self._interrupts = Interrupts()
        self._journal = Journal(
            settings.state_dir, remembers=True, links_most=settings.links_per_node, panel=settings.panel
        )
        self._underlays = Underlays(settings)
        self._api = self._connect()
        self._node_events = NodeEvents(self._api, settings.node_name, settings.events)
        self._panel = NodePanel(settings.panel, PanelLoss(settings.state_dir, self._journal, self._node_events).opened)
        self._announcer = self._make_announcer()
        files = OperationFiles(settings.state_dir)
        self._operations = LinkOperations(files, self._journal, self._queue, self._record)
        self._informers = self._make_informers()
        self._store = CachedStore(
            self._api,
            settings.namespace,
            settings.vni_range,
            self._informers.caches,
            use_topologies=settings.topologies,
            limits=settings.limits,
            topology_limits=settings.topology_limits,
            annotation_limits=settings.annotation_limits,
            default_wiring=settings.wiring,
        )
        self._resync = self._make_resync()
        parts = settings, self._store, self._underlays, self._resync
        self._heartbeat = Heartbeat(*parts, sends_oam=lambda: self._carrier.sends_oam)
        self._guard = TunnelGuard(settings.guard, self._journal, self._underlays, self._announcer, self._metrics)
        self._port = PortClash(self._api, self._journal, settings.node_name, settings.vxlan_port, settings.events)
        self._carrier = CarrierFollower(settings.panel, TunnelPeers(self._journal, self._store, self._heartbeat))
        self._silence = TunnelSilence(settings.node_name, self._carrier, self._heartbeat, self._node_events)
        self._health = self._make_health()
        self._service = self._make_service()
        self._liveness = SandboxLiveness(settings.node_name, self._journal, self._store, self._service)
        self._status = self._make_status()
        self._workers = self._make_workers()
        self._periodic = self._make_periodic()
        self._replayers = [
            SpoolReplayer(Spool(one), self._service.serve_alone)
            for one in spool_directories(settings.spool_dir, settings.socket)
        ]
        self._server = Server(settings.socket, self._service.serve, lambda: self._panel.descriptor)
        self._http = self._make_http()
        self._probes = HttpServer("health", settings.health_addr, health_pages(self._health), PROBE_LIMITS)
        self._metrics.gauges(self._gauges)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, and return the exit status. Raises RatchetError if it cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        sys.setswitchinterval(SWITCH_SECONDS)
        with self._server, self._http, self._probes:
            self._start()
            self._server.start()
            self._panel.look()  # after the server's start, so that a shim can ask for a panel that is open
            log.info("agent started node=%s socket=%s", self._settings.node_name, self._settings.socket)
            gc.collect()
            gc.set_threshold(*COLLECTION_THRESHOLDS)
            gc.freeze()  # the objects so far stay, so the collector need not visit them again
            self._periodic.run(self._stopping)
            self._stop()
        return 0

    # Start and shutdown

    def _start(self) -> None:
        """Continue where an earlier agent stopped, before calls are served."""
        drop_earlier_boots(self._journal, self._queue)
        replayed_by = time.monotonic() + SPOOL_FIRST_SECONDS
        for replayer in self._replayers:
            replayer.start(self._stopping, max(0.0, replayed_by - time.monotonic()))
        self._guard.start()
        self._port.check()
        self._informers.start()
        self._carrier.start(self._stopping)
        self._workers.start(self._settings.workers)
        self._resync.enqueue_all()
        self._heartbeat.start(self._stopping)

    def _stop(self) -> None:
        log.info("agent stopping; links stay as they are")
        if not self._server.stop(self._settings.drain_seconds):
            self._interrupts.wait(UNDO_AT_END_SECONDS)
            log.warning("calls aborted calls=%d drain_seconds=%g", self._server.calls, self._settings.drain_seconds)
        self._queue.close()
        self._journal.flush()
        self._announcer.close(ANNOUNCE_AT_END_SECONDS)

    def _record(self, link: str) -> Link | None:
        return self._informers.caches.links.get(link)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def _gauges(self) -> Gauges:
        return Gauges(
            links=self._status.states(),
            queue=len(self._queue),
            calls=self._server.calls,
            vnis=sum(link.vni is not None for link in self._store.links.cache.all()),
            sandboxes=len(self._journal.entries()),
            journal_deferred=self._journal.deferred,
            journal_unreadable=len(self._journal.unreadable()),
            tunnels=self._silence.counts(),
            tunnel_unproven=self._silence.longest_unproven(),
        )

    # Composition. Each part is made once, by `__init__`.

    def _connect(self) -> ApiServer:
        return connect(
            self._settings.kubeconfig,
            patience=PATIENCE_SECONDS,
            observer=lambda method, _path, status, seconds: self._metrics.api(method, status, seconds),
        )

    def _make_announcer(self) -> Announcer:
        return Announcer(
            self._api.patient(PATIENCE_SECONDS),
            self._settings.node_name,
            self._metrics,
            events=self._settings.events,
            readiness=self._settings.readiness,
            foreground=self._foreground,
        )

    def _make_informers(self) -> Informers:
        settings = self._settings
        store = ApiStore(
            self._api.with_timeout(SELECTION_SECONDS),
            settings.namespace,
            settings.vni_range,
            use_topologies=settings.topologies,
            topology_limits=settings.topology_limits,
            annotation_limits=settings.annotation_limits,
        )
        handler = ChangeHandler(self._journal, self._queue, self._verified, self._announcer, self._operations)
        budget = DeclarationBudget(settings.declaration_memory_bytes)
        return Informers(store, settings.node_name, handler, self._foreground, budget)

    def _make_resync(self) -> Resync:
        node, links = self._settings.node_name, (self._queue, self._verified)
        return Resync(node, self._api, self._journal, self._store, self._informers, *links)

    def _make_service(self) -> CallService:
        return CallService(
            self._settings,
            self._journal,
            self._store,
            self._underlays,
            self._metrics,
            self._announcer,
            self._queue,
            self._foreground,
            self._verified,
            self._interrupts,
            self._health.note,
            self._panel,
            self._operations,
        )

    def _make_status(self) -> LinkStatus:
        parts = self._journal, self._store, self._announcer, self._metrics, self._service, self._liveness
        return LinkStatus(self._settings.node_name, *parts)

    def _make_health(self) -> AgentHealth:
        parts = self._informers, self._heartbeat, self._queue, self._journal
        return AgentHealth(*parts, self._guard, self._port, self._panel, self._carrier)

    def _make_workers(self) -> Workers:
        store = self._store.patient(WORKER_PATIENCE_SECONDS)
        node, journal, underlays = self._settings.node_name, self._journal, self._underlays
        handover = Handover(node, store, underlays)
        membership = Membership(journal, store, self._announcer, self._service, self._queue, handover)
        controller = LinkController(
            *(node, journal, store, underlays),
            EndFailures(store, self._journal, self._announcer),
            self._service,
            membership,
            self._liveness,
            LostPeers(self._journal, self._store, self._heartbeat),
            self._status,
            self._queue,
            OperationStatus(journal, store, self._operations, self._announcer),
            self._verified,
        )
        return Workers(self._queue, controller, membership, self._foreground, self._metrics)

    def _make_periodic(self) -> PeriodicWork:
        settings, links = self._settings, self._store.links.cache
        vnis = VniCheck(settings.node_name, links, self._store.vnis, self._workers.controller)
        parts = self._informers, self._queue, self._verified, self._health, self._guard, self._port, self._panel
        reports = self._silence, self._node_events
        return PeriodicWork(self._journal, self._resync, settings.resync, vnis, *parts, *reports)

    def _make_http(self) -> HttpServer:
        parts = self._journal, self._store, self._underlays, self._foreground, self._carrier, self._operations
        inspector = Inspector(self._settings.node_name, *parts)
        pages = public_pages(self._metrics, self._health, inspector, self._silence)
        return HttpServer("metrics", self._settings.metrics_addr, pages, PUBLIC_LIMITS)


def run(settings: Settings) -> int:
    """Run an agent in this process until a signal stops it. The process ends with the agent's exit status."""
    configure(settings.log_format, settings.log_level)
    status = Agent(settings).run()
    logging.shutdown()
    sys.stderr.flush()
    # Informer threads wait for the network, so the process does not wait for them.
    os._exit(status)
