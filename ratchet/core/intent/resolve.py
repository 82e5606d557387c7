"""Resolution of a namespace's declarations into wanted links and refused pods.

Two endpoints identify a link, in either order and by any name of their pods. Equal declarations are one link. If
declarations of one link differ, both of its pods are refused. A pod with one refused declaration declares nothing,
because it cannot start as declared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby

from ratchet.core.intent import labels
from ratchet.core.intent.annotation import listed_links
from ratchet.core.intent.declared import DeclaredLink
from ratchet.core.intent.labels import labelled_link
from ratchet.core.intent.pods import (
    ENABLED,
    LINKS,
    POD_NAME,
    PRIMARY,
    WAIT,
    asks_for_links,
    holders,
    is_primary,
    meant_name,
    refusal,
    seniority,
)
from ratchet.core.intent.topologies import DrawnLink, Faulty, drawn_links, refusal_for
from ratchet.core.intent.wanted import Wanted, WantedLink, count_links
from ratchet.core.model import SIDES, End, Side
from ratchet.core.naming import Endpoint, in_order, ordered_record_name
from ratchet.core.pod import Pod, Topology
from ratchet.errors import InvalidIntentError

KNOWN = frozenset({ENABLED, POD_NAME, PRIMARY, WAIT, LINKS, *labels.KEYS})


# The links that a pod declares, or why it is refused.
Declared = tuple[DeclaredLink, ...] | InvalidIntentError


def wanted_links(
    pods: Iterable[Pod],
    reserved: Collection[str] = ("eth0",),
    topologies: Iterable[Topology] = (),
) -> Wanted:
    """The wanted links of one namespace, whatever the order of its pods and topologies.

    If several pods have one name, as during a rollout, the newest that is not being deleted gets it. If two links need
    one interface, a topology's link gets it, else that of the older declarer; the other is refused. `reserved` are
    interface names of the runtime; `lo` is always one of them.
    """
    eligible = [pod for pod in pods if is_eligible(pod)]
    drawn = [one for topology in sorted(topologies, key=_name) for one in drawn_links(topology, {*reserved, "lo"})]
    declared = [(pod, declared_links(pod, reserved)) for pod in eligible]
    return resolve(eligible, declared, drawn, count_links(set(_endpoints(declared, drawn))))


def is_eligible(pod: Pod) -> bool:
    """Whether a pod can have links: it asks for them, and its containers have not ended for good."""
    return asks_for_links(pod) and not pod.finished


def declared_links(pod: Pod, reserved: Collection[str]) -> Declared:
    """The links that a pod declares with its labels and its annotation."""
    try:
        labelled = labelled_link(pod, {*reserved, "lo"})
        listed = listed_links(pod, {*reserved, "lo"})
    except InvalidIntentError as error:
        # The error is kept as long as the pod. Its traceback would keep all that was parsed.
        return InvalidIntentError(str(error), details=error.details, place=error.place)
    return (labelled, *listed) if labelled is not None else tuple(listed)


def resolve(
    eligible: Iterable[Pod],
    declared: Iterable[tuple[Pod, Declared]],
    drawn: Iterable[DrawnLink],
    namespace_links: int,
) -> Wanted:
    """The wanted links of eligible pods, from pods' declarations and from topologies, in their order.

    The result holds for a pod if everything that its links depend on is given (`IntentIndex`). `namespace_links` is the
    number of links that the whole namespace declares.
    """
    pods = sorted(eligible, key=seniority)
    namespace = _Namespace(pods, holders(pods))
    by_seniority = sorted(declared, key=lambda one: seniority(one[0]))
    found = [*namespace.drawn(drawn), *namespace.declared(by_seniority)]
    links = _without_duplicates(found, namespace.refused)
    wanted = sorted(_without_collisions(links, namespace.refused), key=_record)
    return Wanted(tuple(wanted), namespace.refused, namespace.meant, namespace_links)


def unknown_settings(pod: Pod) -> tuple[str, ...]:
    """Unknown labels and annotations that begin with `ratchet.`: most likely misspelt."""
    keys = {*pod.labels, *pod.annotations}
    return tuple(sorted(key for key in keys if key.startswith("ratchet.") and key not in KNOWN))


def _endpoints(declared: Iterable[tuple[Pod, Declared]], drawn: Iterable[DrawnLink]) -> Iterator[Endpoint]:
    """The endpoints of all valid declarations, under their declared names."""
    own = (one for _, found in declared if not isinstance(found, InvalidIntentError) for one in found)
    for one in chain(own, (one for one in drawn if not isinstance(one, Faulty))):
        yield one.link.primary.name, one.link.primary.ifname
        yield one.link.pair.name, one.link.pair.ifname


@dataclass(slots=True)
class _Namespace:
    """The eligible `pods` of a namespace, the oldest first, and the pod of each name."""

    pods: Collection[Pod]
    meant: Mapping[str, Pod]
    refused: dict[str, InvalidIntentError] = field(default_factory=dict)

    def drawn(self, drawn: Iterable[DrawnLink]) -> Iterator[WantedLink]:
        """The links of topologies, in their order."""
        for one in drawn:
            if isinstance(one, Faulty):
                _refuse_all(self._concerned(one), one, self.refused)
            elif (wanted := self._between(one)) is not None:
                yield wanted

    def declared(self, declared: Iterable[tuple[Pod, Declared]]) -> Iterator[WantedLink]:
        """The links of pods, in their order. A pod whose name another pod has declares none."""
        for pod, found in declared:
            if isinstance(found, InvalidIntentError):
                self.refused.setdefault(pod.ref.uid, found)
            elif found and self.meant[meant_name(pod)].ref == pod.ref:
                links = [self._of(one, pod) for one in found]
                if own := next((one for one in links if one.pair is not None and one.pair.ref == pod.ref), None):
                    _refuse(own, own.place_of(Side.PAIR), "a pod cannot be linked to itself", self.refused)
                else:
                    yield from links

    def _of(self, one: DeclaredLink, declarer: Pod) -> WantedLink:
        """A link that a pod declares, with its pods."""
        return WantedLink(one.link, declarer, self.meant.get(one.link.pair.name), declarer, one.place, one.wiring)

    def _between(self, one: DeclaredLink) -> WantedLink | None:
        """A topology's link with its pods; None if both ends are one pod, which is refused."""
        primary, pair = (self.meant.get(end.name) for end in (one.link.primary, one.link.pair))
        wanted = WantedLink(one.link, primary, pair, None, one.place, one.wiring, one.live)
        if primary is not None and primary is pair:
            _refuse(wanted, wanted.place_of(Side.PAIR), "a pod cannot be linked to itself", self.refused)
            return None
        return wanted

    def _concerned(self, fault: Faulty) -> Collection[Pod]:
        """The pods that an error in a topology concerns, or may concern if its names cannot be read."""
        if fault.names is None:
            return [pod for pod in self.pods if fault.may_concern(pod.ref.name, meant_name(pod))]
        return [self.meant[name] for name in fault.names if name in self.meant]


