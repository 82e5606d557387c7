"""How a pod that starts gets its links: which ends are its own, all of them joined, each taken as far as it goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

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
from ratchet.core.model import End, Link, Pod, Side
from ratchet.core.plan import Attempt, Underlay
from ratchet.errors import InvalidIntentError, PeerMissingError, SupersededError
from ratchet.node.concurrency import map_concurrently
from ratchet.node.journal import HeldEnd
from ratchet.node.reconciler import EndpointResult, Reconciler
from ratchet.store.records import Records

log = logging.getLogger(__name__)

# For how long a node waits for a record that its peer's node is to create: long enough for two pods that start
# together, short for one whose peer comes later.
CREATION_SECONDS = 0.05

OwnEnd = tuple[WantedLink, Side]


def held_ends(records: Records, pod: Pod, ends: Sequence[OwnEnd]) -> list[HeldEnd]:
    """The pod's ends of wanted links, each under the name of its link's record."""
    return map_concurrently(partial(_held_end, records, pod), ends)


def _held_end(records: Records, pod: Pod, end: OwnEnd) -> HeldEnd:
    wanted, side = end
    link, ifname = records.as_recorded(wanted), wanted.link.end(side).ifname
    # In the earlier format the roles, and the names of pods, are as declared.
    sides = (link.side_at(name, ifname) for name in (meant_name(pod), pod.ref.name))
    side = next((one for one in sides if one is not None), side)
    return HeldEnd(link, side, declared=wanted.is_declared_by(pod))


@dataclass(frozen=True, slots=True)
class LinkSelection:
    """The ends of links that are a pod's, as the pods of its namespace declared them when they were looked at."""

    ends: list[OwnEnd]
    _pod: Pod
    _wanted: Wanted
    _changes: Iterator[Wanted]
    _all_refused: Callable[[], Collection[InvalidIntentError]]

    @classmethod
    def look(cls, records: Records, pod: Pod, reserved: Collection[str], seconds: float, until: float) -> Self:
        """The ends as they are declared now; `wait` goes on until `until` (monotonic seconds).

        Raises InvalidIntentError for what this pod may not ask for. Unknown topologies are waited for, for so many
        `seconds`; then raises TopologiesUnknownError.
        """
        changes = records.watch_wanted(pod, frozenset(reserved), seconds, until)
        wanted = next(changes)
        _complain(pod, wanted)

        def all_refused() -> Collection[InvalidIntentError]:
            namespace = pod.ref.namespace
            topologies = records.topologies(namespace)
            return wanted_links(records.pods(namespace), reserved, topologies=topologies).refused.values()

        return cls(list(wanted.ends_of(pod)), pod, wanted, changes, all_refused)

    def wait(self, *, require: bool) -> list[OwnEnd]:
        """The ends; of a pod that has none and says `ratchet.primary: "false"`, which is to expect to be named, those
        that it is given in time.

        Raises SupersededError where another pod has taken its name, and with `require` PeerMissingError where nobody
        names it.
        """
        pod = self._pod
        if self.ends or is_primary(pod) is None:
            return self.ends
        if usurper := self._wanted.superseding(pod):
            raise SupersededError(f"cannot link pod {pod.ref}: pod {usurper.ref} is newer and goes by the same name")
        log.info("pod %s waits to be named as the pair of a link", pod.ref)
        for wanted in self._changes:
            if ends := list(wanted.ends_of(pod)):
                return ends
        if require:
            raise _unnamed(pod, self._all_refused())
        return []


