"""What the kernel shows, read into the core's terms."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from errno import ENODEV
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ratchet.core.endpoint_spec import KERNELS_METRIC, Route
from ratchet.core.interface import Device
from ratchet.core.model import Address
from ratchet.datapath import messages, tc
from ratchet.datapath.netns import Netns
from ratchet.datapath.nlattr import HEADER, IFADDRMSG, IFINFOMSG, RTGENMSG, RTMSG, Reading, attributes
from ratchet.datapath.rtnetlink import Channel, RefusedError

IFLA_MTU, IFLA_LINK, IFLA_MASTER = 4, 5, 10
IFF_LOOPBACK = 0x8

IFA_F_SECONDARY, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE = 0x1, 0x8, 0x20, 0x40
IFA_F_UNFIT = IFA_F_SECONDARY | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE

_LINK = Reading(
    ifinfmsg,
    *("IFLA_ADDRESS", "IFLA_IFNAME", "IFLA_MTU", "IFLA_LINK", "IFLA_LINKINFO"),
    *("IFLA_GROUP", "IFLA_LINK_NETNSID", "IFLA_PROTO_DOWN", "IFLA_TXQLEN", "IFLA_QDISC"),
)
_INFO = Reading(ifinfmsg.ifinfo, "IFLA_INFO_KIND", "IFLA_INFO_DATA")
_VXLAN = Reading(
    ifinfmsg.ifinfo.data_map["vxlan"],
    *("IFLA_VXLAN_ID", "IFLA_VXLAN_GROUP", "IFLA_VXLAN_GROUP6", "IFLA_VXLAN_LOCAL", "IFLA_VXLAN_LOCAL6"),
    *("IFLA_VXLAN_PORT", "IFLA_VXLAN_LINK"),
)
_ROUTE = Reading(rtmsg, "RTA_DST", "RTA_OIF", "RTA_GATEWAY", "RTA_PRIORITY")
_NSID = Reading(nsidmsg, "NETNSA_NSID")
_ADDRESS = Reading(ifaddrmsg, "IFA_ADDRESS", "IFA_LOCAL", "IFA_FLAGS", "IFA_PROTO")

NUD_LASTING = 0x40 | 0x80  # NOARP and PERMANENT


@dataclass(frozen=True, slots=True)
class ObservedLink:
    """A device, and where it leads: the index of the link below or opposite, and by what number the namespace of
    that link is known here (None: it is in the same one). `qdisc` is the kind of its root queueing discipline."""

    device: Device
    lower_index: int | None
    lower_nsid: int | None
    qdisc: str = ""


def device_of(link: ObservedLink | None) -> Device | None:
    return None if link is None else link.device


@dataclass(frozen=True, slots=True)
class Given:
    """An address on a link: `ours` if Ratchet gave it, `fit` if a tunnel's local address may be taken from it."""

    index: int
    address: Address
    ours: bool
    fit: bool


