"""One item of a list of links, whoever lists it: its fields, for both ends or for either, and the link they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from ratchet.core.endpoint_spec import EndpointSpec, Route, Sysctl
from ratchet.core.escape import excerpt
from ratchet.core.intent import values
from ratchet.core.intent.sysctls import DISABLE_IPV6
from ratchet.core.intent.yaml_source import UnreadableError, YamlNode
from ratchet.core.model import Address, Encapsulation, End, Link
from ratchet.core.naming import ordered_record_name

LINKS_MOST = 256  # in one list
# Of each end: a list of two, or where both may be alike one value for both; the others are of the link.
_ALIKE = frozenset({"mtu", "txqlen", "sysctls", "offloads", "rate"})
_APART = frozenset({"addresses", "mac", "routes"})
PROPERTIES = _ALIKE | _APART | {"kind", "vxlan_port"}
_ROUTE_FIELDS = ("to", "via", "metric")

Value = TypeVar("Value")


def items_of(node: YamlNode) -> list[YamlNode]:
    """The items of a list of links. Raises UnreadableError."""
    if node.value == "":
        return []
    if not isinstance(node.value, list):
        raise UnreadableError(node.line, "it is no list of links")
    if len(node.value) > LINKS_MOST:
        raise UnreadableError(node.line, f"{len(node.value)} links are more than {LINKS_MOST}")
    return node.value


class Item:
    """An item, read field by field. Each method raises UnreadableError, with the line and the field."""

    def __init__(self, node: YamlNode, fields: Sequence[str]) -> None:
        """`fields` are those that it needs; besides these it may have any of the properties."""
        if not isinstance(node.value, dict):
            names = " and ".join((", ".join(fields[:-1]), fields[-1]) if fields[1:] else fields)
            raise UnreadableError(node.line, f"it is no link: a link has {names}")
        self.line, self._fields = node.line, node.value
        for field, value in self._fields.items():
            if field not in fields and field not in PROPERTIES:
                raise UnreadableError(value.line, "a link has no such field", excerpt(field))

    def link(self, namespace: str, near: tuple[str, str], far: tuple[str, str]) -> Link:
        """The link between two interfaces, each a pod's name and the interface's, with this item's properties."""
        ends = self._end(0, near), self._end(1, far)
        if twice := {one.ip for one in ends[0].addresses} & {one.ip for one in ends[1].addresses}:
            raise self.fault("addresses", f"{min(map(str, twice))} is there at both ends")
        macs = [end.properties.mac for end in ends]
        if macs[0] is not None and macs[0] == macs[1]:
            raise self.fault("mac", f"{macs[0]} is there at both ends")
        tunnel, port = self._of_link("kind", values.tunnel), self._of_link("vxlan_port", values.port)
        encapsulation = Encapsulation(bool(tunnel), port)
        return Link(ordered_record_name(namespace, near, far), namespace, *ends, encapsulation)

    def fault(self, field: str, cause: object) -> UnreadableError:
        node = self._fields.get(field)
        return UnreadableError(node.line if node else self.line, cause, field)

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
        node = self._of_end("addresses", at)
        addresses = self._read("addresses", node, lambda: values.addresses(_words(node, "addresses")))
        properties = EndpointSpec(
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

    def _refuse_contradictions(self, addresses: tuple[Address, ...], properties: EndpointSpec) -> None:
        """What is right each for itself and cannot be together."""
        ipv6 = any(one.version == 6 for one in addresses) or any(one.to.version == 6 for one in properties.routes)
        if ipv6 and dict(properties.sysctls).get(DISABLE_IPV6):
            raise self.fault("sysctls", f"{DISABLE_IPV6}: the end has IPv6 addresses or routes")
        small = properties.mtu is not None and properties.mtu < values.MTU_LEAST_IPV6
        if small and any(name.startswith("net.ipv6.") for name, _ in properties.sysctls):
            raise self.fault("sysctls", f"an MTU of {properties.mtu} is too small for IPv6 and its settings")

    def _routes(self, node: YamlNode | None, addresses: tuple[Address, ...]) -> tuple[Route, ...]:
        """Those of one end: a single one, or a list."""
        listed = _listed(node)
        if len(listed) > values.ROUTES_MAX:
            raise self.fault("routes", f"{len(listed)} routes are more than {values.ROUTES_MAX}")
        routes = tuple(self._route(one, addresses) for one in listed)
        if len({(one.to, one.metric) for one in routes}) < len(routes):
            raise self.fault("routes", "two lead to one network with one metric")
        return routes

    def _route(self, node: YamlNode, addresses: tuple[Address, ...]) -> Route:
        if not isinstance(node.value, dict) or "to" not in node.value:
            raise UnreadableError(node.line, "a route has to, and perhaps via and metric", "routes")
        if unknown := next((key for key in node.value if key not in _ROUTE_FIELDS), None):
            raise UnreadableError(node.value[unknown].line, "a route has no such field", f"routes: {unknown}")
        fields = {key: _text(value, f"routes: {key}") for key, value in node.value.items()}
        return self._read("routes", node, lambda: values.route(**fields, having=addresses))

    def _sysctls(self, node: YamlNode | None) -> tuple[Sysctl, ...]:
        """Those of one end, in the order of their names."""
        if node is None:
            return ()
        if not isinstance(node.value, dict):
            raise UnreadableError(node.line, "it is no mapping of settings to their values", "sysctls")
        if len(node.value) > values.SYSCTLS_MAX:
            raise UnreadableError(node.line, f"{len(node.value)} are more than {values.SYSCTLS_MAX}", "sysctls")
        found = [
            self._read("sysctls", value, partial(values.sysctl, name, _text(value, f"sysctls: {name}")))
            for name, value in node.value.items()
        ]
        return tuple(sorted(found))

    def _of_link(self, field: str, read: Callable[[str], Value]) -> Value | None:
        """What a field means that is of the whole link."""
        node = self._said(field)
        if node is not None and isinstance(node.value, list):
            raise UnreadableError(node.line, "it is of the link: one value, not one for each end", field)
        return self._understood(field, node, read)

    def _of_end(self, field: str, at: int) -> YamlNode | None:
        """What is said of one end."""
        return self._ends(field, alike=field in _ALIKE)[at]

    def _ends(self, field: str, *, alike: bool = False) -> tuple[YamlNode | None, YamlNode | None]:
        """What is said of either end: a list of two, or where both may be `alike` a single value for both."""
        node = self._said(field)
        if node is None or (alike and isinstance(node.value, str | dict if field == "sysctls" else str)):
            return node, node
        if not isinstance(node.value, list) or len(node.value) != 2:
            raise UnreadableError(node.line, "it is no list of two, one for each end", field)
        near, far = (end if end.value != "" else None for end in node.value)
        return near, far

    def _understood(self, field: str, node: YamlNode | None, read: Callable[[str], Value]) -> Value | None:
        """What a text means; None where nothing is said."""
        return None if node is None else self._read(field, node, lambda: read(_text(node, field)))

    def _said(self, field: str) -> YamlNode | None:
        node = self._fields.get(field)
        return node if node is not None and node.value != "" else None

    def _read(self, field: str, node: YamlNode | None, read: Callable[[], Value]) -> Value:
        try:
            return read()
        except UnreadableError:
            raise
        except ValueError as cause:
            raise UnreadableError(node.line if node else self.line, cause, field) from cause


def _text(node: YamlNode, field: str) -> str:
    if not isinstance(node.value, str):
        raise UnreadableError(node.line, "it is no text", field)
    return node.value


def _words(node: YamlNode | None, field: str) -> list[str]:
    """The texts of a field that is a single one or a list."""
    return [_text(one, field) for one in _listed(node)]


def _listed(node: YamlNode | None) -> list[YamlNode]:
    """What is said as a single thing or as a list of them."""
    if node is None:
        return []
    return node.value if isinstance(node.value, list) else [node]
