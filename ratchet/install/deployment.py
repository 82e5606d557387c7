"""Whether the installer's DaemonSet is deleted. Only then may the installer's pod uninstall the plugin at its end.

Anything but a clear answer is unknown, and nothing is uninstalled because of an unknown DaemonSet:

| answer of the API server | state |
|---|---|
| the DaemonSet, also with another UID: it was created again, and its pods take over | deployed |
| the DaemonSet with a deletionTimestamp, which cannot be taken back | deleting |
| 404 with a Status of the API server | absent |
| 401, 403, 5xx, a timeout, another object, anything that does not parse, a 404 of a proxy | unknown |

The API server authenticates and authorizes a request before it looks for the object. So a 404 also shows that the
account works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from ratchet.errors import RatchetError
from ratchet.store.api_errors import NotFoundError
from ratchet.store.apiserver import ApiServer

# `kubectl replace --force` deletes a DaemonSet and creates it again, so one 404 is not enough.
CONFIRMATIONS = 2
# With the retries of each request (`patience`), all attempts fit into the pod's terminationGracePeriodSeconds, 30 s.
ATTEMPTS = 5
PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 3.0


class State(Enum):
    """What one answer of the API server says about a DaemonSet."""

    DEPLOYED = auto()
    DELETING = auto()
    ABSENT = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a DaemonSet is deleted, None if that is unknown; and the reason for the log."""

    deleted: bool | None
    reason: str


def decide(states: Sequence[State]) -> bool | None:
    """Whether the DaemonSet is deleted, from all states so far, in their order. None if that is still unknown."""
    if not states or states[-1] is State.UNKNOWN:
        return None
    if states[-1] is not State.ABSENT:
        return states[-1] is State.DELETING
    return True if list(states[-CONFIRMATIONS:]) == [State.ABSENT] * CONFIRMATIONS else None


def find_verdict(api: ApiServer, daemon_set: str, pause: Callable[[float], object]) -> Verdict:
    """Ask the API server for a DaemonSet (`namespace/name`) until the verdict is clear, ATTEMPTS times at most.

    `pause` waits for a number of seconds.
    """
    states: list[State] = []
    reason = ""
    for _ in range(ATTEMPTS):
        if states:
            pause(PAUSE_SECONDS)
        state, reason = _ask(api, daemon_set)
        states.append(state)
        deleted = decide(states)
        if deleted is not None:
            return Verdict(deleted, reason)
    return Verdict(deleted=None, reason=f"cannot tell whether it is deleted: {reason}")


def _ask(api: ApiServer, daemon_set: str) -> tuple[State, str]:
    """The state of a DaemonSet, and the reason."""
    namespace, _, name = daemon_set.partition("/")
    try:
        found = api.get(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}")
    except NotFoundError:
        return State.ABSENT, "it is deleted"
    except RatchetError as error:
        return State.UNKNOWN, str(error)
    metadata = found.get("metadata")
    if found.get("kind") != "DaemonSet" or not isinstance(metadata, dict) or metadata.get("name") != name:
        return State.UNKNOWN, "the API answered with another object"
    if metadata.get("deletionTimestamp"):
        return State.DELETING, "it is being deleted"
    return State.DEPLOYED, "it is deployed"
