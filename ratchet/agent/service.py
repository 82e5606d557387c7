"""The service of CNI calls in the agent: the commands of the daemonless plugin, on cached records."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ratchet.agent.announce import Announcer
from ratchet.agent.events import Reason
from ratchet.agent.frame import Reply, Request
from ratchet.agent.logs import about, from_here_about
from ratchet.agent.metrics import Metrics
from ratchet.agent.panel import NodePanel
from ratchet.agent.priority import ForegroundGate
from ratchet.agent.queue import ReconcileQueue
from ratchet.agent.settings import Settings
from ratchet.agent.underlay import Underlays
from ratchet.cni.answer import encode
from ratchet.cni.arguments import Arguments
from ratchet.cni.command import Command
from ratchet.cni.config import NetworkConfig
from ratchet.cni.plugin_keys import AGENT_WAIT_SECONDS, PLUGIN_KEYS
from ratchet.core.pod import PodRef
from ratchet.errors import AddressFamilyError, ApiUnavailableError, InvalidIntentError, RatchetError
from ratchet.node.call import Call
from ratchet.node.dispatch import dispatch
from ratchet.node.interrupts import Interrupts
from ratchet.node.journal import Attachment, Journal, SandboxEntry, since_boot
from ratchet.node.overrides import Overrides
from ratchet.node.response import Response, failure, log_keys, parse, version
from ratchet.node.verified import VerifiedEnds
from ratchet.store.cached_store import CachedStore
from ratchet.store.interface import Store

log = logging.getLogger(__name__)

# Keys of the network configuration that the agent ignores, because it has settings of its own.
_OWN = tuple(key.name for key in PLUGIN_KEYS if key.daemonless_only)

# Configurations whose ignored keys are remembered as logged.
LOGGED_KEYS_MAX = 1000
_COMMANDS = frozenset(one.value for one in Command)


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A call to serve, and the sandboxes that it may delete."""

    call: Call
    deletes: list[SandboxEntry]