def _without_duplicates(links: Iterable[WantedLink], refused: dict[str, InvalidIntentError]) -> list[WantedLink]:
    """Each link once. If its declarations differ, it is left out and its pods are refused."""
    by_endpoints: dict[tuple[Endpoint, Endpoint], list[WantedLink]] = {}
    for one in links:
        by_endpoints.setdefault(one.endpoints, []).append(one)
    found = []
    for same in by_endpoints.values():
        first = min(same, key=_order_of_declaration)
        if other := next((one for one in same if one is not first and _intent(one) != _intent(first)), None):
            places = sorted((first.place_and_pod(), other.place_and_pod()))
            for pod in first.pods():
                error = InvalidIntentError(
                    f"cannot link pod {pod.ref}: {places[0]} and {places[1]} declare one link differently",
                    details="declare it once, or equally in both places",
                    place=" and ".join(places),
                )
                refused.setdefault(pod.ref.uid, error)
        else:
            found.append(_as_one(first, same))
    return found


def _as_one(first: WantedLink, same: Sequence[WantedLink]) -> WantedLink:
    """The link of equal declarations: named by its endpoints, with its primary and canonical pod names."""
    link = first.link
    ends = {Side.PRIMARY: _canonical(link.primary, first.primary), Side.PAIR: _canonical(link.pair, first.pair)}
    lesser, greater = in_order(*((end.name, end.ifname) for end in ends.values()))
    name = ordered_record_name(link.namespace, lesser, greater)
    candidates = _possible_primaries(first, same) or SIDES
    side = min(candidates, key=lambda one: (ends[one].name, ends[one].ifname) != lesser)
    primary, pair = ends[side], ends[side.other]
    if (link.name, link.primary, link.pair) != (name, primary, pair):
        link = replace(link, name=name, primary=primary, pair=pair)
    pods = first.pod(side), first.pod(side.other)
    live = all(one.live for one in same)  # what a pod declares too is fixed while it runs
    return WantedLink(link, *pods, first.declarer, first.place, first.wiring, live, tuple(same))


