"""Parse netlink replies into the core's types."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from errno import ENODEV
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from ratchet.core.endpoint_spec import KERNELS_METRIC, Address, Route
from ratchet.core.interface import Device
from ratchet.core.panel import is_attachment_group
from ratchet.datapath import messages, tc
from ratchet.datapath.message_classes import ifaddrmsg, ifinfmsg, ndmsg, nsidmsg, rtmsg
from ratchet.datapath.netns import Netns
from ratchet.datapath.nlattr import HEADER, IFADDRMSG, IFINFOMSG, RTGENMSG, RTMSG, Reading, attributes
from ratchet.datapath.rtnetlink import Channel, RefusedError

IFLA_MTU, IFLA_LINK, IFLA_MASTER = 4, 5, 10
IFF_LOOPBACK = 0x8

IFA_F_SECONDARY, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE = 0x1, 0x8, 0x20, 0x40
IFA_F_UNFIT = IFA_F_SECONDARY | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE

# Options of a VXLAN that Ratchet never sets and that harm others. With learning, datagrams redirect frames. With tos a
# pod chooses its priority in the underlay. With external a device sends anywhere and takes any VNI. The socket of one
# with an option from external to remcsumrx keeps others from the UDP port (drivers/net/vxlan, VXLAN_F_RCV_FLAGS). The
# other options (proxy, rsc, l2miss, l3miss, ttl, df, ageing) concern only the pod. `messages.new_vxlan` explains a
# further one, localbypass.
OPTIONS = {
    "IFLA_VXLAN_LEARNING": "learning",
    "IFLA_VXLAN_TOS": "tos",
    "IFLA_VXLAN_COLLECT_METADATA": "external",
    "IFLA_VXLAN_GPE": "gpe",
    "IFLA_VXLAN_GBP": "gbp",
    "IFLA_VXLAN_UDP_ZERO_CSUM6_RX": "udp6zerocsumrx",
    "IFLA_VXLAN_REMCSUM_RX": "remcsumrx",
}

_LINK = Reading(
    ifinfmsg,
    *("IFLA_ADDRESS", "IFLA_IFNAME", "IFLA_MTU", "IFLA_LINK", "IFLA_LINKINFO"),
    *("IFLA_GROUP", "IFLA_LINK_NETNSID", "IFLA_PROTO_DOWN", "IFLA_TXQLEN", "IFLA_QDISC", "IFLA_IFALIAS"),
)
_INFO = Reading(ifinfmsg.ifinfo, "IFLA_INFO_KIND", "IFLA_INFO_DATA")
_VXLAN = Reading(
    ifinfmsg.ifinfo.data_map["vxlan"],
    *("IFLA_VXLAN_ID", "IFLA_VXLAN_GROUP", "IFLA_VXLAN_GROUP6", "IFLA_VXLAN_LOCAL", "IFLA_VXLAN_LOCAL6"),
    *("IFLA_VXLAN_PORT", "IFLA_VXLAN_LINK"),
    *OPTIONS,
)
_ROUTE = Reading(rtmsg, "RTA_DST", "RTA_OIF", "RTA_GATEWAY", "RTA_PRIORITY")
_NSID = Reading(nsidmsg, "NETNSA_NSID")
_ADDRESS = Reading(ifaddrmsg, "IFA_ADDRESS", "IFA_LOCAL", "IFA_FLAGS", "IFA_PROTO")

NUD_LASTING = 0x40 | 0x80  # NOARP and PERMANENT


@dataclass(frozen=True, slots=True)
class ObservedLink:
    """A device and the link below or opposite it.

    `lower_index` is that link's index, `lower_nsid` the nsid of its namespace (None: the same namespace). `qdisc` is
    the kind of the device's root queueing discipline.
    """

    device: Device
    lower_index: int | None
    lower_nsid: int | None
    qdisc: str = ""


def device_of(link: ObservedLink | None) -> Device | None:
    return None if link is None else link.device


@dataclass(frozen=True, slots=True)
class Given:
    """An address on a link: `ours` if Ratchet added it, `fit` if it can be a tunnel's local address."""

    index: int
    address: Address
    ours: bool
    fit: bool


