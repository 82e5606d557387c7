"""Settings of a pod, and which pod a name refers to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from ratchet.core.escape import excerpt
from ratchet.core.pod import LINKS as LINKS  # with the other keys
from ratchet.core.pod import Pod
from ratchet.errors import InvalidIntentError

ENABLED = "ratchet"
POD_NAME = "ratchet.pod_name"
PRIMARY = "ratchet.primary"
WAIT = "ratchet.wait"
# The kubelet allows four minutes for a sandbox. The delegates and the undo of a failed ADD need a part of them.
WAIT_MAX_SECONDS = 150.0
_SECONDS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_NOT_YET = datetime.max.replace(tzinfo=UTC)


def setting(pod: Pod, key: str) -> str | None:
    """The value of `key`: the annotation if there is one, else the label."""
    return pod.annotations.get(key, pod.labels.get(key))


def refusal(pod: Pod, key: str, cause: object) -> InvalidIntentError:
    """The error for an invalid value of a pod's key. `key` may have a place after a colon."""
    name = key.partition(":")[0]
    return InvalidIntentError(
        f"cannot link pod {pod.ref}: {key}: {cause}",
        details=f"correct the label or annotation {name} of pod {pod.ref}",
        place=f"{key} of pod {pod.ref}",
    )


def asks_for_links(pod: Pod) -> bool:
    """Whether the pod has `ratchet: "true"`, in upper or lower case. In 2017 any value was enough."""
    return (setting(pod, ENABLED) or "").strip().lower() == "true"


def meant_name(pod: Pod) -> str:
    """The name that declarations of other pods use for this one."""
    return setting(pod, POD_NAME) or pod.ref.name


def names_of(pod: Pod) -> set[str]:
    """The names that other pods and topologies can use for a pod."""
    return {pod.ref.name, meant_name(pod)}


def is_primary(pod: Pod) -> bool | None:
    """The value of PRIMARY; None if it is not set.

    True: the pod's labels declare a link. False: another declaration must name the pod.

    Raises InvalidIntentError for any other value.
    """
    text = setting(pod, PRIMARY)
    if text is None:
        return None
    words = {"true": True, "false": False}
    if text.strip().lower() not in words:
        raise refusal(pod, PRIMARY, f'invalid value "{excerpt(text)}": expected "true" or "false"')
    return words[text.strip().lower()]


def wait_of(pod: Pod) -> float | None:
    """The seconds that the pod's start may wait for its peers; None if not set.

    Raises InvalidIntentError if the value is not a number from 0 to WAIT_MAX_SECONDS.
    """
    text = setting(pod, WAIT)
    if text is None:
        return None
    if not _SECONDS.fullmatch(text.strip()) or float(text) > WAIT_MAX_SECONDS:
        raise refusal(pod, WAIT, f'invalid value "{excerpt(text)}": expected seconds from 0 to {WAIT_MAX_SECONDS:.0f}')
    return float(text)


def seniority(pod: Pod) -> tuple[datetime, str, str]:
    """Sort key of pods, the oldest first."""
    return (pod.created or _LONG_AGO, pod.ref.name, pod.ref.uid)


def holders(eligible: Iterable[Pod]) -> dict[str, Pod]:
    """The pod of each name: of all pods with that name, the newest that is not being deleted."""
    found: dict[str, Pod] = {}
    for pod in eligible:
        for name in names_of(pod):
            holder = found.get(name)
            if holder is None or _precedence(holder) < _precedence(pod):
                found[name] = pod
    return found


def absence(name: str, pods: Iterable[Pod], ifname: str) -> str:
    """Why the pod of this name has not joined its end of a link yet, in words for people."""
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
    if pod.host_network:
        return "it uses the host's network, which cannot have links"
    if pod.phase == "Running":
        return f"it runs on {pod.node} without {ifname}: restart it if it started before Ratchet was installed there"
    return f"it is scheduled on {pod.node} and its {ifname} has not been asked for yet"


def _called(name: str, pods: Iterable[Pod]) -> list[Pod]:
    return [pod for pod in pods if name in names_of(pod)]


def _holder(name: str, pods: Iterable[Pod]) -> Pod | None:
    """The pod that a name refers to, if there is one."""
    return holders(pod for pod in _called(name, pods) if asks_for_links(pod) and not pod.finished).get(name)


def _precedence(pod: Pod) -> tuple[bool, datetime, datetime, str, str]:
    """Sort key of pods that share a name, its holder last.

    The API gives creation times in seconds. A fast rollout creates two pods within one, so the sandboxes decide: the
    pod that waits for its network is newer than the one that has it.
    """
    created, name, uid = seniority(pod)
    networked = pod.networked or (_NOT_YET if pod.phase == "Pending" else _LONG_AGO)
    return (not pod.deleting, created, networked, name, uid)
