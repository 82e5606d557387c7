"""The links that a pod lists in its annotation `ratchet.links`: any number, each with its properties.

A YAML or JSON list. An item has `peer`, `ifname` and `peer_ifname`, and besides what is to be of the link: of both ends
alike, or of either, as a list of two, this pod's end first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TypeVar

from ratchet.core.intent import values
from ratchet.core.intent.located import Said, UnreadableError, read
from ratchet.core.intent.pods import meant_name, refusal
from ratchet.core.model import Address, End, Link, Pod, Properties
from ratchet.core.naming import record_name

LINKS = "ratchet.links"
LINKS_MOST = 256
_FIELDS = frozenset({"peer", "ifname", "peer_ifname", "addresses", "mtu", "mac"})

Value = TypeVar("Value")


def listed_links(pod: Pod, reserved: Collection[str]) -> list[tuple[str, Link]]:
    """The links that a pod lists, each with the place where it is said. Raises InvalidIntentError."""
    text = pod.annotations.get(LINKS)
    if text is None:
        return []
    try:
        return list(_links(pod, read(text), reserved))
    except UnreadableError as cause:
        place = f"{LINKS}: line {cause.line}"
        raise refusal(pod, f"{place}: {cause.field}" if cause.field else place, cause.cause) from cause


def _links(pod: Pod, said: Said, reserved: Collection[str]) -> Iterator[tuple[str, Link]]:
    if said.value == "":
        return
    if not isinstance(said.value, list):
        raise UnreadableError(said.line, "it is no list of links")
    if len(said.value) > LINKS_MOST:
        raise UnreadableError(said.line, f"{len(said.value)} links are more than {LINKS_MOST}")
    for item in said.value:
        yield f"{LINKS}: line {item.line}", _link(pod, _Item(item), reserved)


def _link(pod: Pod, item: _Item, reserved: Collection[str]) -> Link:
    name = meant_name(pod)
    peer = item.needed("peer", values.pod_name)
    if peer in (name, pod.ref.name):
        raise item.fault("peer", "a pod cannot be linked to itself")
    ifname, peer_ifname = (
        item.needed(field, partial(values.interface_name, reserved=reserved)) for field in ("ifname", "peer_ifname")
    )
    near, far = (item.addresses(said) for said in item.ends("addresses"))
    if twice := {one.ip for one in near} & {one.ip for one in far}:
        raise item.fault("addresses", f"{min(map(str, twice))} is there at both ends")
    near_mtu, far_mtu = (
        item.understood("mtu", said, partial(values.mtu, having=having))
        for said, having in zip(item.ends("mtu", alike=True), (near, far), strict=True)
    )
    near_mac, far_mac = (item.understood("mac", said, values.mac) for said in item.ends("mac"))
    if near_mac is not None and near_mac == far_mac:
        raise item.fault("mac", f"{near_mac} is there at both ends")
    return Link(
        name=record_name(pod.ref.namespace, name, ifname, peer, peer_ifname),
        namespace=pod.ref.namespace,
        primary=End(name, ifname, near, Properties(near_mtu, near_mac)),
        pair=End(peer, peer_ifname, far, Properties(far_mtu, far_mac)),
    )


class _Item:
    """One item of a list, read field by field. Each method raises UnreadableError, with the line and the field."""

    def __init__(self, said: Said) -> None:
        if not isinstance(said.value, dict):
            raise UnreadableError(said.line, "it is no link: a link has peer, ifname and peer_ifname")
        self._line, self._fields = said.line, said.value
        for field, value in self._fields.items():
            if field not in _FIELDS:
                raise UnreadableError(value.line, "a link has no such field", values.shown(field))

    def fault(self, field: str, cause: object) -> UnreadableError:
        said = self._fields.get(field)
        return UnreadableError(said.line if said else self._line, cause, field)

    def needed(self, field: str, read: Callable[[str], Value]) -> Value:
        understood = self.understood(field, self._said(field), read)
        if understood is None:
            raise self.fault(field, "it is missing")
        return understood

    def ends(self, field: str, *, alike: bool = False) -> tuple[Said | None, Said | None]:
        """What is said of either end: a list of two, or where both may be `alike` a single value for both."""
        said = self._said(field)
        if said is None or (alike and isinstance(said.value, str)):
            return said, said
        if not isinstance(said.value, list) or len(said.value) != 2:
            raise UnreadableError(said.line, "it is no list of two, one for each end", field)
        near, far = (end if end.value != "" else None for end in said.value)
        return near, far

    def addresses(self, said: Said | None) -> tuple[Address, ...]:
        """Those of one end: a single one, or a list."""
        words = [] if said is None else said.value if isinstance(said.value, list) else [said]
        return self._read("addresses", said, lambda: values.addresses([_text(word, "addresses") for word in words]))

    def understood(self, field: str, said: Said | None, read: Callable[[str], Value]) -> Value | None:
        """What a text means; None where nothing is said."""
        return None if said is None else self._read(field, said, lambda: read(_text(said, field)))

    def _said(self, field: str) -> Said | None:
        said = self._fields.get(field)
        return said if said is not None and said.value != "" else None

    def _read(self, field: str, said: Said | None, read: Callable[[], Value]) -> Value:
        try:
            return read()
        except UnreadableError:
            raise
        except ValueError as cause:
            raise UnreadableError(said.line if said else self._line, cause, field) from cause


def _text(said: Said, field: str) -> str:
    if not isinstance(said.value, str):
        raise UnreadableError(said.line, "it is no text", field)
    return said.value
