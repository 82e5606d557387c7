"""What Ratchet says on pods for people and for Kubernetes: events, and the condition that a readiness gate waits for.

Neither is needed for a link to stand, and nothing is read back: what cannot be said is left unsaid.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from enum import StrEnum

from ratchet.core.model import PodRef
from ratchet.errors import ConflictError, RatchetError
from ratchet.store.apiserver import STRATEGIC_MERGE_PATCH, AlreadyExistsError, ApiServer

LINKED_CONDITION = "ratchet/linked"
"""The condition's type: what a pod has in `spec.readinessGates` to be ready only when its links stand."""

MESSAGE_LENGTH = 1024
_NAME_LENGTH = 253


class EventType(StrEnum):
    """What an event is to who reads it (core/v1, Event.type)."""

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
    """Have `kubectl describe pod` say what happened to a pod at `now`; `reason` is one word in CamelCase.

    `component` on the node `host` is who says it. Raises RatchetError, NotFoundError where the namespace is gone.
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
        return  # an earlier try of ours whose reply was lost: the name is a random one


def set_condition(api: ApiServer, pod: PodRef, status: bool, reason: str, message: str, since: datetime) -> None:
    """Set the pod's condition `ratchet/linked`, which has been so `since`; its other conditions stay as they are.

    `reason` is one word in CamelCase. Raises ConflictError where the pod of that name is another one by now,
    NotFoundError where there is none.
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
        # A UID that is not the object's is a change of an immutable field to the API (422), and a conflict to us.
        if "metadata.uid: Invalid value" not in str(refused):
            raise
        raise ConflictError(f"cannot set {LINKED_CONDITION} of {pod}: it is another pod by now") from refused


def _event_name(pod: PodRef) -> str:
    """A name of its own for an event, as client-go makes them: the pod's, cut where it is long, and a number."""
    suffix = f".{secrets.token_hex(8)}"
    return pod.name[: _NAME_LENGTH - len(suffix)].rstrip("-.") + suffix


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
