"""The node's VTEP and underlay interface: as configured, else by its API addresses, else by routes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from ratchet.core.interface import Device, Parent
from ratchet.datapath import messages
from ratchet.datapath.message_classes import rtmsg
from ratchet.datapath.nlattr import HEADER, RTMSG
from ratchet.datapath.parse import Given, addresses_of, has_ports, is_loopback, links_of, read_link
from ratchet.datapath.rtnetlink import Channel
from ratchet.errors import InvalidConfigError

IpAddress = IPv4Address | IPv6Address

RT_TABLE_MAIN = 254
RTN_UNICAST = 1


@dataclass(frozen=True, slots=True)
class _Hop:
    """A next hop of a route: its interface, the route's metric and MTU in bytes (0: the interface's)."""

    metric: int
    index: int
    mtu: int


def find_parent(ifname: str | None, address: str | None, node_addresses: Sequence[str] = ()) -> Parent:
    """Find the VTEP and the underlay interface in the caller's network namespace.

    `ifname` and `address` are the configuration's `parent_interface` and `parent_address`; `node_addresses` are the
    node's InternalIP addresses in the API. With `ifname` alone, a node address on that interface is preferred to its
    first address. With neither, the VTEP is the first node address that an interface carries. If there is none, it is
    an address on the interface of the default route with the lowest metric, IPv4 before IPv6.

    The VTEP of the other address family is on the same interface: the first node address there if the VTEP is a node
    address, else the first address. With `address` there is none.

    An interface without egress (loopback, dummy, bridge without ports) does not pin the tunnels: see `_unpinned`.

    Raises InvalidConfigError, which names the key.
    """
    if address and _read_address(address) is None:
        raise InvalidConfigError(f'cannot use parent_address "{address}": not an IP address')
    with Channel() as channel:
        given = addresses_of(channel)
        if ifname:
            return _on_interface(channel, given, ifname, address, node_addresses)
        if address:
            found = _carrier(given, [address])
            if found is None:
                raise _unusable("parent_address", address, "no interface of the node carries it", channel)
            return _parent(channel, found)
        node_address = _carrier(given, node_addresses)
        found = node_address or _on_default_route(channel, given)
        if found is None:
            raise InvalidConfigError(
                "cannot find a parent interface for tunnels: no default route leads over an interface with an address",
                details=f"Set parent_interface or parent_address. {_interfaces(channel)}",
            )
        return _parent(channel, found, _of_other_family(given, found, node_addresses if node_address else None))


def _on_interface(
    channel: Channel, given: Iterable[Given], ifname: str, address: str | None, node_addresses: Sequence[str]
) -> Parent:
    (answer,) = channel.exchange(messages.link_named(ifname))
    if answer.refusal is not None:
        raise _unusable("parent_interface", ifname, "no such interface", channel)
    device = read_link(answer.messages[0]).device
    own = [one for one in given if one.index == device.index]
    if address:
        found, other = _carrier(own, [address]), None
    else:
        node_address = _carrier(own, node_addresses)
        found = node_address or _first(own)
        other = _of_other_family(own, found, node_addresses if node_address else None)
    if found is not None:
        return _parent(channel, found, other)
    carried = ", ".join(str(one.address.ip) for one in own) or "no address"
    if address:
        error = _unusable("parent_address", address, f"{ifname} does not carry it", channel)
        error.details = f"{ifname} carries {carried}."
        raise error
    error = _unusable("parent_interface", ifname, "it has no global address", channel)
    error.details = f"It carries {carried}. Give it an address, or name another interface."
    raise error


def _carrier(given: Iterable[Given], addresses: Iterable[str]) -> Given | None:
    """The first of `addresses` that an interface carries."""
    carried: dict[IpAddress | None, Given] = {one.address.ip: one for one in given}
    return next((carried[one] for one in map(_read_address, addresses) if one in carried), None)


def _read_address(text: str) -> IpAddress | None:
    """Parse an address; None if it is not one, because a Node also lists host names as addresses."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def _first(given: Iterable[Given]) -> Given | None:
    """The first global address, IPv4 before IPv6."""
    fit = [one for one in given if one.fit]
    return min(fit, key=lambda one: one.address.version, default=None)


def _of_other_family(given: Iterable[Given], found: Given | None, node_addresses: Iterable[str] | None) -> Given | None:
    """The other family's address on the interface of `found`; with `node_addresses`, only one of these."""
    if found is None:
        return None
    others = [one for one in given if one.index == found.index and one.address.version != found.address.version]
    return _first(others) if node_addresses is None else _carrier(others, node_addresses)


