"""One item of a list of links: its fields, of the link or of its ends, and the link that it declares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from ratchet.core.endpoint_spec import Address, EndpointSpec, EndState, Route, Sysctl
from ratchet.core.escape import excerpt
from ratchet.core.intent import values
from ratchet.core.intent.declared import DeclaredLink
from ratchet.core.intent.yaml_source import UnreadableError, YamlNode
from ratchet.core.kinds import Wiring
from ratchet.core.model import Encapsulation, End, Link
from ratchet.core.naming import ordered_record_name
from ratchet.core.sysctls import DISABLE_IPV6

LINKS_MOST = 256  # in one list
# Fields of the ends: a list of two, or for those of _ALIKE one value for both. Other fields are of the link.
_ALIKE = frozenset({"mtu", "txqlen", "sysctls", "offloads", "rate"})
_APART = frozenset({"addresses", "mac", "routes"})
PROPERTIES = _ALIKE | _APART | {"kind", "vxlan_port", "wiring", "state"}
_ROUTE_FIELDS = ("to", "via", "metric")

Value = TypeVar("Value")


def items_of(node: YamlNode) -> list[YamlNode]:
    """The items of a list of links. Raises UnreadableError."""
    if node.value == "":
        return []
    if not isinstance(node.value, list):
        raise UnreadableError(node.line, "expected a list of links")
    if len(node.value) > LINKS_MOST:
        raise UnreadableError(node.line, f"too many links: {len(node.value)}, at most {LINKS_MOST}")
    return node.value


class Item:
    """An item, read field by field. Each method raises UnreadableError with the line and the field."""

    def __init__(self, node: YamlNode, fields: Sequence[str], optional: Collection[str] = ()) -> None:
        """`fields` are the required fields. The item may have the `optional` ones and any of the PROPERTIES too."""
        if not isinstance(node.value, dict):
            names = " and ".join((", ".join(fields[:-1]), fields[-1]) if fields[1:] else fields)
            raise UnreadableError(node.line, f"expected a link with {names}")
        self.line, self._fields = node.line, node.value
        for field, value in self._fields.items():
            if field not in fields and field not in PROPERTIES and field not in optional:
                raise UnreadableError(value.line, "unknown field of a link", excerpt(field))

    def link(self, place: str, namespace: str, near: tuple[str, str], far: tuple[str, str]) -> DeclaredLink:
        """The link between two endpoints (pod name, interface name), with this item's properties."""
        ends = self._end(0, near), self._end(1, far)
        if twice := {one.ip for one in ends[0].addresses} & {one.ip for one in ends[1].addresses}:
            raise self.fault("addresses", f"both ends have {min(map(str, twice))}")
        macs = [end.properties.mac for end in ends]
        if macs[0] is not None and macs[0] == macs[1]:
            raise self.fault("mac", f"both ends have {macs[0]}")
        tunnel, port = self.of_link("kind", values.tunnel), self.of_link("vxlan_port", values.port)
        link = Link(ordered_record_name(namespace, near, far), namespace, *ends, Encapsulation(bool(tunnel), port))
        wiring = self.of_link("wiring", values.wiring)
        if wiring is Wiring.DIRECT and {end.properties.state for end in ends} != {EndState.UP}:
            raise self.fault("state", "a link in direct wiring cannot be down: it needs wiring: panel")
        return DeclaredLink(place, link, wiring)

    def fault(self, field: str, cause: object) -> UnreadableError:
        node = self._fields.get(field)
        return UnreadableError(node.line if node else self.line, cause, field)

    def needed(self, field: str, read: Callable[[str], Value]) -> Value:
        value = self._value(field, self._node(field), read)
        if value is None:
            raise self.fault(field, "it is missing")
        return value

    def two(self, field: str) -> tuple[str, str]:
        """The two texts of a field that is a list of two."""
        near, far = self._ends(field)
        if near is None or far is None:
            raise self.fault(field, "it is missing" if near is far else "expected a list of two, one for each end")
        return _text(near, field), _text(far, field)

    def _end(self, at: int, where: tuple[str, str]) -> End:
        """The first or the second end (`at`), with its own values and those for both ends."""
        node = self._of_end("addresses", at)
        addresses = self._read("addresses", node, lambda: values.addresses(_words(node, "addresses")))
        properties = EndpointSpec(
            mtu=self._value("mtu", self._of_end("mtu", at), partial(values.mtu, having=addresses)),
            mac=self._value("mac", self._of_end("mac", at), values.mac),
            txqlen=self._value("txqlen", self._of_end("txqlen", at), values.txqlen),
            routes=self._routes(self._of_end("routes", at), addresses),
            sysctls=self._sysctls(self._of_end("sysctls", at)),
            offloads=self._value("offloads", self._of_end("offloads", at), values.offloads) is not False,
            rate=self._value("rate", self._of_end("rate", at), values.rate),
            state=self._state(at),
        )
        self._refuse_contradictions(addresses, properties)
        return End(*where, addresses, properties)

    def _refuse_contradictions(self, addresses: tuple[Address, ...], properties: EndpointSpec) -> None:
        """Raise UnreadableError for values that are valid alone and contradict each other."""
        ipv6 = any(one.version == 6 for one in addresses) or any(one.to.version == 6 for one in properties.routes)
        if ipv6 and dict(properties.sysctls).get(DISABLE_IPV6):
            raise self.fault("sysctls", f"{DISABLE_IPV6}: the end has IPv6 addresses or routes")
        small = properties.mtu is not None and properties.mtu < values.MTU_LEAST_IPV6
        if small and any(name.startswith("net.ipv6.") for name, _ in properties.sysctls):
            raise self.fault("sysctls", f"an MTU of {properties.mtu} is too small for IPv6 and its settings")

    def _routes(self, node: YamlNode | None, addresses: tuple[Address, ...]) -> tuple[Route, ...]:
        """The routes of one end: a single one, or a list."""
        listed = _listed(node)
        if len(listed) > values.ROUTES_MAX:
            raise self.fault("routes", f"too many routes: {len(listed)}, at most {values.ROUTES_MAX}")
        routes = tuple(self._route(one, addresses) for one in listed)
        if len({(one.to, one.metric) for one in routes}) < len(routes):
            raise self.fault("routes", "two routes have the same network and metric")
        return routes

    def _route(self, node: YamlNode, addresses: tuple[Address, ...]) -> Route:
        if not isinstance(node.value, dict) or "to" not in node.value:
            raise UnreadableError(node.line, "expected a route with to, and optionally via and metric", "routes")
        if unknown := next((key for key in node.value if key not in _ROUTE_FIELDS), None):
            raise UnreadableError(node.value[unknown].line, "unknown field of a route", f"routes: {unknown}")
        fields = {key: _text(value, f"routes: {key}") for key, value in node.value.items()}
        return self._read("routes", node, lambda: values.route(**fields, having=addresses))

    def _sysctls(self, node: YamlNode | None) -> tuple[Sysctl, ...]:
        """The sysctls of one end, in the order of their names."""
        if node is None:
            return ()
        if not isinstance(node.value, dict):
            raise UnreadableError(node.line, "expected a mapping of sysctls to values", "sysctls")
        if len(node.value) > values.SYSCTLS_MAX:
            raise UnreadableError(
                node.line, f"too many sysctls: {len(node.value)}, at most {values.SYSCTLS_MAX}", "sysctls"
            )
        found = [
            self._read("sysctls", value, partial(values.sysctl, name, _text(value, f"sysctls: {name}")))
            for name, value in node.value.items()
        ]
        return tuple(sorted(found))

    def _state(self, at: int) -> EndState:
        """The state of one end. One value is about the carrier, a list of two about what each pod sends."""
        node, down = self._node("state"), EndState.DOWN
        if node is not None and isinstance(node.value, list):
            node, down = self._ends("state")[at], EndState.CUT
        is_up = self._value("state", node, values.is_up)
        return down if is_up is False else EndState.UP

    def of_link(self, field: str, read: Callable[[str], Value]) -> Value | None:
        """The value of a field of the whole link."""
        node = self._node(field)
        if node is not None and isinstance(node.value, list):
            raise UnreadableError(node.line, "expected one value for the link, not one for each end", field)
        return self._value(field, node, read)

    def _of_end(self, field: str, at: int) -> YamlNode | None:
        """The node of one end in a field of the ends."""
        return self._ends(field, alike=field in _ALIKE)[at]

    def _ends(self, field: str, *, alike: bool = False) -> tuple[YamlNode | None, YamlNode | None]:
        """The nodes of both ends: a list of two, or with `alike` one value for both."""
        node = self._node(field)
        if node is None or (alike and isinstance(node.value, str | dict if field == "sysctls" else str)):
            return node, node
        if not isinstance(node.value, list) or len(node.value) != 2:
            raise UnreadableError(node.line, "expected a list of two, one for each end", field)
        near, far = (end if end.value != "" else None for end in node.value)
        return near, far

    def _value(self, field: str, node: YamlNode | None, read: Callable[[str], Value]) -> Value | None:
        """The value of a text; None if the field is missing."""
        return None if node is None else self._read(field, node, lambda: read(_text(node, field)))

    def _node(self, field: str) -> YamlNode | None:
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
        raise UnreadableError(node.line, "expected text", field)
    return node.value


def _words(node: YamlNode | None, field: str) -> list[str]:
    """The texts of a field that is one text or a list."""
    return [_text(one, field) for one in _listed(node)]


def _listed(node: YamlNode | None) -> list[YamlNode]:
    """The items of a field that is one item or a list."""
    if node is None:
        return []
    return node.value if isinstance(node.value, list) else [node]
