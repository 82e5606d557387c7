"""Attach a starting pod to its links: select its ends, join all of them, reconcile until they are up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from ratchet.core.intent import (
    LINKS,
    PAIR_NAME,
    PRIMARY,
    Wanted,
    WantedLink,
    absence,
    is_primary,
    meant_name,
    setting,
    unknown_settings,
    wanted_links,
)
from ratchet.core.interface import Device
from ratchet.core.kinds import Wiring
from ratchet.core.limits import LinkLimits
from ratchet.core.model import End, Link, Side
from ratchet.core.plan import Attempt
from ratchet.core.pod import Pod
from ratchet.core.underlay import Underlay
from ratchet.errors import InvalidIntentError, PeerMissingError, SupersededError
from ratchet.node.concurrency import map_concurrently
from ratchet.node.endpoint_progress import EndpointResult
from ratchet.node.journal import HeldEnd
from ratchet.node.reconciler import Reconciler

if TYPE_CHECKING:
    from ratchet.store.interface import Store

log = logging.getLogger(__name__)

# How long a node waits for a record that its peer's node creates: long enough for two pods that start together, short
# for a pod whose peer starts later.
CREATION_SECONDS = 0.05

OwnEnd = tuple[WantedLink, Side]


def held_ends(store: Store, pod: Pod, ends: Sequence[OwnEnd]) -> list[HeldEnd]:
    """The pod's ends of wanted links, each under the name of its link's record."""
    return map_concurrently(partial(_held_end, store, pod), ends, pod.ref.namespace)


def _held_end(store: Store, pod: Pod, end: OwnEnd) -> HeldEnd:
    wanted, side = end
    link, ifname = store.as_recorded(wanted), wanted.link.end(side).ifname
    # In the earlier format, roles and pod names are as declared.
    sides = (link.side_at(name, ifname) for name in (meant_name(pod), pod.ref.name))
    side = next((one for one in sides if one is not None), side)
    return HeldEnd(link, side, declared=wanted.is_declared_by(pod), live=wanted.live)


@dataclass(frozen=True, slots=True)
class LinkSelection:
    """The ends of links that belong to a pod, as declared in its namespace when `look` ran."""

    ends: list[OwnEnd]
    _pod: Pod
    _wanted: Wanted
    _changes: Iterator[Wanted]
    _limits: LinkLimits
    _all_refused: Callable[[], Collection[InvalidIntentError]]

    @classmethod
    def look(cls, store: Store, pod: Pod, reserved: Collection[str], seconds: float, until: float) -> Self:
        """Select the pod's ends as they are declared now; `wait` continues until `until` (monotonic seconds).

        Waits up to `seconds` for unknown topologies, then raises TopologiesUnknownError. Raises InvalidIntentError if
        a declaration of this pod is invalid, or if it exceeds a limit.
        """
        changes = store.watch_wanted(pod, frozenset(reserved), seconds, until)
        wanted = next(changes)
        _complain(pod, wanted)

        def all_refused() -> Collection[InvalidIntentError]:
            namespace = pod.ref.namespace
            topologies = store.topologies.lookup_all(namespace)
            return wanted_links(store.pods.lookup_all(namespace), reserved, topologies=topologies).refused.values()

        ends = _ends_within(store.limits, pod, wanted)
        return cls(ends, pod, wanted, changes, store.limits, all_refused)

    def wait(self, *, require: bool) -> list[OwnEnd]:
        """The pod's ends. Waits if the pod has none and expects a declaration to name it.

        A pod expects that if it has the label `ratchet.primary: "false"`.

        Raises SupersededError if another pod has taken its name, and with `require` PeerMissingError if no declaration
        names the pod in time. Raises InvalidIntentError if the ends exceed a limit.
        """
        pod = self._pod
        if self.ends or is_primary(pod) is None:
            return self.ends
        if usurper := self._wanted.superseding(pod):
            raise SupersededError(f"cannot link pod {pod.ref}: pod {usurper.ref} is newer and goes by the same name")
        log.info("waiting for a declaration that names the pod pod=%s", pod.ref)
        for wanted in self._changes:
            if ends := _ends_within(self._limits, pod, wanted):
                return ends
        if require:
            raise _unnamed(pod, self._all_refused())
        return []


def link_all(
    reconciler: Reconciler,
    attempts: Sequence[Attempt],
    underlay: Underlay,
    until: float,
    *,
    require: bool,
    waits_for_cables: bool = True,
) -> list[tuple[End, Device | None]]:
    """Reconcile all ends until they are up or `until` (monotonic seconds) is past.

    Without `waits_for_cables`, ends in panel wiring may stay without their peers.

    Returns the ends as recorded, in the order of the attempts, each with its device if it is up. With `require`, raises
    PeerMissingError that names each missing peer and what that peer waits for. Without it, the agent completes the
    missing ends later.

    If the peer's node is to create a record (`Links.is_created_by_peer`), waits CREATION_SECONDS for it, then creates
    it here.
    """
    if not attempts:
        return []
    later = [one for one in attempts if reconciler.store.links.is_created_by_peer(one.wanted, one.side, underlay.node)]
    # All ends join before any wait: two pods that each wait for the other's first link would never stop waiting.
    left = {one.name for one in later}
    results = _reconcile_each(reconciler, underlay, [one for one in attempts if one.name not in left], joined=False)
    if later:
        _await_records(reconciler.store, later)
        results |= _reconcile_each(reconciler, underlay, later, joined=False)
    waiting = _reconcile_until_up(reconciler, underlay, attempts, results, until, waits_for_cables=waits_for_cables)
    if waiting and require:
        raise _peers_missing(reconciler.store, [one for one in attempts if one.name in waiting])
    return [(_own_end(one, results[one.name].record), results[one.name].device) for one in attempts]


def _reconcile_until_up(
    reconciler: Reconciler,
    underlay: Underlay,
    attempts: Sequence[Attempt],
    results: dict[str, EndpointResult],
    until: float,
    *,
    waits_for_cables: bool,
) -> set[str]:
    """Reconcile ends whose records change, until all are up or `until` is past.

    Updates `results`, and returns the names of the links that still wait.
    """
    waiting = _waiting(results, waits_for_cables)
    if not waiting:
        return waiting
    store, mine = reconciler.store, {one.name: one for one in attempts}
    version = min((end.record.resource_version for end in results.values()), key=_age_of_version)
    pod = attempts[0].sandbox.pod
    for names in store.links.watch_names(pod.namespace, pod.name, mine.keys(), version, until):
        # Ends that are up are included: until ADD ends, nothing else reconciles them when their peers change.
        changed = [
            one
            for one in mine.values()
            if (names is None or one.name in names) and store.links.has_changed(results[one.name].record)
        ]
        results |= _reconcile_each(reconciler, underlay, changed, joined=True)
        before, waiting = waiting, _waiting(results, waits_for_cables)
        for name in before - waiting:
            log.info("end is up link=%s side=%s", name, mine[name].side)
        if not waiting:
            break
    return waiting


def _waiting(results: Mapping[str, EndpointResult], waits_for_cables: bool) -> set[str]:
    """The links whose ends are not up, and have to be before ADD ends."""
    missing = {name: end.record for name, end in results.items() if not end.is_up}
    return {name for name, record in missing.items() if waits_for_cables or record.wiring is Wiring.DIRECT}


def _await_records(store: Store, attempts: Sequence[Attempt]) -> None:
    """Wait CREATION_SECONDS at most for the records that the nodes of the peers create."""
    missing = {one.name for one in attempts}
    namespace, pod = attempts[0].sandbox.pod.namespace, attempts[0].sandbox.pod.name
    until = time.monotonic() + CREATION_SECONDS
    for _ in store.links.watch_names(namespace, pod, missing, "", until):
        missing = {name for name in missing if store.links.lookup_cached(name).link is None}
        if not missing:
            return


def _reconcile_each(
    reconciler: Reconciler, underlay: Underlay, attempts: Sequence[Attempt], *, joined: bool
) -> dict[str, EndpointResult]:
    """Reconcile several ends concurrently, because each mostly waits for the API. Returns results by link.

    Raises only after all work on the ends has stopped.
    """
    namespace = attempts[0].sandbox.pod.namespace if attempts else ""
    ends = map_concurrently(lambda one: reconciler.reconcile(one, underlay, joined=joined), attempts, namespace)
    return {one.name: end for one, end in zip(attempts, ends, strict=True)}


def _own_end(attempt: Attempt, record: Link) -> End:
    return record.end(attempt.as_recorded(record).side)


def _age_of_version(version: str) -> tuple[int, str]:
    """Sort key, oldest version first.

    Resource versions are numbers wherever it matters (kubernetes.io, "Resource versions").
    """
    return (int(version) if version.isdigit() else 0, version)


def _unnamed(pod: Pod, refused: Collection[InvalidIntentError]) -> PeerMissingError:
    return PeerMissingError(
        f"cannot link pod {pod.ref}: nothing in its namespace names it: no {PAIR_NAME}, no {LINKS}, no topology",
        details="; ".join(str(error) for error in refused)[:1000]
        or f"declare a link that names it, or remove {PRIMARY}, so that it does not wait",
    )


def _ends_within(limits: LinkLimits, pod: Pod, wanted: Wanted) -> list[OwnEnd]:
    """The pod's ends. Raises InvalidIntentError if they exceed a limit."""
    ends = list(wanted.ends_of(pod))
    if (violation := limits.violation(pod.ref, len(ends), wanted.namespace_links)) is not None:
        raise violation
    return ends


