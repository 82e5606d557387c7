"""The service of CNI calls in the agent: the commands of the daemonless plugin, on cached records."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ratchet.agent.announce import Announcer
from ratchet.agent.events import Reason
from ratchet.agent.frame import Reply, Request
from ratchet.agent.logs import about, from_here_about
from ratchet.agent.metrics import Metrics
from ratchet.agent.priority import ForegroundGate
from ratchet.agent.queue import ReconcileQueue
from ratchet.agent.settings import Settings
from ratchet.agent.underlay import Underlays
from ratchet.cni.arguments import Arguments, Command
from ratchet.cni.config import PLUGIN_KEYS, NetworkConfig
from ratchet.core.model import PodRef
from ratchet.errors import AddressFamilyError, ApiUnavailableError, InvalidIntentError, RatchetError
from ratchet.node.call import Call
from ratchet.node.dispatch import dispatch
from ratchet.node.journal import Attachment, Journal, SandboxEntry, since_boot
from ratchet.node.response import log_keys, respond
from ratchet.node.verified import VerifiedEnds
from ratchet.store.cache import CachedStore
from ratchet.store.records import Records

log = logging.getLogger(__name__)

# Keys of the network configuration that the agent ignores, because it has settings of its own.
_OWN = tuple(key.name for key in PLUGIN_KEYS if key.daemonless_only)

# Configurations whose ignored keys are remembered as logged.
LOGGED_KEYS_MAX = 1000
_COMMANDS = frozenset(one.value for one in Command)


@dataclass(slots=True)
class _Followed:
    """The attachment that a call adds, the sandboxes that it may delete, and whether it was `done`."""

    adding: Attachment | None = None
    going: list[SandboxEntry] = field(default_factory=list)
    done: bool = False


@dataclass(frozen=True, slots=True)
class CallService:
    """Serves the runtime's calls.

    After a call, its links and its pod are queued for the workers. `verified` has the ends that are up then.
    """

    settings: Settings
    journal: Journal
    records: CachedStore
    underlays: Underlays
    metrics: Metrics
    announcer: Announcer
    queue: ReconcileQueue
    foreground: ForegroundGate
    verified: VerifiedEnds
    _adding: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _logged_keys: set[tuple[object, ...]] = field(default_factory=set)

    @contextmanager
    def serve(self, request: Request) -> Iterator[Reply]:
        """The answer to a call that a shim brought.

        What is to be done because of the call is done as the block ends: nobody waits by then.
        """
        with self.foreground.at_work(), self._followed_up(request) as followed:
            yield self._answered(request, self._connect, followed)

    def serve_alone(self, request: Request) -> Reply:
        """The answer to a call, without the API. The workers update the records afterwards."""
        with self._followed_up(request) as followed:
            return self._answered(request, _no_api, followed)

    def is_adding(self, container_id: str) -> bool:
        """Whether an ADD of this container runs. Until it ends, only that call changes the container's links."""
        return self._adding[container_id] > 0

    def _answered(self, request: Request, connect: Callable[[float], Records], followed: _Followed) -> Reply:
        began = time.monotonic()
        called_at = min(request.began, since_boot())
        status, said = respond(request.variables, request.stdin, partial(self._serve, called_at, connect, followed))
        code = int(said.get("code", 0)) if status and said else 0
        command = request.variables.get("CNI_COMMAND", "")
        self.metrics.call(command if command in _COMMANDS else "unknown", code, time.monotonic() - began)
        return Reply(status, b"" if said is None else json.dumps(said).encode() + b"\n")

    def _serve(
        self,
        began: float,
        connect: Callable[[float], Records],
        followed: _Followed,
        arguments: Arguments,
        network: NetworkConfig,
    ) -> dict[str, Any] | None:
        settings = self.settings
        call = Call(
            replace(arguments, root=settings.host_root),
            network,
            self.journal,
            connect,
            began,
            wait=settings.wait if network.wait is None else network.wait,
            require=(network.wait_policy or settings.wait_policy) == "require",
            find_underlay=self.underlays,
            node=settings.node_name,
            verified=self.verified,
        )
        pod = PodRef(arguments.pod_namespace, arguments.pod_name, arguments.pod_uid)
        if pod.name:
            from_here_about(pod)
        self._log_ignored_keys(network)
        log.debug("called")
        followed.going += self._about_to_go(call)
        if arguments.command is Command.ADD:
            with self._lock:
                self._adding[arguments.container_id] += 1
            followed.adding = call.attachment
        try:
            said = dispatch(call)
        except (AddressFamilyError, InvalidIntentError) as error:
            self.announcer.event(pod, Reason.of(error), str(error))
            raise
        followed.done = True
        return said

    @contextmanager
    def _followed_up(self, request: Request) -> Iterator[_Followed]:
        """Have the links of a call tended once it is over, and left to it until then; and the log say what it is of."""
        followed = _Followed()
        variables = request.variables
        with about(command=variables.get("CNI_COMMAND"), sandbox=variables.get("CNI_CONTAINERID")):
            try:
                yield followed
                if followed.done:
                    log.info("done")
            finally:
                self._follow_up(followed)

    def _follow_up(self, followed: _Followed) -> None:
        adding = followed.adding
        if adding is not None:
            with self._lock:
                self._adding[adding.container_id] -= 1
                if not self._adding[adding.container_id]:
                    del self._adding[adding.container_id]
        added = self.journal.read(adding) if adding is not None else None
        for entry in [*followed.going, *([added] if added else [])]:
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

    def _connect(self, patience: float) -> Records:
        return self.records.patient(patience)


def _no_api(_: float) -> Records:
    raise ApiUnavailableError("cannot use the API: a DEL from the spool is served without it, and the workers follow")
