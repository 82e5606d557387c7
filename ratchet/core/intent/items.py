"""One item of a list of links, whoever lists it: its fields, for both ends or for either, and the link they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from ratchet.core.intent import values
from ratchet.core.intent.located import Said, UnreadableError
from ratchet.core.intent.sysctls import DISABLE_IPV6
from ratchet.core.model import Address, End, Link, Means
from ratchet.core.naming import ordered_record_name
from ratchet.core.properties import Properties, Route, Sysctl

LINKS_MOST = 256  # in one list
# Of each end: a list of two, or where both may be alike one value for both; the others are of the link.
_ALIKE = frozenset({"mtu", "txqlen", "sysctls", "offloads", "rate"})
_APART = frozenset({"addresses", "mac", "routes"})
PROPERTIES = _ALIKE | _APART | {"kind", "vxlan_port"}
_ROUTE_FIELDS = ("to", "via", "metric")

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
        ends = self._end(0, near), self._end(1, far)
        if twice := {one.ip for one in ends[0].addresses} & {one.ip for one in ends[1].addresses}:
            raise self.fault("addresses", f"{min(map(str, twice))} is there at both ends")
        macs = [end.properties.mac for end in ends]
        if macs[0] is not None and macs[0] == macs[1]:
            raise self.fault("mac", f"{macs[0]} is there at both ends")
        tunnel, port = self._of_link("kind", values.tunnel), self._of_link("vxlan_port", values.port)
        means = Means(bool(tunnel), port)
        return Link(ordered_record_name(namespace, near, far), namespace, *ends, means)

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

    def _end(self, at: int, where: tuple[str, str]) -> End:
        """One end, which is the first or the second; with what is said of it, or of both."""
        said = self._of_end("addresses", at)
        addresses = self._read("addresses", said, lambda: values.addresses(_words(said, "addresses")))
        properties = Properties(
            mtu=self._understood("mtu", self._of_end("mtu", at), partial(values.mtu, having=addresses)),
            mac=self._understood("mac", self._of_end("mac", at), values.mac),
            txqlen=self._understood("txqlen", self._of_end("txqlen", at), values.txqlen),
            routes=self._routes(self._of_end("routes", at), addresses),
            sysctls=self._sysctls(self._of_end("sysctls", at)),
            offloads=self._understood("offloads", self._of_end("offloads", at), values.offloads) is not False,
            rate=self._understood("rate", self._of_end("rate", at), values.rate),
        )
        self._refuse_contradictions(addresses, properties)
        return End(*where, addresses, properties)

    def _refuse_contradictions(self, addresses: tuple[Address, ...], properties: Properties) -> None:
        """What is right each for itself and cannot be together."""
        ipv6 = any(one.version == 6 for one in addresses) or any(one.to.version == 6 for one in properties.routes)
        if ipv6 and dict(properties.sysctls).get(DISABLE_IPV6):
            raise self.fault("sysctls", f"{DISABLE_IPV6}: the end has IPv6 addresses or routes")
        small = properties.mtu is not None and properties.mtu < values.MTU_LEAST_IPV6
        if small and any(name.startswith("net.ipv6.") for name, _ in properties.sysctls):
            raise self.fault("sysctls", f"an MTU of {properties.mtu} is too small for IPv6 and its settings")

    def _routes(self, said: Said | None, addresses: tuple[Address, ...]) -> tuple[Route, ...]:
        """Those of one end: a single one, or a list."""
        listed = _listed(said)
        if len(listed) > values.ROUTES_MAX:
            raise self.fault("routes", f"{len(listed)} routes are more than {values.ROUTES_MAX}")
        routes = tuple(self._route(one, addresses) for one in listed)
        if len({(one.to, one.metric) for one in routes}) < len(routes):
            raise self.fault("routes", "two lead to one network with one metric")
        return routes

    def _route(self, said: Said, addresses: tuple[Address, ...]) -> Route:
        if not isinstance(said.value, dict) or "to" not in said.value:
            raise UnreadableError(said.line, "a route has to, and perhaps via and metric", "routes")
        if unknown := next((key for key in said.value if key not in _ROUTE_FIELDS), None):
            raise UnreadableError(said.value[unknown].line, "a route has no such field", f"routes: {unknown}")
        fields = {key: _text(value, f"routes: {key}") for key, value in said.value.items()}
        return self._read("routes", said, lambda: values.route(**fields, having=addresses))

    def _sysctls(self, said: Said | None) -> tuple[Sysctl, ...]:
        """Those of one end, in the order of their names."""
        if said is None:
            return ()
        if not isinstance(said.value, dict):
            raise UnreadableError(said.line, "it is no mapping of settings to their values", "sysctls")
        if len(said.value) > values.SYSCTLS_MAX:
            raise UnreadableError(said.line, f"{len(said.value)} are more than {values.SYSCTLS_MAX}", "sysctls")
        found = [
            self._read("sysctls", value, partial(values.sysctl, name, _text(value, f"sysctls: {name}")))
            for name, value in said.value.items()
        ]
        return tuple(sorted(found))

    def _of_link(self, field: str, read: Callable[[str], Value]) -> Value | None:
        """What a field means that is of the whole link."""
        said = self._said(field)
        if said is not None and isinstance(said.value, list):
            raise UnreadableError(said.line, "it is of the link: one value, not one for each end", field)
        return self._understood(field, said, read)

    def _of_end(self, field: str, at: int) -> Said | None:
        """What is said of one end."""
        return self._ends(field, alike=field in _ALIKE)[at]

    def _ends(self, field: str, *, alike: bool = False) -> tuple[Said | None, Said | None]:
        """What is said of either end: a list of two, or where both may be `alike` a single value for both."""
        said = self._said(field)
        if said is None or (alike and isinstance(said.value, str | dict if field == "sysctls" else str)):
            return said, said
        if not isinstance(said.value, list) or len(said.value) != 2:
            raise UnreadableError(said.line, "it is no list of two, one for each end", field)
        near, far = (end if end.value != "" else None for end in said.value)
        return near, far

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


def _words(said: Said | None, field: str) -> list[str]:
    """The texts of a field that is a single one or a list."""
    return [_text(one, field) for one in _listed(said)]


def _listed(said: Said | None) -> list[Said]:
    """What is said as a single thing or as a list of them."""
    if said is None:
        return []
    return said.value if isinstance(said.value, list) else [said]
