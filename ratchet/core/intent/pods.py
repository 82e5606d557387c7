"""What a pod says of itself, and which pod is meant by a name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from ratchet.core.escape import excerpt
from ratchet.core.model import Pod
from ratchet.errors import InvalidIntentError

ENABLED = "ratchet"
POD_NAME = "ratchet.pod_name"
PRIMARY = "ratchet.primary"
WAIT = "ratchet.wait"
# The kubelet gives a sandbox four minutes, in which the delegates and the way back need their share.
WAIT_MAX_SECONDS = 150.0
_SECONDS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def setting(pod: Pod, key: str) -> str | None:
    """What the pod says under `key`: the annotation where there is one, else the label."""
    return pod.annotations.get(key, pod.labels.get(key))


def refusal(pod: Pod, key: str, cause: object) -> InvalidIntentError:
    """The error of a pod that may not say what it says under a key; `cause` names the place in it."""
    name = key.partition(":")[0]
    return InvalidIntentError(
        f"cannot link pod {pod.ref}: {key}: {cause}", details=f"mend the label or annotation {name} of pod {pod.ref}"
    )


def asks_for_links(pod: Pod) -> bool:
    """`ratchet: "true"`, in any case. In 2017 the label's mere presence was enough."""
    return (setting(pod, ENABLED) or "").strip().lower() == "true"


def meant_name(pod: Pod) -> str:
    """The name by which other pods mean this one."""
    return setting(pod, POD_NAME) or pod.ref.name


def names_of(pod: Pod) -> set[str]:
    """The names that other pods and topologies can use for a pod."""
    return {pod.ref.name, meant_name(pod)}


def is_primary(pod: Pod) -> bool | None:
    """True: its labels declare a link. False: it expects to be named by another. None: it takes what names it.

    Raises InvalidIntentError for any other word.
    """
    said = setting(pod, PRIMARY)
    if said is None:
        return None
    words = {"true": True, "false": False}
    if said.strip().lower() not in words:
        raise refusal(pod, PRIMARY, f'"{excerpt(said)}" is neither "true" nor "false"')
    return words[said.strip().lower()]


def wait_of(pod: Pod) -> float | None:
    """For how many seconds the pod's start may be held for its peers; None where it does not say.

    Raises InvalidIntentError for what is no number of seconds between 0 and 150: kubelets give up at 240.
    """
    said = setting(pod, WAIT)
    if said is None:
        return None
    if not _SECONDS.fullmatch(said.strip()) or float(said) > WAIT_MAX_SECONDS:
        raise refusal(pod, WAIT, f'"{excerpt(said)}" is not a number of seconds from 0 to {WAIT_MAX_SECONDS:.0f}')
    return float(said)


def seniority(pod: Pod) -> tuple[datetime, str, str]:
    """By which pods are put in order, the oldest first."""
    return (pod.created or _LONG_AGO, pod.ref.name, pod.ref.uid)


def holders(eligible: Iterable[Pod]) -> dict[str, Pod]:
    """For each name the pod that it means: of those that answer to it, the newest that is not being deleted."""
    found: dict[str, Pod] = {}
    for pod in eligible:
        for name in names_of(pod):
            holder = found.get(name)
            if holder is None or _precedence(holder) < _precedence(pod):
                found[name] = pod
    return found


def absence(name: str, pods: Iterable[Pod], ifname: str) -> str:
    """Why the pod that is meant by `name` has not joined its end of a link yet, in words for a person."""
    called = _called(name, pods)
    pod = _holder(name, called)
    if pod is None:
        if not called:
            return "there is no such pod"
        other = called[0]
        return f"it is {other.phase}" if asks_for_links(other) else f'it is not labelled {ENABLED}: "true"'
    if pod.deleting:
        return "it is being deleted"
    if not pod.node:
        return "it is not scheduled"
    return f"it is scheduled on {pod.node} and its {ifname} has not been asked for yet"


def _called(name: str, pods: Iterable[Pod]) -> list[Pod]:
    return [pod for pod in pods if name in names_of(pod)]


def _holder(name: str, pods: Iterable[Pod]) -> Pod | None:
    """The pod that a name means, if there is one."""
    return holders(pod for pod in _called(name, pods) if asks_for_links(pod) and not pod.finished).get(name)


def _precedence(pod: Pod) -> tuple[bool, tuple[datetime, str, str]]:
    return (not pod.deleting, seniority(pod))