@dataclass(frozen=True, slots=True)
class CallService:
    """Serves the runtime's calls.

    After a call, its links and its pod are queued for the workers. `verified` has the ends that are up then.
    `interrupts` counts the calls that undo something. `node_note` returns what STATUS logs of the node. `panel` is
    opened before an ADD is served, because the shim has just made it. `overrides` has the operations on links.
    """

    settings: Settings
    journal: Journal
    store: CachedStore
    underlays: Underlays
    metrics: Metrics
    announcer: Announcer
    queue: ReconcileQueue
    foreground: ForegroundGate
    verified: VerifiedEnds
    interrupts: Interrupts
    node_note: Callable[[], str]
    panel: NodePanel
    overrides: Overrides
    _adding: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _logged_keys: set[tuple[object, ...]] = field(default_factory=set)

    @contextmanager
    def serve(self, request: Request) -> Iterator[Reply]:
        """The reply to a call of a shim. The block sends it; the work that follows from the call is queued after it."""
        with self.foreground.at_work(), self._served(request, self._connect) as reply:
            yield reply

    def serve_alone(self, request: Request) -> Reply:
        """The reply to a call that is served without the API. The workers update the records later.

        No shim waits for the reply, so the call has no time budget.
        """
        with self._served(request, _no_api, timed_from=float("inf")) as reply:
            return reply

    def is_adding(self, container_id: str) -> bool:
        """Whether an ADD of this container runs. Until it ends, only that call changes the container's links."""
        return self._adding[container_id] > 0

    @contextmanager
    def _served(
        self, request: Request, connect: Callable[[float], Store], timed_from: float | None = None
    ) -> Iterator[Reply]:
        began, variables = time.monotonic(), request.variables
        with about(command=variables.get("CNI_COMMAND"), sandbox=variables.get("CNI_CONTAINERID")):
            accepted = self._accept(request, connect, timed_from)
            if not isinstance(accepted, _Accepted):
                yield self._encode(request, accepted, began)
                return
            with self._followed_up(accepted):
                response = self._serve(accepted.call, request)
                yield self._encode(request, response, began)
                if response[0] == 0:
                    self._log_success(accepted.call.arguments.command)

    def _accept(
        self, request: Request, connect: Callable[[float], Store], timed_from: float | None
    ) -> _Accepted | Response:
        """Parse a request. Returns the call to serve, or the response: an error, or the result of VERSION."""
        called_at = min(request.began, since_boot())
        try:
            arguments, network = parse(request.variables, request.stdin)
            if network is None:
                return 0, version(request.stdin)
            call = self._call(arguments, network, called_at, connect, timed_from)
            if arguments.pod_name:
                from_here_about(_pod(arguments))
            self._log_ignored_keys(network)
            log.debug("%s received", arguments.command)
            return _Accepted(call, self._about_to_go(call))
        except Exception as error:  # noqa: BLE001  # logged, and returned to the runtime
            return failure(error, request.stdin)

    def _call(
        self,
        arguments: Arguments,
        network: NetworkConfig,
        called_at: float,
        connect: Callable[[float], Store],
        timed_from: float | None,
    ) -> Call:
        settings = self.settings
        wait = settings.wait if network.wait is None else network.wait
        require = (network.wait_policy or settings.wait_policy) == "require"
        return Call(
            replace(arguments, root=settings.host_root),
            network,
            self.journal,
            connect,
            called_at,
            wait=AGENT_WAIT_SECONDS if wait is None else wait,
            require=require,
            waits_for_cables=require or wait is not None,
            find_underlay=self.underlays,
            node=settings.node_name,
            verified=self.verified,
            timed_from=timed_from,
            interrupts=self.interrupts,
            overrides=self.overrides,
        )

    def _serve(self, call: Call, request: Request) -> Response:
        try:
            if call.arguments.command is Command.ADD:
                self.panel.hold()
            return 0, self._dispatch(call)
        except Exception as error:  # noqa: BLE001  # logged, and returned to the runtime
            return failure(error, request.stdin)

    def _dispatch(self, call: Call) -> dict[str, Any] | None:
        try:
            return dispatch(call)
        except (AddressFamilyError, InvalidIntentError) as error:
            self.announcer.event(_pod(call.arguments), Reason.of(error), str(error))
            raise

    def _encode(self, request: Request, response: Response, began: float) -> Reply:
        """Encode a response, and count the call, which `began` at this time (monotonic seconds)."""
        status, result = response
        code = int(result.get("code", 0)) if status and result else 0
        command = request.variables.get("CNI_COMMAND", "")
        self.metrics.call(command if command in _COMMANDS else "unknown", code, time.monotonic() - began)
        return Reply(status, encode(result))

    def _log_success(self, command: Command) -> None:
        """Log a call that succeeded. STATUS names what the node lacks for tunnels, without which pods start.

        Runtimes call STATUS every few seconds, and the agent has logged a fault as such when it found it.
        """
        note = self.node_note() if command is Command.STATUS else ""
        log.info("%s succeeded%s", command, f' note="{note}"' if note else "")

    @contextmanager
    def _followed_up(self, accepted: _Accepted) -> Iterator[None]:
        """Leave the links of an ADD to the call while the block runs. Queue the call's links and pods after it."""
        adding = accepted.call.attachment if accepted.call.arguments.command is Command.ADD else None
        if adding is not None:
            with self._lock:
                self._adding[adding.container_id] += 1
        try:
            yield
        finally:
            self._follow_up(accepted, adding)

    def _follow_up(self, accepted: _Accepted, adding: Attachment | None) -> None:
        if adding is not None:
            with self._lock:
                self._adding[adding.container_id] -= 1
                if not self._adding[adding.container_id]:
                    del self._adding[adding.container_id]
        added = self.journal.read(adding) if adding is not None else None
        for entry in [*accepted.deletes, *([added] if added else [])]:
            for end in entry.ends:
                self.queue.enqueue_link(end.link)
            if entry.asks and entry.pod:
                self.queue.enqueue_pod(entry.pod.namespace, entry.pod.name)

    def _about_to_go(self, call: Call) -> list[SandboxEntry]:
        """The sandboxes that the call may delete."""
        if call.arguments.command is Command.GC:
            return self.journal.entries()
        if call.arguments.command is not Command.DEL:
            return []
        try:
            return self.journal.to_delete(call.attachment)
        except RatchetError:  # DEL raises it again, and logs it
            return []

    def _log_ignored_keys(self, network: NetworkConfig) -> None:
        """Log the keys of a network configuration that have no effect, once per configuration."""
        overridden = tuple(key for key in _OWN if key in network.raw)
        logged = (network.name, network.ignored, network.unknown, overridden)
        if logged in self._logged_keys:
            return
        if len(self._logged_keys) < LOGGED_KEYS_MAX:
            self._logged_keys.add(logged)
        log_keys(network)
        if overridden:
            log.info("keys ignored, because the agent has its own settings keys=%s", ",".join(overridden))

    def _connect(self, patience: float) -> Store:
        return self.store.patient(patience)


def _pod(arguments: Arguments) -> PodRef:
    return PodRef(arguments.pod_namespace, arguments.pod_name, arguments.pod_uid)


def _no_api(_: float) -> Store:
    raise ApiUnavailableError("cannot use the API: a DEL from the spool is served without it, and the workers follow")
