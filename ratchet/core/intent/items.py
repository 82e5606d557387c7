"""One item of a list of links, whoever lists it: its fields, for both ends or for either, and the link they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from ratchet.core.intent import values
from ratchet.core.intent.located import Said, UnreadableError
from ratchet.core.model import Address, End, Link, Properties
from ratchet.core.naming import record_name

LINKS_MOST = 256  # in one list
PROPERTIES = frozenset({"addresses", "mtu", "mac"})

Value = TypeVar("Value")


def items_of(said: Said) -> list[Said]:
    """The items of a list of links. Raises UnreadableError."""
    if said.value == "":
        return []
    if not isinstance(said.value, list):
        raise UnreadableError(said.line, "it is no list of links")
    if len(said.value) > LINKS_MOST:
        raise UnreadableError(said.line, f"{len(said.value)} links are more than {LINKS_MOST}")
    return said.value


class Item:
    """An item, read field by field. Each method raises UnreadableError, with the line and the field."""

    def __init__(self, said: Said, fields: Sequence[str]) -> None:
        """`fields` are those that it needs; besides these it may have any of the properties."""
        if not isinstance(said.value, dict):
            names = " and ".join((", ".join(fields[:-1]), fields[-1]) if fields[1:] else fields)
            raise UnreadableError(said.line, f"it is no link: a link has {names}")
        self.line, self._fields = said.line, said.value
        for field, value in self._fields.items():
            if field not in fields and field not in PROPERTIES:
                raise UnreadableError(value.line, "a link has no such field", values.shown(field))

    def link(self, namespace: str, near: tuple[str, str], far: tuple[str, str]) -> Link:
        """The link between two interfaces, each a pod's name and the interface's, with this item's properties."""
        near_addresses, far_addresses = (self._addresses(said) for said in self._ends("addresses"))
        if twice := {one.ip for one in near_addresses} & {one.ip for one in far_addresses}:
            raise self.fault("addresses", f"{min(map(str, twice))} is there at both ends")
        near_mtu, far_mtu = (
            self._understood("mtu", said, partial(values.mtu, having=having))
            for said, having in zip(self._ends("mtu", alike=True), (near_addresses, far_addresses), strict=True)
        )
        near_mac, far_mac = (self._understood("mac", said, values.mac) for said in self._ends("mac"))
        if near_mac is not None and near_mac == far_mac:
            raise self.fault("mac", f"{near_mac} is there at both ends")
        return Link(
            name=record_name(namespace, *near, *far),
            namespace=namespace,
            primary=End(*near, near_addresses, Properties(near_mtu, near_mac)),
            pair=End(*far, far_addresses, Properties(far_mtu, far_mac)),
        )

    def fault(self, field: str, cause: object) -> UnreadableError:
        said = self._fields.get(field)
        return UnreadableError(said.line if said else self.line, cause, field)

    def needed(self, field: str, read: Callable[[str], Value]) -> Value:
        understood = self._understood(field, self._said(field), read)
        if understood is None:
            raise self.fault(field, "it is missing")
        return understood

    def two(self, field: str) -> tuple[str, str]:
        """The texts of a field that is a list of two."""
        near, far = self._ends(field)
        if near is None or far is None:
            raise self.fault(field, "it is missing" if near is far else "it is no list of two, one for each end")
        return _text(near, field), _text(far, field)

    def _ends(self, field: str, *, alike: bool = False) -> tuple[Said | None, Said | None]:
        """What is said of either end: a list of two, or where both may be `alike` a single value for both."""
        said = self._said(field)
        if said is None or (alike and isinstance(said.value, str)):
            return said, said
        if not isinstance(said.value, list) or len(said.value) != 2:
            raise UnreadableError(said.line, "it is no list of two, one for each end", field)
        near, far = (end if end.value != "" else None for end in said.value)
        return near, far

    def _addresses(self, said: Said | None) -> tuple[Address, ...]:
        """Those of one end: a single one, or a list."""
        words = [] if said is None else said.value if isinstance(said.value, list) else [said]
        return self._read("addresses", said, lambda: values.addresses([_text(word, "addresses") for word in words]))

    def _understood(self, field: str, said: Said | None, read: Callable[[str], Value]) -> Value | None:
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
            raise UnreadableError(said.line if said else self.line, cause, field) from cause


def _text(said: Said, field: str) -> str:
    if not isinstance(said.value, str):
        raise UnreadableError(said.line, "it is no text", field)
    return said.value
