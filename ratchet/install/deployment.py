"""Whether the installer's DaemonSet is deleted. Only then may the installer's pod uninstall the plugin at its end.

An answer of the API server says one of four things:

| answer | state |
|---|---|
| the DaemonSet, also with another UID: it was created again, and its pods take over | deployed |
| the DaemonSet with a deletionTimestamp, which cannot be taken back | deleting |
| 404 with a Status of the API server | absent |
| 401, 403, 5xx, a timeout, another object, anything that does not parse, a 404 of a proxy | unknown |

The API server authenticates and authorizes a request before it looks for the object. So a 404 also shows that the
account works. It does not show that the name is right, so only a DaemonSet that was seen before can be deleted.

If the whole deployment is deleted at once, the account goes before the DaemonSet. Requests are then denied, and only a
watch that was open before still reports the deletion: the API server authorizes a watch once, at its start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NoReturn

from ratchet.errors import RatchetError
from ratchet.store.api_errors import NotFoundError
from ratchet.store.apiserver import WATCH_SECONDS, ApiServer
from ratchet.store.session import Json

log = logging.getLogger(__name__)

# `kubectl replace --force` deletes a DaemonSet and creates it again, so one answer is not enough.
CONFIRMATIONS = 2
# With the retries of each request (`patience`), all attempts fit into the pod's terminationGracePeriodSeconds, 30 s.
ATTEMPTS = 5
PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 3.0
RETRY_SECONDS = 30.0


class State(Enum):
    """What one answer of the API server says about a DaemonSet."""

    DEPLOYED = auto()
    DELETING = auto()
    ABSENT = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Seen:
    """What the installer has seen of its DaemonSet: that it existed, and that it was deleted since."""

    existed: bool = False
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a DaemonSet is deleted, None if that is unknown; and the reason for the log."""

    deleted: bool | None
    reason: str


def decide(states: Sequence[State], seen: Seen) -> bool | None:
    """Whether the DaemonSet is deleted, from all states so far, in their order. None if that is still unknown."""
    last = states[-CONFIRMATIONS:]
    if State.DEPLOYED in last:
        return False
    if State.DELETING in last:
        return True
    is_gone = seen.deleted or (seen.existed and set(last) == {State.ABSENT})
    return True if is_gone and len(last) == CONFIRMATIONS else None


@dataclass(slots=True)
class DeploymentWatch:
    """Watches a DaemonSet (`namespace/name`) in a thread, and says at the end whether it is deleted."""

    api: ApiServer
    daemon_set: str
    seen: Seen = field(default=Seen(), init=False)

    def run(self, pause: Callable[[float], object] = time.sleep) -> NoReturn:
        """Watch until the process ends. An error is logged once and retried."""
        logged = ""
        while True:
            try:
                self.watch_once()
                logged = ""
                pause(PAUSE_SECONDS / 4)  # a server or proxy may end each watch at once
            except (RatchetError, ValueError, LookupError, TypeError) as error:
                if str(error) != logged:
                    log.warning("DaemonSet not watched daemonset=%s cause=%s", self.daemon_set, error)
                logged = str(error)
                pause(RETRY_SECONDS)

    def watch_once(self) -> None:
        """Read the DaemonSet and watch it until the stream ends. Raises RatchetError; for a malformed event, others."""
        path, name = _collection(self.daemon_set)
        found = self.api.get(f"{path}/{name}")
        self._note(_state(found, name))
        version = found["metadata"]["resourceVersion"]
        for event in self.api.watch(path, version, WATCH_SECONDS, fieldSelector=f"metadata.name={name}"):
            if event.type == "DELETED":
                self.seen = Seen(existed=True, deleted=True)
            elif event.type != "BOOKMARK":
                self._note(_state(event.object, name))

    def find_verdict(self, pause: Callable[[float], object]) -> Verdict:
        """Ask the API server until the verdict is clear, ATTEMPTS times at most. `pause` waits for some seconds."""
        states: list[State] = []
        reason = ""
        for _ in range(ATTEMPTS):
            if states:
                pause(PAUSE_SECONDS)
            state, reason = _ask(self.api, self.daemon_set)
            states.append(state)
            deleted = decide(states, self.seen)
            if deleted is not None:
                return Verdict(deleted, reason)
        return Verdict(deleted=None, reason=f"cannot tell whether it is deleted: {reason}")

    def _note(self, state: State) -> None:
        if state in (State.DEPLOYED, State.DELETING):
            self.seen = Seen(existed=True, deleted=state is State.DELETING)


def _ask(api: ApiServer, daemon_set: str) -> tuple[State, str]:
    """The state of a DaemonSet, and the reason."""
    path, name = _collection(daemon_set)
    try:
        state = _state(api.get(f"{path}/{name}"), name)
    except NotFoundError as error:
        return State.ABSENT, str(error)
    except RatchetError as error:
        return State.UNKNOWN, str(error)
    return state, _REASONS[state]


_REASONS = {
    State.DEPLOYED: "it is deployed",
    State.DELETING: "it is being deleted",
    State.UNKNOWN: "the API answered with another object",
}


def _state(found: Json, name: str) -> State:
    metadata = found.get("metadata")
    if found.get("kind") != "DaemonSet" or not isinstance(metadata, dict) or metadata.get("name") != name:
        return State.UNKNOWN
    return State.DELETING if metadata.get("deletionTimestamp") else State.DEPLOYED


def _collection(daemon_set: str) -> tuple[str, str]:
    """The path of the DaemonSets of a namespace, and the name."""
    namespace, _, name = daemon_set.partition("/")
    return f"/apis/apps/v1/namespaces/{namespace}/daemonsets", name
