"""Lossless reader and writer of ADD's result in each CNI version (SPEC.md, section 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from typing import Any

from ratchet.cni.versions import at_least
from ratchet.core.escape import quoted

Json = Mapping[str, Any]

_RICH = "0.3.0"  # lists of interfaces, ips and routes instead of ip4 and ip6
_UNTYPED = "1.0.0"  # no ips[].version
_DETAILED = "1.1.0"  # more keys in interfaces and routes
_DETAILS = frozenset({"mtu", "socketPath", "pciID", "advmss", "priority", "table", "scope"})


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of the attachment; `sandbox` is the path of its namespace, empty for the host's.

    `mtu` is in bytes and exists since 1.1.0. `extra` are all other keys, unchanged.
    """

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int | None = None
    extra: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IPConfig:
    """An address with prefix length, such as `192.0.2.7/24`; `interface` indexes the result's interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None
    extra: Json = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The IP version, "4" or "6"."""
        return str(ip_interface(self.address).version)


@dataclass(frozen=True, slots=True)
class Route:
    """A route: `dst` such as `192.0.2.0/24`, `gw` an address or empty; `extra` are all other keys."""

    dst: str
    gw: str = ""
    extra: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of ADD. `version` is the version that it was read in, empty if it was not read."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Json = field(default_factory=dict)
    version: str = ""
    extra: Json = field(default_factory=dict)

    @classmethod
    def from_json(cls, obj: object, version: str) -> Result:
        """Read a result that states `version`, one of SUPPORTED. Its actual structure decides how it is read.

        The two need not agree: Debian's loopback states 0.1.0 and prints the lists of 1.0.0. Raises ValueError with a
        cause that names the key: a wrong type, an invalid address, an `ips[].interface` out of range.
        """
        if not isinstance(obj, dict):
            raise _wrong("a result", "an object", obj)
        return _read(obj, version) if _has_lists(obj, version) else _read_legacy(obj, version)

    def to_json(self, version: str) -> dict[str, Any]:
        """Encode the result in `version`, with `cniVersion`. Drops what that version cannot express.

        A version before 0.3.0 has one address of each family, which runtimes take for the pod's own. So these are
        addresses of the first address's interface, and none if that is a loopback interface.
        """
        return _write(self, version) if at_least(version, _RICH) else _write_legacy(self, version)

    def extended(self, interfaces: Iterable[Interface]) -> Result:
        """The result with more interfaces appended, so that `ips[].interface` stays correct."""
        return replace(self, interfaces=(*self.interfaces, *interfaces))

    def has_address_on(self, ifname: str, sandbox: str) -> bool:
        """Whether a runtime finds an address on this interface of this sandbox.

        An address without an interface (IPAM, or a result before 0.3.0) belongs to the attachment, as in containerd's
        go-cni. A loopback address does not count, because a pod cannot be reached at it.
        """
        return any(self._belongs(ip, ifname, sandbox) for ip in self.ips)

    def _belongs(self, ip: IPConfig, ifname: str, sandbox: str) -> bool:
        if ip.interface is None:
            return not ip_interface(ip.address).is_loopback
        interface = self.interfaces[ip.interface]
        return (interface.name, interface.sandbox) == (ifname, sandbox)


def _has_lists(obj: Json, version: str) -> bool:
    if "ips" in obj or "interfaces" in obj:
        return True
    return at_least(version, _RICH) and not ("ip4" in obj or "ip6" in obj)


def _read(obj: Json, version: str) -> Result:
    interfaces = tuple(_read_interface(item, at, version) for at, item in _items(obj, "interfaces"))
    return Result(
        interfaces=interfaces,
        ips=tuple(_read_ip(item, at, len(interfaces)) for at, item in _items(obj, "ips")),
        routes=_read_routes(obj, ""),
        dns=_dns(obj),
        version=version,
        extra=_others(obj, "cniVersion", "interfaces", "ips", "routes", "dns"),
    )


def _read_interface(item: Json, at: str, version: str) -> Interface:
    # Before 1.1.0 an mtu is an unknown key: it is written only in the version that it was read in.
    detailed = at_least(version, _DETAILED)
    known = ("name", "mac", "sandbox", "mtu") if detailed else ("name", "mac", "sandbox")
    return Interface(
        name=_text(item, at, "name", required=True),
        mac=_text(item, at, "mac"),
        sandbox=_text(item, at, "sandbox"),
        mtu=_count(item, at, "mtu") if detailed else None,
        extra=_others(item, *known),
    )


def _read_ip(item: Json, at: str, interfaces: int) -> IPConfig:
    index = _count(item, at, "interface")
    if index is not None and index >= interfaces:
        raise ValueError(f"{at}.interface is {index}, of {interfaces} interfaces")
    return IPConfig(
        address=_address(item, at, "address"),
        gateway=_text(item, at, "gateway"),
        interface=index,
        extra=_others(item, "address", "gateway", "interface", "version"),
    )


def _read_routes(obj: Json, prefix: str) -> tuple[Route, ...]:
    return tuple(
        Route(_address(item, prefix + at, "dst"), _text(item, prefix + at, "gw"), _others(item, "dst", "gw"))
        for at, item in _items(obj, "routes")
    )


