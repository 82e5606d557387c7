"""Edits of topologies, as the ends of running pods follow them.

An end follows if a topology declares its link and does not have `on_edit: restart`. What a pod itself has declared is
fixed while it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ratchet.core.drift import as_followed
from ratchet.core.intent import WantedLink, names_of
from ratchet.core.intent.topologies import Faulty, drawn_links
from ratchet.core.model import Link, Side
from ratchet.core.pod import Pod, Topology
from ratchet.node.journal import HeldEnd, SandboxEntry


def followed(end: HeldEnd, wanted: WantedLink) -> HeldEnd:
    """The held end with its link as declared now, under the name, the format and the wiring of its record.

    Returns `end` itself if nothing has changed, or if it follows no edits. A `state` waits for panel wiring.
    """
    if end.declared:
        return end
    link = as_followed(wanted.link.oriented_as(end.wanted), end.wanted)
    if not wanted.live or end.wanted.intends_the_same_as(link):
        return end if end.live is wanted.live else replace(end, live=wanted.live)
    link = replace(link, name=end.link, schema=end.wanted.schema, wiring=end.wanted.wiring)
    return replace(end, wanted=link, live=True)


def all_followed(ends: tuple[HeldEnd, ...], by_record: Mapping[str, WantedLink]) -> tuple[HeldEnd, ...]:
    """The ends as by `followed`. `by_record` has the wanted links; an end without one stays as it is."""
    return tuple(followed(end, by_record[end.link]) if end.link in by_record else end for end in ends)


def has_peer(record: Link | None, entry: SandboxEntry) -> bool:
    """Whether the record has the other end. What the peer itself has declared is fixed until it ends."""
    if record is None:
        return False
    side = record.side_of(entry.attachment.container_id)
    return any(record.sandbox(one) is not None for one in ([side.other] if side is not None else Side))


def is_kept(end: HeldEnd, record: Link | None, entry: SandboxEntry) -> bool:
    """Whether the peer keeps an end whose link is undeclared: it does, unless the end follows a topology's edits."""
    return not end.live and has_peer(record, entry)


def is_drawn(end: HeldEnd, own: str, pods: Iterable[Pod], topologies: Iterable[Topology]) -> bool:
    """Whether a topology has an end's link, under the names with which it was taken or any other of its pods.

    `own` is the own name of the end's pod. What the labels of a running pod say now does not count: without them, the
    link may look undeclared.
    """
    near, far = end.wanted.ends_from(end.side)
    of_far = {far.name}.union(*(names_of(pod) for pod in pods if far.name in names_of(pod)))
    for topology in topologies:
        for drawn in drawn_links(topology, ()):
            if isinstance(drawn, Faulty):
                continue
            ends = {(one.name, one.ifname) for one in (drawn.link.primary, drawn.link.pair)}
            has_far = any((name, far.ifname) in ends for name in of_far)
            if has_far and any((name, near.ifname) in ends for name in (near.name, own)):
                return True
    return False


def replaced(ends: Iterable[HeldEnd], old: HeldEnd, new: HeldEnd | None) -> tuple[HeldEnd, ...]:
    """A sandbox's ends with `old` replaced by `new`, or removed if `new` is None."""
    kept = tuple(one for one in ends if one.link != old.link)
    return kept if new is None or any(one.link == new.link for one in kept) else (*kept, new)
