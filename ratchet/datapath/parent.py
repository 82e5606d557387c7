"""Which of the node's interfaces carries the tunnels: the one that the configuration names, or the one that the node
is known by, or the one that leads out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ratchet.core.device import Device, Parent
from ratchet.datapath import messages
from ratchet.datapath.packing import HEADER, RTMSG
from ratchet.datapath.reading import Given, addresses_of, links_of, read_link
from ratchet.datapath.rtnetlink import Channel
from ratchet.errors import InvalidConfigError

IpAddress = IPv4Address | IPv6Address

RT_TABLE_MAIN = 254
RTN_UNICAST = 1


def find_parent(ifname: str | None, address: str | None, node_addresses: Sequence[str] = ()) -> Parent:
    """The parent interface and the VTEP on it, in the caller's own namespace.

    `ifname` and `address` are the configuration's `parent_interface` and `parent_address`. With neither, it is the
    interface that carries one of `node_addresses` (the node's, as the API server knows them), else that of the default
    route of the lowest metric, IPv4 before IPv6. Raises InvalidConfigError, naming the key at fault.
    """
    if address and _read_address(address) is None:
        raise InvalidConfigError(f'cannot use parent_address "{address}": not an IP address')
    with Channel() as channel:
        given = addresses_of(channel)
        if ifname:
            return _on_interface(channel, given, ifname, address)
        if address:
            found = _carrier(given, [address])
            if found is None:
                raise _unusable("parent_address", address, "no interface of the node carries it", channel)
            return _parent(_link_at(channel, found.index), found)
        found = _carrier(given, node_addresses) or _on_default_route(channel, given)
        if found is None:
            raise InvalidConfigError(
                "cannot find a parent interface for tunnels: no default route leads over an interface with an address",
                details=f"Set parent_interface or parent_address. {_interfaces(channel)}",
            )
        return _parent(_link_at(channel, found.index), found)


def _on_interface(channel: Channel, given: Iterable[Given], ifname: str, address: str | None) -> Parent:
    (answer,) = channel.exchange(messages.link_named(ifname))
    if answer.refusal is not None:
        raise _unusable("parent_interface", ifname, "no such interface", channel)
    device = read_link(answer.messages[0]).device
    own = [one for one in given if one.index == device.index]
    found = _carrier(own, [address]) if address else _first(own)
    if found is not None:
        return _parent(device, found)
    carried = ", ".join(str(one.address.ip) for one in own) or "no address"
    if address:
        error = _unusable("parent_address", address, f"{ifname} does not carry it", channel)
        error.details = f"{ifname} carries {carried}."
        raise error
    error = _unusable("parent_interface", ifname, "it has no global address", channel)
    error.details = f"It carries {carried}. Give it an address, or name another interface."
    raise error


def _carrier(given: Iterable[Given], addresses: Iterable[str]) -> Given | None:
    """The first of `addresses` that is carried at all."""
    carried: dict[IpAddress | None, Given] = {one.address.ip: one for one in given}
    return next((carried[one] for one in map(_read_address, addresses) if one in carried), None)


def _read_address(text: str) -> IpAddress | None:
    """None for what is no address: the node's object lists its host names along with its addresses."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def _first(given: Iterable[Given]) -> Given | None:
    """The first global address, IPv4 before IPv6."""
    fit = [one for one in given if one.fit]
    return min(fit, key=lambda one: one.address.version, default=None)


def _on_default_route(channel: Channel, given: Sequence[Given]) -> Given | None:
    for family, version in ((messages.AF_INET, 4), (messages.AF_INET6, 6)):
        for index in _default_route_interfaces(channel, family):
            own = [one for one in given if one.index == index]
            found = _first([one for one in own if one.address.version == version]) or _first(own)
            if found is not None:
                return found
    return None


def _default_route_interfaces(channel: Channel, family: int) -> list[int]:
    """The interfaces of the main table's default routes, lowest metric first (rtnetlink(7))."""
    found: list[tuple[int, int]] = []
    for raw in channel.dump(messages.routes(family)):
        head = RTMSG.unpack_from(raw, HEADER.size)
        if head[1] != 0 or head[4] != RT_TABLE_MAIN or head[7] != RTN_UNICAST:
            continue  # not decoded: a node may have thousands
        route = rtmsg(raw)
        route.decode()
        metric = route.get_attr("RTA_PRIORITY") or 0
        found.extend((metric, index) for index in _hops(route))
    return [index for _, index in sorted(found, key=lambda one: one[0])]


def _hops(route: rtmsg) -> list[int]:
    index = route.get_attr("RTA_OIF")
    if index is not None:
        return [index]
    return [hop["oif"] for hop in route.get_attr("RTA_MULTIPATH") or ()]


def _link_at(channel: Channel, index: int) -> Device:
    (answer,) = channel.do(messages.link_at(index))
    return read_link(answer.messages[0]).device


def _parent(device: Device, found: Given) -> Parent:
    return Parent(device.ifname, device.index, str(found.address.ip), device.mtu)


def _unusable(key: str, value: str, cause: str, channel: Channel) -> InvalidConfigError:
    return InvalidConfigError(f'cannot use {key} "{value}": {cause}', details=_interfaces(channel))


def _interfaces(channel: Channel) -> str:
    names = sorted(sight.device.ifname for sight in links_of(channel) if sight.device.ifname != "lo")
    return f"Interfaces of the node: {', '.join(names) or 'none'}."
