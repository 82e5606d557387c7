"""How a pod that starts gets its links: which ends are its own, all of them joined, each taken as far as it goes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence

from ratchet.core.intent import (
    PAIR_NAME,
    PRIMARY,
    Wanted,
    WantedLink,
    absence,
    is_primary,
    setting,
    superseding,
    unknown_settings,
    wanted_links,
)
from ratchet.core.model import End, Pod, PodRef, Side
from ratchet.core.plan import Attempt, Done, Site
from ratchet.errors import PeerMissingError, SupersededError
from ratchet.node.reconciler import Reconciler
from ratchet.store.follow import follow
from ratchet.store.records import PodChange, Records

log = logging.getLogger(__name__)

OwnEnd = tuple[WantedLink, Side]


def own_ends(records: Records, pod: Pod, reserved: Collection[str], until: float) -> list[OwnEnd]:
    """The ends of links that are this pod's, as the namespace's pods declare them now.

    A pod that says `ratchet.primary: "false"` expects to be named: for it this waits until `until` (monotonic
    seconds). Raises InvalidIntentError for what this pod may not ask for, SupersededError where another pod has taken
    its name, PeerMissingError where nobody names it.
    """
    pods, version = records.pods_and_version(pod.ref.namespace)
    wanted = wanted_links(pods, reserved)
    _complain(pod, wanted)
    ends = list(wanted.ends_of(pod))
    if ends or is_primary(pod) is None:
        return ends
    if usurper := superseding(pod, pods):
        raise SupersededError(f"cannot link pod {pod.ref}: pod {usurper.ref} is newer and goes by the same name")
    return _ends_once_named(records, pod, reserved, until, pods, version)


def link_all(reconciler: Reconciler, attempts: Sequence[Attempt], site: Site, until: float) -> list[End]:
    """Join every link, then take each end as far as it goes, until all stand or `until` (monotonic seconds) is past.

    The ends as they were joined, in the order of the attempts. Raises PeerMissingError that names every peer that was
    waited for, and what it waits for itself.
    """
    if not attempts:
        return []
    # All joined before any is waited for: two pods that each wait for the other's first link would wait for ever.
    joined = [reconciler.join(attempt, site) for attempt in attempts]
    waiting = {attempt.name: attempt for attempt in attempts}
    for names in _changes_of(reconciler.records, attempts[0].sandbox.pod, joined[0].resource_version, until):
        for name in list(waiting) if names is None else names & waiting.keys():
            if isinstance(reconciler.settle(waiting[name], site), Done):
                log.info("link %s stands at its %s", name, waiting[name].side)
                del waiting[name]
        if not waiting:
            return [record.end(attempt.side) for record, attempt in zip(joined, attempts, strict=True)]
    raise _peers_missing(reconciler.records, list(waiting.values()))


def _changes_of(records: Records, pod: PodRef, version: str, until: float) -> Iterator[set[str] | None]:
    """The names of a pod's records as they change; None, first of all, where any of them may have changed."""
    yield None
    for name in follow(
        watch=lambda version, seconds: records.link_changes(pod.namespace, pod.name, version, seconds),
        renew=lambda: records.links_of_pod(pod.namespace, pod.name)[1],
        version=version,
        until=until,
    ):
        if name != "":
            yield None if name is None else {name}


def _ends_once_named(
    records: Records, pod: Pod, reserved: Collection[str], until: float, pods: list[Pod], version: str
) -> list[OwnEnd]:
    log.info("pod %s waits to be named as the pair of a link", pod.ref)
    known = {one.ref.name: one for one in pods}

    def renew() -> str:
        pods, version = records.pods_and_version(pod.ref.namespace)
        known.clear()
        known.update((one.ref.name, one) for one in pods)
        return version

    def watch(version: str, seconds: float) -> Iterator[tuple[PodChange | None, str]]:
        return records.pod_changes(pod.ref.namespace, version, seconds)

    for change in follow(watch, renew, version, until):
        if change is not None:
            change.apply_to(known)
        if ends := list(wanted_links(known.values(), reserved).ends_of(pod)):
            return ends
    refused = wanted_links(known.values(), reserved).refused.values()
    raise PeerMissingError(
        f"cannot link pod {pod.ref}: no pod in its namespace names it in {PAIR_NAME}",
        details="; ".join(str(error) for error in refused)[:1000]
        or f"create the pod that names it, or take {PRIMARY} off it so that it does not wait",
    )


def _complain(pod: Pod, wanted: Wanted) -> None:
    """Raise what this pod was refused; warn of what looks like a slip, in it or in a pod that means it."""
    if refusal := wanted.refused.get(pod.ref.uid):
        raise refusal
    for key in unknown_settings(pod):
        log.warning("pod %s has the label or annotation %s, which means nothing to ratchet", pod.ref, key)
    if setting(pod, PAIR_NAME) is not None and not is_primary(pod):
        log.warning('pod %s has %s and not %s: "true": it declares no link', pod.ref, PAIR_NAME, PRIMARY)
    for refusal in wanted.refused.values():
        log.warning("a link of another pod of the namespace was refused: %s", refusal)


def _peers_missing(records: Records, waiting: Sequence[Attempt]) -> PeerMissingError:
    pods = records.pods(waiting[0].sandbox.pod.namespace)
    missing = []
    for attempt in waiting:
        peer = attempt.wanted.end(attempt.side.other)
        missing.append(f"pod {peer.name} ({attempt.name}): {absence(peer.name, pods, peer.ifname)}")
    return PeerMissingError(
        f"cannot link pod {waiting[0].sandbox.pod}: its peer has not come: {'; '.join(missing)}",
        details="the runtime will try again; `ratchet links` shows what each link waits for",
    )