def _canonical(end: End, pod: Pod | None) -> End:
    """An end under the pod's name in records (`meant_name`)."""
    if pod is None or end.name == (name := meant_name(pod)):
        return end
    return replace(end, name=name)


def _possible_primaries(first: WantedLink, same: Sequence[WantedLink]) -> tuple[Side, ...]:
    """The sides whose pods declare the link; of two, not one with `ratchet.primary: "false"`."""
    declarers = {one.declarer.ref for one in same if one.declarer is not None}
    declaring = {side: pod for side in SIDES if (pod := first.pod(side)) is not None and pod.ref in declarers}
    willing = tuple(side for side, pod in declaring.items() if is_primary(pod) is not False)
    return willing or tuple(declaring)


def _order_of_declaration(wanted: WantedLink) -> tuple[object, ...]:
    """Sort key: topologies before pods, then by declared name and place, whatever starts first."""
    return (wanted.declarer is not None, wanted.link.name, wanted.place)


def _intent(wanted: WantedLink) -> tuple[object, ...]:
    """The declaration of a link, for comparison: in either order of its ends, with addresses as sets."""
    ends = {wanted.endpoint(side): wanted.link.end(side) for side in SIDES}
    lesser, greater = (ends[endpoint] for endpoint in wanted.endpoints)
    what = wanted.link.encapsulation, wanted.wiring
    return (*what, *((frozenset(end.addresses), end.properties) for end in (lesser, greater)))


def _without_collisions(links: Iterable[WantedLink], refused: dict[str, InvalidIntentError]) -> Iterator[WantedLink]:
    """The links whose interfaces are free. Of a pod's declarations, all are accepted or none."""
    taken: dict[Endpoint, WantedLink] = {}
    for _, group in groupby(sorted(links, key=_order), key=_group):
        own, claims, clashed = list(group), dict[Endpoint, WantedLink](), False
        for one in own:
            for side in SIDES:
                endpoint = one.endpoint(side)
                if (holder := claims.get(endpoint) or taken.get(endpoint)) is not None:
                    cause = f"{endpoint[1]} in pod {endpoint[0]} is taken by the link {holder.link.name}"
                    _refuse(one, one.place_of(side, interface=True), cause, refused)
                    clashed = True
                claims[endpoint] = one
        declarer = own[0].declarer
        if not clashed and (declarer is None or declarer.ref.uid not in refused):
            taken |= claims
            yield from own


def _refuse(wanted: WantedLink, place: str, cause: str, refused: dict[str, InvalidIntentError]) -> None:
    """Refuse the pod that declares a link, or the pods of a topology's link."""
    if wanted.declarer is not None:
        refused.setdefault(wanted.declarer.ref.uid, refusal(wanted.declarer, place, cause))
        return
    _refuse_all(wanted.pods(), Faulty(place, cause, None), refused)


def _refuse_all(pods: Iterable[Pod], fault: Faulty, refused: dict[str, InvalidIntentError]) -> None:
    """Refuse pods because of an error in a topology."""
    for pod in pods:
        refused.setdefault(pod.ref.uid, refusal_for(pod.ref, fault))


def _group(wanted: WantedLink) -> tuple[object, ...]:
    """Group key of links: each link of a topology alone, then the links of each pod together."""
    return (0, wanted.link.name) if wanted.declarer is None else (1, *seniority(wanted.declarer))


def _order(wanted: WantedLink) -> tuple[object, ...]:
    return (*_group(wanted), wanted.link.name)


def _record(wanted: WantedLink) -> str:
    return wanted.link.name


def _name(topology: Topology) -> str:
    return topology.name
