"""The agent, put together: what it knows, who works, in what order it starts and ends."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Collection
from dataclasses import replace
from types import FrameType

from ratchet.agent.announce import Announcer
from ratchet.agent.controller import LinkController
from ratchet.agent.heartbeat import Heartbeat
from ratchet.agent.http import HttpServer
from ratchet.agent.informers import Informers
from ratchet.agent.inspect import Inspector
from ratchet.agent.logs import about, configure
from ratchet.agent.membership import Membership
from ratchet.agent.metrics import Gauges, Metrics
from ratchet.agent.priority import ForegroundGate
from ratchet.agent.queue import WorkQueue
from ratchet.agent.rounds import Rounds
from ratchet.agent.server import Server
from ratchet.agent.service import CallService
from ratchet.agent.settings import Settings
from ratchet.agent.spool import Spool
from ratchet.agent.spool_replay import SpoolReplayer
from ratchet.agent.underlay import Underlays
from ratchet.agent.vni_check import VniCheck
from ratchet.errors import RatchetError
from ratchet.node.journal import Journal, SandboxEntry, boot_id
from ratchet.node.verified import VerifiedEnds
from ratchet.store.apiserver import connect
from ratchet.store.cache import CachedStore
from ratchet.store.records import PodChange, Records

log = logging.getLogger(__name__)

# The period of kernel checks in seconds, and the most links per second. A check sends no API request. Above
# OBSERVE_SECONDS * OBSERVE_RATE links the rate decides.
OBSERVE_SECONDS, OBSERVE_RATE = 30.0, 30.0
# Seconds. Between two looks at the clock; for DELs that were kept to go before all else; for a request in the
# background; without any answer from the API until the agent is not ready; without a look until it is not alive.
LOOK_SECONDS = 2.0
SPOOL_GOES_FIRST_SECONDS = 5.0
PATIENCE_SECONDS = 10.0
OUT_OF_TOUCH_SECONDS = 60.0
STUCK_SECONDS = 180.0
# Delay before a pod is reconciled, so that several changes are one reconciliation.
POD_SECONDS = 0.2
# Calls of the runtime are short, and what runs in the background must not hold them up: Python's own 5 ms are longer
# than a call.
SWITCH_SECONDS = 0.001
# gc.set_threshold(): Python's default (700, 10, 10) runs the collector every few requests, which took 5 % of a link's
# CPU. Almost no object here is part of a cycle.
COLLECTION_THRESHOLDS = 20_000, 20, 20
# Seconds that calls in a row may hold up a reconciliation, and an Event or a condition.
RECONCILE_WAITS_SECONDS = 0.3
ANNOUNCING_WAITS_SECONDS = 1.0

LINK, POD = "link", "pod"
# The kind, the namespace of a pod, and the name.
Key = tuple[str, str, str]


class Agent:
    """One node's agent. `run` serves until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._looked_at = time.monotonic()
        self._metrics = Metrics()
        api = connect(
            settings.kubeconfig,
            patience=PATIENCE_SECONDS,
            observer=lambda method, _path, status, seconds: self._metrics.api(method, status, seconds),
        )
        self._api = api
        plain = Records(api, settings.namespace, settings.vni_range, use_topologies=settings.topologies)
        self._journal = Journal(settings.state_dir, remembers=True)
        self._queue: WorkQueue[Key] = WorkQueue()
        self._foreground = ForegroundGate()
        self._verified = VerifiedEnds()
        self._informers = Informers(
            plain,
            settings.node_name,
            self._enqueue_link,
            self._enqueue_pods,
            self._pod_gone,
            self._foreground.waiting,
        )
        self._records = CachedStore(
            api,
            settings.namespace,
            settings.vni_range,
            self._informers.caches,
            use_topologies=settings.topologies,
        )
        self._underlays = Underlays(settings)
        self._heartbeat = Heartbeat(settings, self._records, self._underlays, self._node_changed, self._moved)
        self._announcer = Announcer(
            api.patient(PATIENCE_SECONDS),
            settings.node_name,
            self._metrics,
            events=settings.events,
            readiness=settings.readiness,
            foreground=self._foreground,
        )
        self._service = CallService(
            settings,
            self._journal,
            self._records,
            self._underlays,
            self._metrics,
            self._announcer,
            self._enqueue_link,
            self._enqueue_pod,
            self._foreground,
            self._verified,
        )
        self._membership = Membership(
            self._journal,
            self._records,
            self._announcer,
            self._service.is_adding,
            self._enqueue_link,
            self._enqueue_pod,
        )
        self._link_controller = LinkController(
            settings.node_name,
            self._journal,
            self._records,
            self._underlays,
            self._announcer,
            self._metrics,
            self._service.is_adding,
            self._heartbeat.is_lost,
            self._membership,
            self._verified,
        )
        self._vni_check = VniCheck(settings.node_name, self._records, self._assert_vni)
        self._inspector = Inspector(
            settings.node_name,
            self._journal,
            self._records,
            self._underlays,
            yield_to_calls=lambda: self._foreground.yield_to_calls(ANNOUNCING_WAITS_SECONDS),
        )
        self._replayer = SpoolReplayer(Spool(settings.spool_dir), self._service.serve_alone)
        self._server = Server(settings.socket, self._service.serve)
        self._metrics.gauges(self._gauges)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the process's exit status. Raises RatchetError where it cannot begin."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        sys.setswitchinterval(SWITCH_SECONDS)
        with (
            self._server,
            HttpServer(
                self._settings.metrics_addr,
                self._metrics,
                live=self._why_dead,
                ready=self._why_unready,
                look=self._inspector.look,
            ),
        ):
            self._take_up()
            self._server.start()
            log.info("serving node %s at %s", self._settings.node_name, self._settings.socket)
            gc.collect()
            gc.set_threshold(*COLLECTION_THRESHOLDS)
            gc.freeze()  # what is there now stays, and need not be looked through again and again
            self._keep_looking()
            self._end()
        return 0

    # Beginning and ending

    def _take_up(self) -> None:
        """Take up where an agent before this one has left, before any call is served."""
        former = [entry for entry in self._journal.entries() if entry.boot != boot_id()]
        for entry in former:
            self._forget_former_boot(entry)
        self._replayer.start(self._stopping, SPOOL_GOES_FIRST_SECONDS)
        self._informers.start()
        for number in range(self._settings.workers):
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True).start()
        self._enqueue_all()
        self._heartbeat.start(self._stopping)

    def _forget_former_boot(self, entry: SandboxEntry) -> None:
        """Its namespace went with the boot: it has no links any more. What delegates gave it is DEL's to give back."""
        with about(pod=entry.pod, sandbox=entry.attachment.container_id):
            log.info("its sandbox is of an earlier boot")
            for end in entry.ends:
                self._enqueue_link(end.link)
            self._journal.write(replace(entry, ends=(), asks=False, began=0.0))  # by this boot's clock it is long ago

    def _end(self) -> None:
        log.info("stopping; links stay as they are")
        if not self._server.stop(self._settings.drain_seconds):
            log.warning("%d calls are cut short", self._server.calls)
        self._queue.close()
        self._announcer.close(2.0)

    def _told_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    # Periodic work

    def _keep_looking(self) -> None:
        observations = Rounds[str](OBSERVE_SECONDS, OBSERVE_RATE, time.monotonic())
        resync = time.monotonic() + self._settings.resync
        vnis_checked = False
        while not self._stopping.wait(LOOK_SECONDS):
            now = self._looked_at = time.monotonic()
            if now >= resync:
                self._resync()
                resync = now + self._settings.resync
            elif not vnis_checked and self._informers.links_listed:
                vnis_checked = self._vni_check.list()
            self._vni_check.check_some()
            for link in observations.due(self._links, now):
                self._verified.forget(link)
                self._enqueue_link(link)

    def _resync(self) -> None:
        """Reconcile everything from the caches, which the informers keep up to date: nothing but Leases is listed."""
        try:
            self._journal.reload()
            self._records.known.keep_watched(self._settings.node_name)
            asking = {entry.pod.namespace for entry in self._journal.entries() if entry.asks and entry.pod}
            self._informers.keep_namespaces(asking)
            self._enqueue_all_pods()
        except Exception:
            log.exception("resync failed")
        self._vni_check.list()

    def _assert_vni(self, link: str) -> None:
        self._link_controller.doubt_vni(link)
        self._enqueue_link(link)

    # The workers

    def _work(self) -> None:
        while (key := self._queue.take()) is not None:
            self._foreground.yield_to_calls(RECONCILE_WAITS_SECONDS)
            kind, namespace, name = key
            try:
                if kind == LINK:
                    self._link_controller.reconcile(name)
                else:
                    self._membership.reconcile(namespace, name)
            except RatchetError as error:
                self._try_again(key, error)
            except Exception as fault:
                log.exception("reconciliation failed kind=%s name=%s", kind, name)
                self._try_again(key, fault)
            else:
                self._queue.done(key)

    def _try_again(self, key: Key, error: Exception) -> None:
        pause = self._queue.failed(key)
        self._metrics.retry(type(error).__name__)
        with about(link=key[2] if key[0] == LINK else None):
            log.warning("%s; trying again in %.1f s", error, pause)

    def _enqueue_link(self, link: str) -> None:
        self._queue.add((LINK, "", link))

    def _enqueue_pod(self, namespace: str, name: str) -> None:
        self._queue.add((POD, namespace, name), after=POD_SECONDS)

    def _enqueue_pods(self, namespace: str, names: Collection[str]) -> None:
        """Reconcile those of these pods that have a sandbox on this node."""
        for name in names:
            if self._journal.of_pod(namespace, name):
                self._enqueue_pod(namespace, name)

    def _enqueue_all_pods(self) -> None:
        for entry in self._journal.entries():
            if entry.asks and entry.pod:
                self._informers.namespace_cache(entry.pod.namespace)
                self._enqueue_pod(entry.pod.namespace, entry.pod.name)

    def _enqueue_all(self) -> None:
        """Reconcile every link and every pod of the node, also those that were verified before."""
        self._verified.forget_all()
        for name in self._links():
            self._enqueue_link(name)
        self._enqueue_all_pods()

    def _links(self) -> set[str]:
        """The links of this node: those that a sandbox holds, and those whose records name the node."""
        held = {end.link for entry in self._journal.entries() for end in entry.ends}
        return held | set(self._records.known.names())

    def _pod_gone(self, change: PodChange) -> None:
        self._announcer.forget(change.pod.ref.uid)
        ref = change.pod.ref
        for entry in self._journal.of_pod(ref.namespace, ref.name):
            if entry.pod == ref:
                for end in entry.ends:
                    self._verified.forget(end.link)  # its namespace may have gone with it
                    self._enqueue_link(end.link)

    def _moved(self) -> None:
        """This node's own side of tunnels is another: its address perhaps, from which it reaches the API too."""
        self._api.reconnect()
        self._enqueue_all()

    def _node_changed(self, node: str) -> None:
        for link in self._records.known.all():
            if node in link.nodes:
                self._enqueue_link(link.name)

    # What is told of the agent

    def _gauges(self) -> Gauges:
        return Gauges(
            links=self._link_controller.states(),
            queue=len(self._queue),
            calls=self._server.calls,
            vnis=sum(link.vni is not None for link in self._records.known.all()),
            sandboxes=len(self._journal.entries()),
        )

    def _why_dead(self) -> str | None:
        stuck = time.monotonic() - self._looked_at
        return f"the agent has not looked at anything for {stuck:.0f} s" if stuck > STUCK_SECONDS else None

    def _why_unready(self) -> str | None:
        if not self._informers.links_listed:
            return "the node's links have not been read yet"
        if forbidden := self._informers.forbidden_topologies():
            return f"{forbidden} ({forbidden.details})"
        silence = time.monotonic() - self._heartbeat.last_contact
        if silence == float("inf"):
            return "the API has not answered yet"
        if silence > OUT_OF_TOUCH_SECONDS:
            return f"the API has not answered for {silence:.0f} s"
        return None


def run(settings: Settings) -> int:
    """Run an agent in this process until it is told to stop; the exit status."""
    configure(settings.log_format, settings.log_level)
    status = Agent(settings).run()
    logging.shutdown()
    sys.stderr.flush()
    # Threads that watch wait for the network; nothing of theirs is worth waiting for.
    os._exit(status)