def link_all(
    reconciler: Reconciler, attempts: Sequence[Attempt], site: Underlay, until: float, *, require: bool
) -> list[tuple[End, Device | None]]:
    """Take every end as far as it goes, again and again, until all stand or `until` (monotonic seconds) is past.

    The ends as they are recorded, in the order of the attempts, each with its device where it stands. With `require`,
    raises PeerMissingError that names every peer that was waited for, and what it waits for itself; without, what is
    missing is left to whoever stays.

    A record that the peer's node is to create (`Records.is_created_by_peer`) is waited for CREATION_SECONDS, and then
    created.
    """
    if not attempts:
        return []
    settle = partial(_settle_each, reconciler, site)
    later = [one for one in attempts if reconciler.records.is_created_by_peer(one.wanted, one.side, site.node)]
    # All have joined before any is waited for: two pods that each wait for the other's first link would wait for ever.
    left = {one.name for one in later}
    settled = settle([one for one in attempts if one.name not in left], joined=False)
    if later:
        _await_records(reconciler.records, later)
        settled |= settle(later, joined=False)
    mine = {one.name: one for one in attempts}
    waiting = {name for name, end in settled.items() if not end.is_up}
    if waiting:
        version = min((end.record.resource_version for end in settled.values()), key=_age_of_version)
        pod = attempts[0].sandbox.pod
        changes = reconciler.records.names_of_changed_links(pod.namespace, pod.name, mine.keys(), version, until)
        for names in changes:
            # Ends that are up are included: until ADD ends, nothing else reconciles them when their peers change.
            changed = [
                one
                for one in mine.values()
                if (names is None or one.name in names) and reconciler.records.has_changed(settled[one.name].record)
            ]
            settled |= settle(changed, joined=True)
            before, waiting = waiting, {name for name, end in settled.items() if not end.is_up}
            for name in before - waiting:
                log.info("link %s stands at its %s", name, mine[name].side)
            if not waiting:
                break
    if waiting and require:
        raise _peers_missing(reconciler.records, [one for one in attempts if one.name in waiting])
    return [(_own_end(one, settled[one.name].record), settled[one.name].device) for one in attempts]


def _await_records(records: Records, attempts: Sequence[Attempt]) -> None:
    """Wait a moment for the records that the nodes of the peers create."""
    missing = {one.name for one in attempts}
    namespace, pod = attempts[0].sandbox.pod.namespace, attempts[0].sandbox.pod.name
    until = time.monotonic() + CREATION_SECONDS
    for _ in records.names_of_changed_links(namespace, pod, missing, "", until):
        missing = {name for name in missing if records.expected_link(name)[0] is None}
        if not missing:
            return


def _settle_each(
    reconciler: Reconciler, site: Underlay, attempts: Sequence[Attempt], *, joined: bool
) -> dict[str, EndpointResult]:
    """How far each end comes now, by link; the API's answers for all of them are waited for together.

    Raises once nobody is at work on any of them.
    """
    ends = map_concurrently(lambda one: reconciler.settle(one, site, joined=joined), attempts)
    return {one.name: end for one, end in zip(attempts, ends, strict=True)}


def _own_end(attempt: Attempt, record: Link) -> End:
    return record.end(attempt.as_recorded(record).side)


def _age_of_version(version: str) -> tuple[int, str]:
    """Oldest first; versions are numbers wherever it matters (kubernetes.io, "Resource versions")."""
    return (int(version) if version.isdigit() else 0, version)


def _unnamed(pod: Pod, refused: Collection[InvalidIntentError]) -> PeerMissingError:
    return PeerMissingError(
        f"cannot link pod {pod.ref}: nothing in its namespace names it: no {PAIR_NAME}, no {LINKS}, no topology",
        details="; ".join(str(error) for error in refused)[:1000]
        or f"create what names it, or take {PRIMARY} off it so that it does not wait",
    )


def _complain(pod: Pod, wanted: Wanted) -> None:
    """Raise what this pod was refused; warn of what looks like a slip, in it or in a pod that means it."""
    if refusal := wanted.refused.get(pod.ref.uid):
        raise refusal.with_traceback(None)  # the same one is raised again and again
    for key in unknown_settings(pod):
        log.warning("pod %s has the label or annotation %s, which means nothing to ratchet", pod.ref, key)
    if setting(pod, PAIR_NAME) is not None and not is_primary(pod):
        log.warning('pod %s has %s and not %s: "true": it declares no link', pod.ref, PAIR_NAME, PRIMARY)
    for refusal in wanted.refused.values():
        log.warning("a link of another pod of the namespace was refused: %s", refusal)


def _peers_missing(records: Records, waiting: Sequence[Attempt]) -> PeerMissingError:
    peers = [one.wanted.end(one.side.other) for one in waiting]
    pods = records.pods_called(waiting[0].sandbox.pod.namespace, {peer.name for peer in peers})
    missing = []
    for attempt, peer in zip(waiting, peers, strict=True):
        missing.append(f"pod {peer.name} ({attempt.name}): {absence(peer.name, pods, peer.ifname)}")
    return PeerMissingError(
        f"cannot link pod {waiting[0].sandbox.pod}: its peer has not come: {'; '.join(missing)}",
        details="the runtime will try again; `ratchet links` shows what each link waits for",
    )
