"""Wanted links: the links that a namespace declares, with their pods and places."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from ratchet.core.endpoint_spec import EndState
from ratchet.core.intent.labels import LOCAL_IFNAME, PAIR_IFNAME, PAIR_NAME
from ratchet.core.intent.pods import POD_NAME, meant_name
from ratchet.core.kinds import Wiring
from ratchet.core.model import SIDES, Link, Side
from ratchet.core.naming import Endpoint, alias_record_names, earlier_record_names, in_order
from ratchet.core.pod import Pod, PodRef
from ratchet.core.schemas import EARLIER_SCHEMA
from ratchet.errors import InvalidIntentError


@dataclass(frozen=True, slots=True)
class WantedLink:
    """A declared link. `primary` and `pair` are its pods; None while no eligible pod has the name.

    `declarer` is the pod that declares it, None for a topology. `place` is the place of the declaration, empty for
    labels. If several places declare the link, these two are of the first one, and `declarations` has all of them.
    `wiring` is the declared one; None: none is declared. That of `link` is decided later (`effective_wiring`). `live`:
    running pods follow edits of the declaration.
    """

    link: Link
    primary: Pod | None
    pair: Pod | None
    declarer: Pod | None
    place: str = ""
    wiring: Wiring | None = None
    live: bool = False
    declarations: tuple[WantedLink, ...] = field(default=(), repr=False)

    def pod(self, side: Side) -> Pod | None:
        return self.primary if side is Side.PRIMARY else self.pair

    def endpoint(self, side: Side) -> Endpoint:
        """The name of the pod and its interface. It is the pod's own name if the pod exists."""
        if side is Side.PRIMARY:
            pod, end = self.primary, self.link.primary
        else:
            pod, end = self.pair, self.link.pair
        return (pod.ref.name if pod else end.name, end.ifname)

    @property
    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        """Both endpoints in order, by the pods' own names. Declarations with equal endpoints are one link."""
        return in_order(self.endpoint(Side.PRIMARY), self.endpoint(Side.PAIR))

    def pods(self) -> list[Pod]:
        return [pod for pod in (self.primary, self.pair) if pod is not None]

    def is_declared_by(self, pod: Pod) -> bool:
        """Whether the pod itself declares the link. Others may declare it too."""
        return any(one.declarer is not None and one.declarer.ref == pod.ref for one in self.declarations or (self,))

    def is_declared_by_others(self, pod: Pod) -> bool:
        """Whether a topology or another pod declares the link."""
        return any(one.declarer is None or one.declarer.ref != pod.ref for one in self.declarations or (self,))

    @property
    def required_wiring(self) -> Wiring | None:
        """The declared wiring, or the one that a `state` needs. None: each node's default will do."""
        has_state = any(self.link.end(side).properties.state is not EndState.UP for side in SIDES)
        return Wiring.PANEL if self.wiring is None and has_state else self.wiring

    def effective_wiring(self, default: Wiring) -> Wiring:
        """The wiring for a new record: the required one, else `default`, the node's.

        A link that labels declare is direct as in 2017, unless `ratchet.wiring` says otherwise.
        """
        if self.required_wiring is not None:
            return self.required_wiring
        by_labels = any(one.declarer is not None and not one.place for one in self.declarations or (self,))
        return Wiring.DIRECT if by_labels else default

    def earlier_link(self) -> Link:
        """The link as schema 1 stores it: with the name and the roles of its declaration.

        Of several declarations, that with the least name.
        """
        declared = min((one.link for one in self.declarations or (self,)), key=lambda link: link.name)
        return replace(declared, schema=EARLIER_SCHEMA)

    def alias_names(self) -> list[str]:
        """Other names of the record in this schema: it may have been created before a pod's name was known."""
        names = alias_record_names(self.link.namespace, *(self._known_as(side) for side in SIDES))
        return sorted(names - {self.link.name})

    def earlier_names(self) -> list[str]:
        """Names that the record may have in schema 1 only."""
        ends = [self._known_as(side) for side in SIDES]
        return sorted(earlier_record_names(self.link.namespace, *ends) - {self.link.name, *self.alias_names()})

    def record_names(self) -> set[str]:
        """Every name that the record may have."""
        return {self.link.name} | earlier_record_names(self.link.namespace, *(self._known_as(side) for side in SIDES))

    def is_recorded_as(self, name: str) -> bool:
        """Whether a record of this name is of this link."""
        return name == self.link.name or name in self.record_names()

    def record_in(self, records: Mapping[str, Link]) -> Link | None:
        """The link's record among `records`, which have their names as keys; None if it is missing."""
        found = (records.get(name) for name in (*self.alias_names(), *self.earlier_names(), self.link.name))
        return next((record for record in found if record is not None), None)

    def _known_as(self, side: Side) -> set[Endpoint]:
        """An endpoint under every known name of its pod."""
        pod, ifname = self.pod(side), self.link.end(side).ifname
        own = self.endpoint(side)
        declared = (one.link.end(each) for one in self.declarations for each in SIDES if one.endpoint(each) == own)
        names = {self.link.end(side).name, *(end.name for end in declared)}
        return {(name, ifname) for name in (names | {pod.ref.name} if pod is not None else names)}

    def place_of(self, side: Side, *, interface: bool = False) -> str:
        """The place that names the pod or the interface of an end: a label, or a place and a field."""
        if self.declarer is None:
            return f"{self.place}: endpoints"
        pod = self.pod(side)
        own = pod is not None and pod.ref == self.declarer.ref and (side is Side.PRIMARY or self.primary is not pod)
        if not self.place:
            ifname = LOCAL_IFNAME if own else PAIR_IFNAME
            return ifname if interface else POD_NAME if own else PAIR_NAME
        ifname = "ifname" if own else "peer_ifname"
        return f"{self.place}: {ifname if interface else 'peer'}"

    def place_and_pod(self) -> str:
        """The place of the declaration with its pod, for a message about another pod."""
        if self.declarer is None:
            return self.place
        return f"{self.place or PAIR_NAME} of pod {self.declarer.ref}"


def count_links(endpoints: Collection[Endpoint]) -> int:
    """The number of links with these declared endpoints. Each endpoint is of one link, however often it is declared."""
    return (len(endpoints) + 1) // 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """Wanted links, the error of each refused pod by UID, and the pod of each name.

    `namespace_links` is the number of links that the whole namespace declares (`count_links`).
    """

    links: tuple[WantedLink, ...]
    refused: Mapping[str, InvalidIntentError]
    holders: Mapping[str, Pod] = field(default_factory=dict, repr=False, compare=False)
    namespace_links: int = 0
    _ends: Mapping[PodRef, list[tuple[WantedLink, Side]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ends: dict[PodRef, list[tuple[WantedLink, Side]]] = {}
        for wanted in self.links:
            for side in SIDES:
                if (holder := wanted.pod(side)) is not None:
                    ends.setdefault(holder.ref, []).append((wanted, side))
        object.__setattr__(self, "_ends", ends)

    def ends_of(self, pod: Pod) -> tuple[tuple[WantedLink, Side], ...]:
        """The ends of this pod, in the order of the links' names."""
        return tuple(self._ends.get(pod.ref, ()))

    def of(self, pod: Pod) -> Wanted:
        """The same without the links of other pods."""
        links = tuple(one for one in self.links if pod.ref in (other.ref for other in one.pods()))
        return Wanted(links, self.refused, self.holders, self.namespace_links)

    def superseding(self, pod: Pod) -> Pod | None:
        """The pod that has taken this pod's name; None if none has."""
        holder = self.holders.get(meant_name(pod))
        return holder if holder is not None and holder.ref != pod.ref else None
