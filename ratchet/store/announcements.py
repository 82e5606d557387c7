"""Events and the condition of pods, for users and for readiness gates.

No link depends on them, and they are never read.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from enum import StrEnum

from ratchet.core.pod import PodRef
from ratchet.errors import ConflictError, RatchetError
from ratchet.store.api_errors import AlreadyExistsError
from ratchet.store.apiserver import STRATEGIC_MERGE_PATCH, ApiServer

LINKED_CONDITION = "ratchet/linked"
"""The type of the condition.

A pod with it in `spec.readinessGates` is ready only when its links are ready.
"""

MESSAGE_LENGTH = 1024
_NAME_LENGTH = 253


class EventType(StrEnum):
    """The type of an Event (core/v1, Event.type)."""

    NORMAL = "Normal"
    WARNING = "Warning"


def record_event(
    api: ApiServer,
    pod: PodRef,
    reason: str,
    message: str,
    kind: EventType,
    *,
    now: datetime,
    component: str = "ratchet",
    host: str = "",
) -> None:
    """Create an Event of a pod at `now`. `reason` is one word in CamelCase.

    `component` and the node `host` are the Event's source. Raises RatchetError; NotFoundError if the namespace is gone.
    """
    moment = _moment(now)
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": _event_name(pod), "namespace": pod.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
        },
        "reason": reason,
        "message": message[:MESSAGE_LENGTH],
        "type": kind.value,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "source": {"component": component, "host": host},
        "reportingComponent": component,
        "reportingInstance": host,
    }
    try:
        api.create(f"/api/v1/namespaces/{pod.namespace}/events", event)
    except AlreadyExistsError:
        return  # the response to an earlier try was lost: the name is random


def set_condition(api: ApiServer, pod: PodRef, status: bool, reason: str, message: str, since: datetime) -> None:
    """Set the condition `ratchet/linked` of a pod, with `since` as its transition time.

    `reason` is one word in CamelCase. Raises ConflictError if another pod has the name, NotFoundError if none has it.
    """
    condition = {
        "type": LINKED_CONDITION,
        "status": "True" if status else "False",
        "reason": reason,
        "message": message[:MESSAGE_LENGTH],
        "lastTransitionTime": _moment(since),
        "lastProbeTime": None,
    }
    patch = {"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/status"
    try:
        api.patch(path, patch, STRATEGIC_MERGE_PATCH)
    except ConflictError:
        raise
    except RatchetError as refused:
        # The API takes another UID for a change of an immutable field (422). For the caller it is a conflict.
        if "metadata.uid: Invalid value" not in str(refused):
            raise
        raise ConflictError(f"cannot set {LINKED_CONDITION} of {pod}: another pod has its name") from refused


def _event_name(pod: PodRef) -> str:
    """A unique name for an Event, as in client-go: the pod's name, shortened, and a random number."""
    suffix = f".{secrets.token_hex(8)}"
    return pod.name[: _NAME_LENGTH - len(suffix)].rstrip("-.") + suffix


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