@dataclass(frozen=True, slots=True)
class NewLink:
    """A link's index, that of its peer, and its MTU in bytes; 0 for each that it does not have."""

    index: int
    opposite: int
    mtu: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the neighbour table; `state` is a NUD_* bit mask."""

    family: int
    address: str
    state: int


def observe_link(
    channel: Channel, ifname: str, wanted: Iterable[Address] = (), *, routed: bool = False, index: int = 0
) -> ObservedLink | None:
    """The link of this name with its addresses, None if missing; with `routed` also Ratchet's routes.

    Link-local addresses that the kernel added are left out unless they are in `wanted`. `index`: the ifindex that it
    should have, 0 if none is known. If it has that one, link and addresses are read in one exchange.
    """
    try:
        named, *listed = channel.exchange(messages.link_named(ifname), *((messages.addresses(index),) if index else ()))
        if named.refusal is not None:
            raise named.refusal
        (raw,) = named.messages
        if listed and link_index(raw) == index and listed[0].refusal is None and not listed[0].interrupted:
            found = _addresses_in(listed[0].messages, index)
        else:
            found = addresses_of(channel, link_index(raw))
        link = read_link(raw, _shown(found, tuple(wanted)))
        return _with_what_was_given(link, channel, routed=routed) if link.device.ours else link
    except RefusedError as refusal:
        if refusal.errno == ENODEV:  # the link may also disappear between the two requests
            return None
        raise


def _shown(found: Iterable[Given], wanted: tuple[Address, ...]) -> list[Given]:
    return [one for one in found if one.ours or one.address in wanted or not one.address.is_link_local]


def _with_what_was_given(link: ObservedLink, channel: Channel, *, routed: bool) -> ObservedLink:
    """One of Ratchet's links with the rate and, with `routed`, the routes that Ratchet added."""
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
    """All links without their addresses; optionally of one kind, or in the namespace `nsid`."""
    found = [read_link(raw) for raw in channel.dump(messages.links(kind, nsid))]
    return [link for link in found if not kind or link.device.kind == kind]


def has_ports(channel: Channel, bridge: int) -> bool:
    """Whether any link is a port of this bridge."""
    master = struct.pack("=I", bridge)
    # Kernels before 4.6 do not filter, so the attribute is compared here too.
    return any(
        content == master
        for raw in channel.dump(messages.ports(bridge))
        for _, content in attributes(raw, HEADER.size + IFINFOMSG.size, (IFLA_MASTER,))
    )


def is_loopback(raw: bytes) -> bool:
    """Whether IFF_LOOPBACK is set in a link's message."""
    return bool(IFINFOMSG.unpack_from(raw, HEADER.size)[4] & IFF_LOOPBACK)


def addresses_of(channel: Channel, index: int = 0) -> list[Given]:
    """The addresses of one link, or of all links if `index` is 0."""
    return _addresses_in(channel.dump(messages.addresses(index)), index)


def _addresses_in(found: Iterable[bytes], index: int) -> list[Given]:
    return [read_address(raw) for raw in found if not index or IFADDRMSG.unpack_from(raw, HEADER.size)[4] == index]


def neighbours_of(channel: Channel, index: int) -> list[Neighbour]:
    """The entries of the neighbour table for a link."""
    found = [_decode(ndmsg, raw) for raw in channel.dump(messages.neighbours())]
    return [Neighbour(one["family"], one.get_attr("NDA_DST"), one["state"]) for one in found if one["ifindex"] == index]


def known_as(channel: Channel, netns: Netns) -> int | None:
    """The nsid of `netns` in the channel's namespace; None if none is assigned."""
    (answer,) = channel.exchange(messages.nsid_of(netns.fd))
    if answer.refusal is not None or not answer.messages:
        return None
    return read_nsid(answer.messages[0])


def read_nsid(raw: bytes) -> int | None:
    number = _NSID.read(raw, HEADER.size + RTGENMSG.size).get("NETNSA_NSID", messages.NSID_ANY)
    return None if number == messages.NSID_ANY else int(number)