def _read_legacy(obj: Json, version: str) -> Result:
    ips: list[IPConfig] = []
    routes: list[Route] = []
    for family in ("ip4", "ip6"):
        part = obj.get(family)
        if part is None:
            continue
        if not isinstance(part, dict):
            raise _wrong(family, "an object", part)
        extra = _others(part, "ip", "gateway", "routes")
        ips.append(IPConfig(_address(part, family, "ip"), _text(part, family, "gateway"), None, extra))
        routes.extend(_read_routes(part, f"{family}."))
    extra = _others(obj, "cniVersion", "ip4", "ip6", "dns")
    return Result(ips=tuple(ips), routes=tuple(routes), dns=_dns(obj), version=version, extra=extra)


def _write(result: Result, version: str) -> dict[str, Any]:
    same = version == result.version
    out: dict[str, Any] = {"cniVersion": version, **_kept(result.extra, version, same=same)}
    if result.interfaces:
        out["interfaces"] = [_write_interface(item, version, same=same) for item in result.interfaces]
    out["ips"] = [_write_ip(item, version, same=same) for item in result.ips]
    if result.routes:
        out["routes"] = [_write_route(item, version, same=same) for item in result.routes]
    out["dns"] = dict(result.dns)
    return out


def _write_interface(item: Interface, version: str, *, same: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"name": item.name}
    out.update({key: text for key, text in (("mac", item.mac), ("sandbox", item.sandbox)) if text})
    if item.mtu is not None and at_least(version, _DETAILED):
        out["mtu"] = item.mtu
    return {**out, **_kept(item.extra, version, same=same)}


def _write_ip(item: IPConfig, version: str, *, same: bool) -> dict[str, Any]:
    out: dict[str, Any] = {} if at_least(version, _UNTYPED) else {"version": item.family}
    out["address"] = item.address
    if item.gateway:
        out["gateway"] = item.gateway
    if item.interface is not None:
        out["interface"] = item.interface
    return {**out, **_kept(item.extra, version, same=same)}


def _write_route(item: Route, version: str, *, same: bool) -> dict[str, Any]:
    out = {"dst": item.dst, "gw": item.gw} if item.gw else {"dst": item.dst}
    return {**out, **_kept(item.extra, version, same=same)}


def _write_legacy(result: Result, version: str) -> dict[str, Any]:
    same = version == result.version
    out: dict[str, Any] = {"cniVersion": version, **_kept(result.extra, version, same=same)}
    first = [ip for ip in result.ips if ip.interface == result.ips[0].interface and not _is_of_loopback(ip)]
    for family in ("4", "6"):
        ip = next((ip for ip in first if ip.family == family), None)
        if ip is not None:
            routes = [route for route in result.routes if str(ip_interface(route.dst).version) == family]
            out[f"ip{family}"] = _write_legacy_ip(ip, routes, version, same=same)
    out["dns"] = dict(result.dns)
    return out


def _is_of_loopback(ip: IPConfig) -> bool:
    return ip.interface is not None and ip_interface(ip.address).is_loopback


def _write_legacy_ip(ip: IPConfig, routes: list[Route], version: str, *, same: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"ip": ip.address}
    if ip.gateway:
        out["gateway"] = ip.gateway
    if routes:
        out["routes"] = [_write_route(route, version, same=same) for route in routes]
    return {**out, **_kept(ip.extra, version, same=same)}


def _kept(extra: Json, version: str, *, same: bool) -> dict[str, Any]:
    # A key that only 1.1.0 defines is written in the version that it was read in, and in 1.1.0.
    later = frozenset() if same or at_least(version, _DETAILED) else _DETAILS
    return {key: value for key, value in extra.items() if key not in later}


def _items(obj: Json, key: str) -> list[tuple[str, Json]]:
    value = obj.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(key, "a list", value)
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise _wrong(f"{key}[{index}]", "an object", item)
    return [(f"{key}[{index}]", item) for index, item in enumerate(value)]


def _text(item: Json, at: str, key: str, *, required: bool = False) -> str:
    value = item.get(key)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise _wrong(f"{at}.{key}", "a string", value)
    return value


def _address(item: Json, at: str, key: str) -> str:
    value = item.get(key)
    try:
        # ip_interface accepts a number or a bare address; the specification does not.
        if not isinstance(value, str) or "/" not in value:
            raise ValueError("no prefix length")
        ip_interface(value)
    except ValueError as error:
        raise _wrong(f"{at}.{key}", "an address with its prefix length", value) from error
    return value


def _count(item: Json, at: str, key: str) -> int | None:
    value = item.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise _wrong(f"{at}.{key}", "a whole number", value)
    return value


def _dns(obj: Json) -> Json:
    value = obj.get("dns")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong("dns", "an object", value)
    return value


def _others(obj: Json, *known: str) -> Json:
    return {key: value for key, value in obj.items() if key not in known}


def _wrong(at: str, wanted: str, value: object) -> ValueError:
    return ValueError(f"{at} must be {wanted}, not {quoted(value)}")