def _complain(pod: Pod, wanted: Wanted) -> None:
    """Raise this pod's declaration error; warn of likely mistakes in its and other pods' declarations."""
    if refusal := wanted.refused.get(pod.ref.uid):
        raise InvalidIntentError(str(refusal), details=refusal.details)  # a traceback would stay with a kept error
    for key in unknown_settings(pod):
        log.warning("unknown label or annotation ignored pod=%s key=%s", pod.ref, key)
    if setting(pod, PAIR_NAME) is not None and not is_primary(pod):
        log.warning('%s ignored, because %s is not "true" pod=%s', PAIR_NAME, PRIMARY, pod.ref)
    if newer := wanted.superseding(pod):
        log.warning("two pods have one name name=%s pod=%s newer=%s", meant_name(pod), pod.ref, newer.ref)
    for refusal in wanted.refused.values():
        log.warning("declaration of another pod refused cause=%s", refusal)


def _peers_missing(store: Store, waiting: Sequence[Attempt]) -> PeerMissingError:
    peers = [one.wanted.end(one.side.other) for one in waiting]
    pods = store.pods.lookup_named(waiting[0].sandbox.pod.namespace, {peer.name for peer in peers})
    missing = []
    for attempt, peer in zip(waiting, peers, strict=True):
        missing.append(f"pod {peer.name} ({attempt.name}): {absence(peer.name, pods, peer.ifname)}")
    return PeerMissingError(
        f"cannot link pod {waiting[0].sandbox.pod}: its peer has not joined: {'; '.join(missing)}",
        details="the runtime will retry; `ratchet links` shows what each link waits for",
    )