def read_new_link(raw: bytes) -> NewLink:
    """Read only what the next message needs of a new link, at a fraction of the cost of a full decode."""
    found = dict(attributes(raw, HEADER.size + IFINFOMSG.size, (IFLA_LINK, IFLA_MTU)))
    opposite, mtu = (struct.unpack("=i", found.get(kind, bytes(4)))[0] for kind in (IFLA_LINK, IFLA_MTU))
    return NewLink(link_index(raw), opposite, mtu)


def local_bypass(raw: bytes) -> bool | None:
    """Whether local bypass is on in a tunnel's message; None if the kernel cannot turn it off (before Linux 6.5)."""
    found = _LINK.read(raw, HEADER.size + IFINFOMSG.size)
    return _local_bypass(_INFO.read(found.get("IFLA_LINKINFO", b"")).get("IFLA_INFO_DATA", b""))


def _local_bypass(data: bytes) -> bool | None:
    found = dict(attributes(data, 0, (messages.IFLA_VXLAN_LOCALBYPASS,)))
    return any(found[messages.IFLA_VXLAN_LOCALBYPASS]) if found else None


def link_index(raw: bytes) -> int:
    """The ifindex in a link's message."""
    index: int = IFINFOMSG.unpack_from(raw, HEADER.size)[3]
    return index


def read_link(raw: bytes, addresses: Collection[Given] = ()) -> ObservedLink:
    """The link in a message; `addresses` are those that it has."""
    head = IFINFOMSG.unpack_from(raw, HEADER.size)
    found = _LINK.read(raw, HEADER.size + IFINFOMSG.size)
    info = _INFO.read(found.get("IFLA_LINKINFO", b""))
    kind = info.get("IFLA_INFO_KIND", "")
    tunnel = {}
    if kind == "vxlan" and "IFLA_INFO_DATA" in info:
        tunnel = _tunnel(info["IFLA_INFO_DATA"]) | {"carrier": not found.get("IFLA_PROTO_DOWN")}
    device = Device(
        ifname=found["IFLA_IFNAME"],
        index=head[3],
        kind=kind,
        ours=_is_ours(found.get("IFLA_GROUP", 0)),
        up=bool(head[4] & messages.IFF_UP),
        mtu=found["IFLA_MTU"],
        mac=found.get("IFLA_ADDRESS", ""),
        txqlen=found.get("IFLA_TXQLEN", 0),
        addresses=tuple(one.address for one in addresses),
        given=tuple(one.address for one in addresses if one.ours),
        brought_up=bool(found.get("IFLA_IFALIAS")),
        **tunnel,
    )
    return ObservedLink(device, found.get("IFLA_LINK"), found.get("IFLA_LINK_NETNSID"), found.get("IFLA_QDISC", ""))


def _is_ours(group: int) -> bool:
    return group == messages.GROUP or is_attachment_group(group)


def read_route(raw: bytes) -> tuple[Route | None, int | None]:
    """A route that Ratchet added, and the index of its link; None and None for other routes."""
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
    # On a point-to-point interface, IFA_ADDRESS is the peer's address.
    own = found.get("IFA_LOCAL") or found["IFA_ADDRESS"]
    return Given(
        index=index,
        address=ip_interface((own, prefix_length)),
        ours=found.get("IFA_PROTO") == messages.ADDRESS_PROTOCOL,
        fit=scope == messages.RT_SCOPE_UNIVERSE and not found.get("IFA_FLAGS", flags) & IFA_F_UNFIT,
    )


def _tunnel(raw: bytes) -> dict[str, Any]:
    data = _VXLAN.read(raw)
    options = [name for attribute, name in OPTIONS.items() if data.get(attribute, 0) != 0]
    return {
        "vni": data.get("IFLA_VXLAN_ID"),
        "remote": data.get("IFLA_VXLAN_GROUP") or data.get("IFLA_VXLAN_GROUP6"),
        "local": data.get("IFLA_VXLAN_LOCAL") or data.get("IFLA_VXLAN_LOCAL6"),
        "port": data.get("IFLA_VXLAN_PORT"),
        "parent_index": data.get("IFLA_VXLAN_LINK", 0),
        "options": (*options, "localbypass") if _local_bypass(raw) else tuple(options),
    }


def _decode(kind: Any, raw: bytes) -> Any:
    message = kind(raw)
    message.decode()
    return message