def _on_default_route(channel: Channel, given: Sequence[Given]) -> Given | None:
    for family, version in ((messages.AF_INET, 4), (messages.AF_INET6, 6)):
        for hop in _hops(channel, family, default=True):
            own = [one for one in given if one.index == hop.index]
            found = _first([one for one in own if one.address.version == version]) or _first(own)
            if found is not None:
                return found
    return None


def _hops(channel: Channel, family: int, *, default: bool) -> list[_Hop]:
    """Next hops of the main table's unicast routes, or of its default routes, by metric (rtnetlink(7))."""
    found: list[_Hop] = []
    for raw in channel.dump(messages.routes(family)):
        head = RTMSG.unpack_from(raw, HEADER.size)
        if (default and head[1] != 0) or head[4] != RT_TABLE_MAIN or head[7] != RTN_UNICAST:
            continue  # skipped before decoding, because a node may have thousands
        route = rtmsg(raw)
        route.decode()
        destination = route.get_attr("RTA_DST")
        if destination is not None and ip_address(destination).is_link_local:
            continue  # in IPv6 each interface has one
        metrics = route.get_attr("RTA_METRICS")
        mtu = metrics.get_attr("RTAX_MTU") if metrics is not None else None
        found.extend(_Hop(route.get_attr("RTA_PRIORITY") or 0, index, mtu or 0) for index in _interfaces_of(route))
    return sorted(found, key=lambda hop: hop.metric)


def _interfaces_of(route: rtmsg) -> Iterator[int]:
    index = route.get_attr("RTA_OIF")
    if index is not None:
        yield index
    else:
        yield from (hop["oif"] for hop in route.get_attr("RTA_MULTIPATH") or ())


def _parent(channel: Channel, found: Given, other: Given | None = None) -> Parent:
    (answer,) = channel.do(messages.link_at(found.index))
    device = read_link(answer.messages[0]).device
    if _has_egress(channel, device, answer.messages[0]):
        parent = Parent(device.ifname, device.index, str(found.address.ip), device.mtu)
        return replace(parent, other_address=str(other.address.ip)) if other is not None else parent
    parent = _unpinned(channel, device, found)
    if other is not None:
        # Routes have one family. A node has one underlay, so the other family counts only if its routes agree.
        with suppress(InvalidConfigError):
            if replace(_unpinned(channel, device, other), address=parent.address) == parent:
                return replace(parent, other_address=str(other.address.ip))
    return parent


def _has_egress(channel: Channel, device: Device, raw: bytes) -> bool:
    """Whether packets can leave the node through this interface."""
    if device.kind == "bridge":
        return has_ports(channel, device.index)
    return not is_loopback(raw) and device.kind != "dummy"


def _unpinned(channel: Channel, carrier: Device, found: Given) -> Parent:
    """The parent of tunnels that follow the routes: index 0, and the egress interface's name and MTU.

    Of several next hops the smallest MTU counts, and a route's own MTU limits its interface's. A default route over
    `carrier`, the interface with the VTEP, pins the tunnels nevertheless: a bridge loses its ports while the network
    restarts.
    """
    hops = _hops_off_node(channel, found, carrier)
    if any(hop.index == carrier.index for hop in hops):
        return Parent(carrier.ifname, carrier.index, str(found.address.ip), carrier.mtu)
    devices = {link.device.index: link.device for link in links_of(channel)} if hops else {}
    known = [(hop, devices[hop.index]) for hop in hops if hop.index in devices]
    if not known:
        raise InvalidConfigError(
            f"cannot use {found.address.ip} for tunnels: it is on {carrier.ifname}, and no route leaves the node",
            details=f"Add a route to the other nodes, or set parent_interface. {_interfaces(channel)}",
        )
    mtu, ifname = min((min(hop.mtu or device.mtu, device.mtu), device.ifname) for hop, device in known)
    return Parent(ifname, 0, str(found.address.ip), mtu)


def _hops_off_node(channel: Channel, found: Given, carrier: Device) -> list[_Hop]:
    """The default route's next hops; without a default route, those of all routes not over `carrier`."""
    family = messages.AF_INET if found.address.version == 4 else messages.AF_INET6
    hops = _hops(channel, family, default=True)
    if hops:
        return [hop for hop in hops if hop.metric == hops[0].metric]
    return [hop for hop in _hops(channel, family, default=False) if hop.index != carrier.index]


def _unusable(key: str, value: str, cause: str, channel: Channel) -> InvalidConfigError:
    return InvalidConfigError(f'cannot use {key} "{value}": {cause}', details=_interfaces(channel))


def _interfaces(channel: Channel) -> str:
    names = sorted(link.device.ifname for link in links_of(channel) if link.device.ifname != "lo")
    return f"Interfaces of the node: {', '.join(names) or 'none'}."
