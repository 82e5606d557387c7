"""Changes of a link's declaration that its record does not have yet.

Running pods follow those of topologies; the others wait for a restart of the primary's pod.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from ratchet.core.endpoint_spec import EndpointSpec, EndState, rate_text
from ratchet.core.intent import Wanted, WantedLink
from ratchet.core.kinds import Wiring
from ratchet.core.model import Encapsulation, End, Link, Side
from ratchet.core.packed import Packed
from ratchet.errors import InvalidIntentError

NOT_DECLARED = "nothing asks for it any more"


@dataclass(frozen=True, slots=True)
class Edits:
    """The differences between a link's record and its declaration, in words. False if there are none.

    `live`: the link follows them while its pods run.
    """

    words: tuple[str, ...] = ()
    live: bool = False

    def __bool__(self) -> bool:
        return bool(self.words)

    def text(self, record: Link) -> str:
        """The message for people about the record of a link that was edited."""
        sandbox = record.primary.sandbox
        if self.live and sandbox is not None:
            return f"waits for the agent of node {sandbox.node} to apply an edit: {'; '.join(self.words)}"
        return f"wants a restart of pod {sandbox.pod if sandbox else record.primary.name}: {'; '.join(self.words)}"


@dataclass(frozen=True, slots=True)
class DeclaredDifferences:
    """The differences between two declarations of one link, in words: of its wiring, its encapsulation and each end."""

    wiring: tuple[str, ...] = ()
    encapsulation: tuple[str, ...] = ()
    primary: tuple[str, ...] = ()
    pair: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """All but those of the wiring."""
        return (*self.encapsulation, *self.primary, *self.pair)

    @property
    def words(self) -> tuple[str, ...]:
        return (*self.wiring, *self.settings)

    def end(self, side: Side) -> tuple[str, ...]:
        return self.primary if side is Side.PRIMARY else self.pair


def edits_of(record: Link, wanted: Wanted) -> Edits:
    """The edits of a link. There are none until its primary has joined. `wanted` are the links of its namespace."""
    link = next((one for one in wanted.links if one.is_recorded_as(record.name)), None)
    primary = record.primary.sandbox
    return edits(record, link, wanted.refused.get(primary.pod.uid) if primary is not None else None)


def edits(record: Link, wanted: WantedLink | None, refusal: InvalidIntentError | None = None) -> Edits:
    """As `edits_of`, for one link. `wanted` is the link as declared, None if nothing declares it.

    `refusal` is the error of its primary's declaration.
    """
    if record.primary.sandbox is None:
        return Edits()
    if refusal is not None:
        return Edits((f"its pod would be refused now: {refusal}",))
    if wanted is None:
        return Edits((NOT_DECLARED,))
    found = declared_differences(record, wanted)
    return Edits(found.words, live=wanted.live and not found.wiring)


def as_followed(declared: Link, made: Link) -> Link:
    """The declared link as running pods can follow it: a `state` waits until the link is in panel wiring."""
    if made.wiring is Wiring.PANEL:
        return declared
    for side in Side:
        end = declared.end(side)
        declared = declared.with_end(side, replace(end, properties=replace(end.properties, state=EndState.UP)))
    return declared


def declared_differences(made: Link, wanted: WantedLink) -> DeclaredDifferences:
    """The differences between a link as it was declared, such as its record, and as it is declared now."""
    wiring, link = tuple(_wiring_edits(made, wanted)), as_followed(wanted.link.oriented_as(made), made)
    if made.intends_the_same_as(link):
        return DeclaredDifferences(wiring)
    primary, pair = (
        tuple(f"{made.end(side).ifname}: {words}" for words in _end_edits(made.end(side), link.end(side)))
        for side in Side
    )
    return DeclaredDifferences(
        wiring, tuple(_encapsulation_edits(made.encapsulation, link.encapsulation)), primary, pair
    )


def _wiring_edits(made: Link, wanted: WantedLink) -> Iterator[str]:
    """Without a declared wiring or `state`, none is wanted: the node's default is for new links."""
    required, why = wanted.required_wiring, " for its state" if wanted.wiring is None else ""
    if required is not None and required is not made.wiring:
        yield f"wiring {required} instead of {made.wiring}{why}, which needs a restart of both pods at once"


def _encapsulation_edits(made: Encapsulation, wanted: Encapsulation) -> Iterator[str]:
    if made.tunnel != wanted.tunnel:
        kinds = ("vxlan" if encapsulation.tunnel else "auto" for encapsulation in (wanted, made))
        yield "kind {} instead of {}".format(*kinds)
    if made.vxlan_port != wanted.vxlan_port:
        yield f"vxlan_port {_text(wanted.vxlan_port)} instead of {_text(made.vxlan_port)}"


def _end_edits(made: End, wanted: End) -> Iterator[str]:
    if made.addresses != wanted.addresses and frozenset(made.addresses) != frozenset(wanted.addresses):
        yield f"addresses {_text(wanted.addresses)} instead of {_text(made.addresses)}"
    for field in fields(EndpointSpec):
        now, before = (getattr(end.properties, field.name) for end in (wanted, made))
        if now != before:
            text = _rate if field.name == "rate" else _text
            yield f"{field.name} {text(now)} instead of {text(before)}"


def _rate(rate: int | None) -> str:
    return _text(rate) if rate is None else rate_text(rate)


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "on" if value else "off"
        case (str() as name, int() as number):
            return f"{name}={number}"
        case tuple() | Packed():
            return ", ".join(map(_text, value)) or "none"
    return str(value)
