"""All that the pods of a namespace say, together: the links that are wanted, and who is refused and why.

A link that is said twice alike, by either pod or in two ways, is one link; said twice differently it is refused to all
who say it. A pod of which one declaration is refused declares nothing: it cannot start as it asks to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from ratchet.core.intent import labels
from ratchet.core.intent.labels import LOCAL_IFNAME, PAIR_IFNAME, PAIR_NAME, labelled_link
from ratchet.core.intent.listed import LINKS, listed_links
from ratchet.core.intent.pods import (
    ENABLED,
    POD_NAME,
    PRIMARY,
    WAIT,
    asks_for_links,
    holders,
    meant_name,
    refusal,
    seniority,
)
from ratchet.core.model import Link, Pod, PodRef, Side
from ratchet.errors import InvalidIntentError

KNOWN = frozenset({ENABLED, POD_NAME, PRIMARY, WAIT, LINKS, *labels.KEYS})

Endpoint = tuple[str, str]


@dataclass(frozen=True, slots=True)
class WantedLink:
    """A link as it is declared; `pair` is None while no eligible pod answers to the name.

    `place`: where the primary says it, None for its labels.
    """

    link: Link
    primary: Pod
    pair: Pod | None
    place: str | None = None

    def pod(self, side: Side) -> Pod | None:
        return self.primary if side is Side.PRIMARY else self.pair

    def endpoint(self, side: Side) -> Endpoint:
        """The pod, by its own name if there is one, and the interface in it."""
        pod, end = self.pod(side), self.link.end(side)
        return (pod.ref.name if pod else end.name, end.ifname)

    def place_of(self, side: Side) -> str:
        """Where the interface at an end is said."""
        if self.place is None:
            return LOCAL_IFNAME if side is Side.PRIMARY else PAIR_IFNAME
        return f"{self.place}: {'ifname' if side is Side.PRIMARY else 'peer_ifname'}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The wanted links of a namespace, and for each pod whose declaration was refused why."""

    links: tuple[WantedLink, ...]
    refused: Mapping[str, InvalidIntentError]
    _ends: Mapping[PodRef, list[tuple[WantedLink, Side]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ends: dict[PodRef, list[tuple[WantedLink, Side]]] = {}
        for wanted in self.links:
            for side in Side:
                if (holder := wanted.pod(side)) is not None:
                    ends.setdefault(holder.ref, []).append((wanted, side))
        object.__setattr__(self, "_ends", ends)

    def ends_of(self, pod: Pod) -> tuple[tuple[WantedLink, Side], ...]:
        """The ends that are this pod's, in the order of the links' names."""
        return tuple(self._ends.get(pod.ref, ()))


# The links that a pod declares, each with its place, or why it is refused.
Said = tuple[tuple[str | None, Link], ...] | InvalidIntentError
# What pods were read to declare, by pod, with the pod as it was then.
Declarations = dict[PodRef, tuple[Pod, Said]]


def wanted_links(
    pods: Iterable[Pod], reserved: Collection[str] = ("eth0",), read: Declarations | None = None
) -> Wanted:
    """The links that the pods of one namespace want, whatever the order of `pods`.

    Where several pods answer to one name (a Deployment that is being rolled) the newest that is not being deleted
    has it. Where two links want one interface of a pod, the older primary's has it and the other is refused.
    `reserved` are interface names that belong to the runtime, `lo` always among them. Whoever asks again and again,
    with the same `reserved`, gives the same `read` each time.
    """
    eligible = sorted((pod for pod in pods if asks_for_links(pod) and not pod.finished), key=seniority)
    refused: dict[str, InvalidIntentError] = {}
    declared = _declared(eligible, {*reserved, "lo"}, {} if read is None else read, refused)
    declared = _said_once(declared, refused)
    return Wanted(tuple(sorted(_without_collisions(declared, refused), key=_record)), refused)


def unknown_settings(pod: Pod) -> tuple[str, ...]:
    """Labels and annotations under `ratchet.` that mean nothing to us: most likely misspelt."""
    said = {*pod.labels, *pod.annotations}
    return tuple(sorted(key for key in said if key.startswith("ratchet.") and key not in KNOWN))


def _declared(
    pods: Collection[Pod], reserved: Collection[str], read: Declarations, refused: dict[str, InvalidIntentError]
) -> list[WantedLink]:
    """Every link that is declared by a pod which has the name that it goes by, in the order of these pods."""
    found = []
    meant = holders(pods)
    for pod, said in _declarations(pods, reserved, read):
        if isinstance(said, InvalidIntentError):
            refused[pod.ref.uid] = said
        elif said and meant[meant_name(pod)].ref == pod.ref:
            links = [WantedLink(link, pod, meant.get(link.pair.name), place) for place, link in said]
            if own := next((one for one in links if one.pair is not None and one.pair.ref == pod.ref), None):
                place = PAIR_NAME if own.place is None else f"{own.place}: peer"
                refused[pod.ref.uid] = refusal(pod, place, "a pod cannot be linked to itself")
            else:
                found += links
    return found


def _declarations(pods: Iterable[Pod], reserved: Collection[str], read: Declarations) -> Iterable[tuple[Pod, Said]]:
    """What each pod declares; of a pod that is the very same as when it was read before, what it was read as then."""
    before = dict(read)
    read.clear()
    for pod in pods:
        known = before.get(pod.ref)
        read[pod.ref] = known if known is not None and known[0] is pod else (pod, _said(pod, reserved))
    return list(read.values())


def _said(pod: Pod, reserved: Collection[str]) -> Said:
    try:
        labelled = labelled_link(pod, reserved)
        listed = listed_links(pod, reserved)
    except InvalidIntentError as error:
        return error
    return ((None, labelled), *listed) if labelled is not None else tuple(listed)


def _said_once(links: Iterable[WantedLink], refused: dict[str, InvalidIntentError]) -> list[WantedLink]:
    """The links, each once; without those that are said in several ways, whose pods are refused."""
    by_endpoints: dict[frozenset[Endpoint], list[WantedLink]] = {}
    for one in links:
        by_endpoints.setdefault(frozenset(one.endpoint(side) for side in Side), []).append(one)
    found = []
    for same in by_endpoints.values():
        # Whose primary is whose does not depend on who came first: records go by it.
        first = min(same, key=_record)
        if others := [one for one in same if _oriented(one, first) != _oriented(first, first)]:
            for one, other in ((first, others[0]), *((other, first) for other in others)):
                cause = f"{other.place or PAIR_NAME} of pod {other.primary.ref} says otherwise of the same link"
                refused.setdefault(one.primary.ref.uid, refusal(one.primary, one.place or PAIR_NAME, cause))
        else:
            found.append(first)
    return found


def _oriented(one: WantedLink, like: WantedLink) -> tuple[object, ...]:
    """What is wanted of a link's ends, in the order of another one between the same interfaces."""
    ends = [one.link.primary, one.link.pair]
    if one.endpoint(Side.PRIMARY) != like.endpoint(Side.PRIMARY):
        ends.reverse()
    return tuple((end.addresses, end.properties) for end in ends)


def _without_collisions(links: Iterable[WantedLink], refused: dict[str, InvalidIntentError]) -> Iterator[WantedLink]:
    """The links of the pods that want no interface which an older one has, or they themselves for another link."""
    taken: dict[Endpoint, WantedLink] = {}
    ordered = sorted(links, key=lambda one: (seniority(one.primary), one.link.name))
    for _, group in groupby(ordered, key=lambda one: one.primary.ref):
        own, claims = list(group), dict[Endpoint, WantedLink]()
        for one in own:
            for side in Side:
                endpoint = one.endpoint(side)
                if (holder := claims.get(endpoint) or taken.get(endpoint)) is not None:
                    cause = f"{endpoint[1]} in pod {endpoint[0]} is taken by the link {holder.link.name}"
                    refused.setdefault(one.primary.ref.uid, refusal(one.primary, one.place_of(side), cause))
                claims[endpoint] = one
        if own[0].primary.ref.uid not in refused:
            taken |= claims
            yield from own


def _record(wanted: WantedLink) -> str:
    return wanted.link.name