@dataclass(frozen=True, slots=True)
class NewLink:
    """A link's index, that of the link opposite, and its MTU in bytes; 0 for what it has not."""

    index: int
    opposite: int
    mtu: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the neighbour table; `state` is of NUD_*."""

    family: int
    address: str
    state: int


def observe_link(
    channel: Channel, ifname: str, wanted: Iterable[Address] = (), *, routed: bool = False
) -> ObservedLink | None:
    """The link of this name with its addresses, and if it may be `routed` with the routes that we gave it.

    None where there is none. The kernel's own link-local addresses are left out, unless they are wanted.
    """
    try:
        (answer,) = channel.do(messages.link_named(ifname))
        link = read_link(answer.messages[0])
        link = with_addresses(link, addresses_of(channel, link.device.index), tuple(wanted))
        return _with_what_was_given(link, channel, routed=routed) if link.device.ours else link
    except RefusedError as refusal:
        if refusal.errno == ENODEV:  # the second question may find it gone as well as the first
            return None
        raise


def with_addresses(link: ObservedLink, found: Iterable[Given], wanted: tuple[Address, ...]) -> ObservedLink:
    kept = [one for one in found if one.ours or one.address in wanted or not one.address.is_link_local]
    device = replace(
        link.device,
        addresses=tuple(one.address for one in kept),
        given=tuple(one.address for one in kept if one.ours),
    )
    return replace(link, device=device)


def _with_what_was_given(link: ObservedLink, channel: Channel, *, routed: bool) -> ObservedLink:
    """A link of ours with the rate, and perhaps the routes, that we gave it."""
    index = link.device.index
    shaped = link.qdisc == tc.KIND
    if not routed and not shaped:
        return link
    families = (messages.AF_INET, messages.AF_INET6) if routed else ()
    routes = tuple(route for family in families for route in _routes_given(channel, family, index))
    rate = tc.rate_of(channel, index) if shaped else None
    return replace(link, device=replace(link.device, routes=routes, rate=rate))


def _routes_given(channel: Channel, family: int, index: int) -> list[Route]:
    found = (read_route(raw) for raw in channel.dump(messages.routes_given(family, index)))
    return [route for route, by in found if route is not None and by == index]


def links_of(channel: Channel, kind: str = "", nsid: int | None = None) -> list[ObservedLink]:
    """All links, of one kind only or in the namespace known here as `nsid`, without their addresses."""
    found = [read_link(raw) for raw in channel.dump(messages.links(kind, nsid))]
    return [link for link in found if not kind or link.device.kind == kind]


def has_ports(channel: Channel, bridge: int) -> bool:
    """Whether any link is a port of this bridge."""
    master = struct.pack("=I", bridge)
    # Kernels before 4.6 do not filter, so the attribute is compared here.
    return any(
        content == master
        for raw in channel.dump(messages.ports(bridge))
        for _, content in attributes(raw, HEADER.size + IFINFOMSG.size, (IFLA_MASTER,))
    )


def is_loopback(raw: bytes) -> bool:
    """Whether a link's message has IFF_LOOPBACK."""
    return bool(IFINFOMSG.unpack_from(raw, HEADER.size)[4] & IFF_LOOPBACK)


def addresses_of(channel: Channel, index: int = 0) -> list[Given]:
    """The addresses of one link, or of all."""
    found = channel.dump(messages.addresses(index))
    return [read_address(raw) for raw in found if not index or IFADDRMSG.unpack_from(raw, HEADER.size)[4] == index]


def neighbours_of(channel: Channel, index: int) -> list[Neighbour]:
    """Whom a link's namespace knows by MAC behind that link."""
    found = [_decode(ndmsg, raw) for raw in channel.dump(messages.neighbours())]
    return [Neighbour(one["family"], one.get_attr("NDA_DST"), one["state"]) for one in found if one["ifindex"] == index]


def known_as(channel: Channel, netns: Netns) -> int | None:
    """By which number the channel's namespace knows another; None where it has given it none."""
    (answer,) = channel.exchange(messages.nsid_of(netns.fd))
    if answer.refusal is not None or not answer.messages:
        return None
    return read_nsid(answer.messages[0])


def read_nsid(raw: bytes) -> int | None:
    number = _NSID.read(raw, HEADER.size + RTGENMSG.size).get("NETNSA_NSID", messages.NSID_ANY)
    return None if number == messages.NSID_ANY else int(number)


def read_new_link(raw: bytes) -> NewLink:
    """What the next message needs to know of a link just made, at a fraction of what decoding it all would cost."""
    index = IFINFOMSG.unpack_from(raw, HEADER.size)[3]
    found = dict(attributes(raw, HEADER.size + IFINFOMSG.size, (IFLA_LINK, IFLA_MTU)))
    opposite, mtu = (struct.unpack("=i", found.get(kind, bytes(4)))[0] for kind in (IFLA_LINK, IFLA_MTU))
    return NewLink(index, opposite, mtu)


def reaches_own_node(raw: bytes) -> bool:
    """Whether a tunnel sends to its own node's addresses as to others, which it was made to do."""
    found = _LINK.read(raw, HEADER.size + IFINFOMSG.size)
    data = _INFO.read(found.get("IFLA_LINKINFO", b"")).get("IFLA_INFO_DATA", b"")
    return dict(attributes(data, 0)).get(messages.IFLA_VXLAN_LOCALBYPASS) == b"\0"


def read_link(raw: bytes) -> ObservedLink:
    head = IFINFOMSG.unpack_from(raw, HEADER.size)
    found = _LINK.read(raw, HEADER.size + IFINFOMSG.size)
    info = _INFO.read(found.get("IFLA_LINKINFO", b""))
    kind = info.get("IFLA_INFO_KIND", "")
    tunnel = {}
    if kind == "vxlan" and "IFLA_INFO_DATA" in info:
        tunnel = _tunnel(_VXLAN.read(info["IFLA_INFO_DATA"])) | {"carrier": not found.get("IFLA_PROTO_DOWN")}
    device = Device(
        ifname=found["IFLA_IFNAME"],
        index=head[3],
        kind=kind,
        ours=found.get("IFLA_GROUP") == messages.GROUP,
        up=bool(head[4] & messages.IFF_UP),
        mtu=found["IFLA_MTU"],
        mac=found.get("IFLA_ADDRESS", ""),
        txqlen=found.get("IFLA_TXQLEN", 0),
        **tunnel,
    )
    return ObservedLink(device, found.get("IFLA_LINK"), found.get("IFLA_LINK_NETNSID"), found.get("IFLA_QDISC", ""))


def read_route(raw: bytes) -> tuple[Route | None, int | None]:
    """A route if it is one that we gave, and the index of the link that it is by way of."""
    family, length, _, _, _, protocol, _, _, _ = RTMSG.unpack_from(raw, HEADER.size)
    found = _ROUTE.read(raw, HEADER.size + RTMSG.size)
    if protocol != messages.ROUTE_PROTOCOL:
        return None, None
    anywhere = bytes(4 if family == messages.AF_INET else 16)
    to, via = ip_network((found.get("RTA_DST", anywhere), length)), found.get("RTA_GATEWAY")
    metric, own = found.get("RTA_PRIORITY", 0), KERNELS_METRIC[to.version]
    return Route(to, ip_address(via) if via else None, None if metric == own else metric), found.get("RTA_OIF")


def read_address(raw: bytes) -> Given:
    _, prefix_length, flags, scope, index = IFADDRMSG.unpack_from(raw, HEADER.size)
    found = _ADDRESS.read(raw, HEADER.size + IFADDRMSG.size)
    # On a point-to-point address IFA_ADDRESS is the other side's.
    own = found.get("IFA_LOCAL") or found["IFA_ADDRESS"]
    return Given(
        index=index,
        address=ip_interface((own, prefix_length)),
        ours=found.get("IFA_PROTO") == messages.ADDRESS_PROTOCOL,
        fit=scope == messages.RT_SCOPE_UNIVERSE and not found.get("IFA_FLAGS", flags) & IFA_F_UNFIT,
    )


def _tunnel(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "vni": data.get("IFLA_VXLAN_ID"),
        "remote": data.get("IFLA_VXLAN_GROUP") or data.get("IFLA_VXLAN_GROUP6"),
        "local": data.get("IFLA_VXLAN_LOCAL") or data.get("IFLA_VXLAN_LOCAL6"),
        "port": data.get("IFLA_VXLAN_PORT"),
        "parent_index": data.get("IFLA_VXLAN_LINK", 0),
    }


def _decode(kind: Any, raw: bytes) -> Any:
    message = kind(raw)
    message.decode()
    return message
