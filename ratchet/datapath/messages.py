"""Netlink requests: each function returns one message, ready to send (rtnetlink(7))."""

from __future__ import annotations

from ipaddress import IPv4Interface

from ratchet.core.endpoint_spec import Address, Route
from ratchet.core.interface import InterfaceSpec, VxlanWire
from ratchet.datapath.message_classes import ifaddrmsg, ifinfmsg, ndmsg, nsidmsg, rtmsg
from ratchet.datapath.nlattr import ATTRIBUTE, IFADDRMSG, IFINFOMSG, NDMSG, RTGENMSG, RTMSG, Layout, message

# The mark of ownership: IFLA_GROUP is set by the message that creates a link, so none of our links is ever without it.
# "RATC" in ASCII, far from the small numbers that administrators use.
GROUP = 0x52415443
# IFA_PROTO, "R": distinguishes addresses that Ratchet added from those added in the pod (Linux 5.18 and later).
# An older kernel ignores it; then no address counts as Ratchet's, and none is removed.
ADDRESS_PROTOCOL = 0x52
# rtm_protocol: the same for routes (/etc/iproute2/rt_protos does not have this number).
ROUTE_PROTOCOL = 0x52

IFALIAS_BYTES = 255

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWNSID, RTM_GETNSID = 88, 90

NLM_F_REQUEST, NLM_F_ACK, NLM_F_ECHO = 0x1, 0x4, 0x8
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLM_F_DUMP = 0x300
ACT = NLM_F_REQUEST | NLM_F_ACK
MAKE = ACT | NLM_F_CREATE | NLM_F_EXCL
PUT = ACT | NLM_F_CREATE | NLM_F_REPLACE
DUMP = NLM_F_REQUEST | NLM_F_DUMP

IFF_UP = 0x1
IFA_F_NODAD = 0x2
RTEXT_FILTER_SKIP_STATS = 0x8
NSID_ANY = 0xFFFFFFFF
IPV4_PREFIX_WITH_BROADCAST = 30
AF_INET, AF_BRIDGE, AF_INET6 = 2, 7, 10
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
NTF_SELF, NUD_NOARP, NUD_PERMANENT = 0x2, 0x40, 0x80

_LINK = Layout(ifinfmsg)
_INFO = Layout(ifinfmsg.ifinfo)
_VETH = Layout(ifinfmsg.ifinfo.veth_data)
_VXLAN = Layout(ifinfmsg.ifinfo.data_map["vxlan"])
_ADDRESS = Layout(ifaddrmsg)
_NEIGHBOUR = Layout(ndmsg)
_ROUTE = Layout(rtmsg)
_NSID = Layout(nsidmsg)

IFLA_VXLAN_LOCALBYPASS = 31  # Linux 6.5 and later; pyroute2 does not declare it
NO_LOCAL_BYPASS = ATTRIBUTE.pack(ATTRIBUTE.size + 1, IFLA_VXLAN_LOCALBYPASS) + bytes(4)

_BRIEFLY = _LINK.pack(("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS))


def link_named(ifname: str) -> bytearray:
    """Request one link by name."""
    return message(RTM_GETLINK, ACT, _link(), _LINK.pack(("IFLA_IFNAME", ifname)) + _BRIEFLY)


def link_with_counters(ifname: str) -> bytearray:
    """Request one link with its counters."""
    return message(RTM_GETLINK, ACT, _link(), _LINK.pack(("IFLA_IFNAME", ifname)))


def link_at(index: int) -> bytearray:
    """Request one link by index."""
    return message(RTM_GETLINK, ACT, _link(index), _BRIEFLY)


def links(kind: str = "", nsid: int | None = None) -> bytearray:
    """Request all links; optionally of one kind, or in the namespace `nsid`."""
    attributes = _BRIEFLY
    if kind:
        attributes += _LINK.pack(("IFLA_LINKINFO", _INFO.pack(("IFLA_INFO_KIND", kind))))
    if nsid is not None:
        attributes += _LINK.pack(("IFLA_IF_NETNSID", nsid))
    return message(RTM_GETLINK, DUMP, _link(), attributes)


def ports(bridge: int) -> bytearray:
    """Request the links that are ports of a bridge; all links if the kernel does not filter."""
    return message(RTM_GETLINK, DUMP, _link(), _BRIEFLY + _LINK.pack(("IFLA_MASTER", bridge)))


def new_veth(near: InterfaceSpec, far: InterfaceSpec, far_fd: int) -> bytearray:
    """Create a vEth pair, both ends down: one in the socket's namespace, the other in that of `far_fd`.

    The socket must be in the near pod. Kernels differ in the namespace in which they look up the name, and only there
    do all of them agree.
    """
    peer = _link(far.index) + _identity(far, far.ifname) + _LINK.pack(("IFLA_NET_NS_FD", far_fd))
    info = _INFO.pack(("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", _VETH.pack(("VETH_INFO_PEER", peer))))
    return message(
        RTM_NEWLINK, MAKE, _link(near.index), _identity(near, near.ifname) + _LINK.pack(("IFLA_LINKINFO", info))
    )


def new_vxlan(wire: VxlanWire, ifname: str, pod_fd: int) -> bytearray:
    """Create a tunnel's end in the namespace of `pod_fd`, its underlay in that of the socket; down.

    A parent without an index does not pin the tunnel: the kernel routes its packets.

    Local bypass is off (Linux 6.5; older kernels ignore the attribute). With it, the kernel passes a packet for an
    address of the node straight to the device that has the VNI. Such a packet passes no packet filter, so a pod that
    adds forwarding entries could reach the tunnels of other pods. It also has the sender's route, which leads nowhere
    in another pod's namespace.

    Learning is off: a link has one peer. Otherwise anyone who can send a datagram to the VTEP could redirect frames.
    """
    ipv6 = ":" in wire.remote
    data = _VXLAN.pack(
        ("IFLA_VXLAN_ID", wire.vni),
        ("IFLA_VXLAN_GROUP6" if ipv6 else "IFLA_VXLAN_GROUP", wire.remote),
        ("IFLA_VXLAN_LOCAL6" if ipv6 else "IFLA_VXLAN_LOCAL", wire.local),
        ("IFLA_VXLAN_PORT", wire.port),
        ("IFLA_VXLAN_LEARNING", 0),
    )
    data += NO_LOCAL_BYPASS
    if wire.parent.index:
        data += _VXLAN.pack(("IFLA_VXLAN_LINK", wire.parent.index))
    attributes = _identity(wire.near, ifname) + _LINK.pack(("IFLA_NET_NS_FD", pod_fd))
    return message(RTM_NEWLINK, MAKE, _link(wire.near.index), attributes + _vxlan_info(data))


def detached(index: int, wire: VxlanWire) -> bytearray:
    """Give a tunnel its own address, underlay interface and options again, and no remote.

    The kernel adds the entry of a remote only when the remote changes, so `new_remote` must follow.
    """
    ipv6 = ":" in wire.remote
    data = _VXLAN.pack(
        ("IFLA_VXLAN_GROUP6" if ipv6 else "IFLA_VXLAN_GROUP", "::" if ipv6 else "0.0.0.0"),  # noqa: S104
        ("IFLA_VXLAN_LOCAL6" if ipv6 else "IFLA_VXLAN_LOCAL", wire.local),
        ("IFLA_VXLAN_LEARNING", 0),
        ("IFLA_VXLAN_TOS", 0),
    )
    data += NO_LOCAL_BYPASS
    if wire.parent.index:
        data += _VXLAN.pack(("IFLA_VXLAN_LINK", wire.parent.index))
    return message(RTM_NEWLINK, ACT, _link(index), _vxlan_info(data))


def new_remote(index: int, remote: str) -> bytearray:
    """Point a tunnel to another VTEP of the same address family."""
    data = _VXLAN.pack(("IFLA_VXLAN_GROUP6" if ":" in remote else "IFLA_VXLAN_GROUP", remote))
    return message(RTM_NEWLINK, ACT, _link(index), _vxlan_info(data))


def named(index: int, ifname: str) -> bytearray:
    """Rename a link. Before Linux 6.2, it must be down."""
    return message(RTM_NEWLINK, ACT, _link(index), _LINK.pack(("IFLA_IFNAME", ifname)))


def sized(index: int, mtu: int) -> bytearray:
    """Set a link's MTU in bytes."""
    return message(RTM_NEWLINK, ACT, _link(index), _LINK.pack(("IFLA_MTU", mtu)))


def changed(index: int, txqlen: int | None, mac: str = "") -> bytearray:
    """Set the length of a link's transmit queue in packets, and its MAC address, as far as they are given."""
    return message(RTM_NEWLINK, ACT, _link(index), _mac_and_queue(mac, txqlen))


def carrier(index: int, has: bool) -> bytearray:
    """Set or clear a link's carrier. The pod sees a cable plugged in or pulled, and keeps its interface.

    Uses protodown, because a VXLAN refuses IFLA_CARRIER. The message that creates a link cannot set it. A link that is
    still down keeps the setting when it is set up.
    """
    return message(RTM_NEWLINK, ACT, _link(index), _LINK.pack(("IFLA_PROTO_DOWN", int(not has))))


def up(index: int) -> bytearray:
    """Set a link up."""
    return message(RTM_NEWLINK, ACT, _link(index, IFF_UP))


def brought_up(index: int, link: str) -> bytearray:
    """Mark a link as brought up, by the record's name as its alias. Any alias is a mark."""
    alias = f"ratchet/{link}".encode()[:IFALIAS_BYTES].decode("utf-8", "ignore")
    return message(RTM_NEWLINK, ACT, _link(index), _LINK.pack(("IFLA_IFALIAS", alias)))


def drop_link(index: int) -> bytearray:
    """Delete a link."""
    return message(RTM_DELLINK, ACT, _link(index))


def drop_link_in(nsid: int, index: int) -> bytearray:
    """Delete a link in the namespace `nsid` (Linux 4.20 and later)."""
    return message(RTM_DELLINK, ACT, _link(index), _LINK.pack(("IFLA_IF_NETNSID", nsid)))


def addresses(index: int = 0) -> bytearray:
    """Request all addresses, or those of one link if the kernel filters (Linux 4.20 and later)."""
    return message(RTM_GETADDR, DUMP, IFADDRMSG.pack(0, 0, 0, 0, index))


def give_address(index: int, address: Address) -> bytearray:
    """Add an address to a link, usable at once: a link with two ends needs no duplicate address detection."""
    attributes = _ADDRESS.pack(
        ("IFA_LOCAL", address.packed), ("IFA_FLAGS", IFA_F_NODAD), ("IFA_PROTO", ADDRESS_PROTOCOL)
    )
    if isinstance(address, IPv4Interface) and address.network.prefixlen <= IPV4_PREFIX_WITH_BROADCAST:
        attributes += _ADDRESS.pack(("IFA_BROADCAST", address.network.broadcast_address.packed))
    return message(RTM_NEWADDR, PUT, _address(index, address), attributes)


def take_address(index: int, address: Address) -> bytearray:
    """Remove an address from a link."""
    return message(RTM_DELADDR, ACT, _address(index, address), _ADDRESS.pack(("IFA_LOCAL", address.packed)))


def routes(family: int) -> bytearray:
    """Request all routes of one address family."""
    return message(RTM_GETROUTE, DUMP, RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def routes_given(family: int, index: int) -> bytearray:
    """Request Ratchet's routes over a link; all routes if the kernel does not filter (before 4.20)."""
    head = RTMSG.pack(family, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0)
    return message(RTM_GETROUTE, DUMP, head, _ROUTE.pack(("RTA_OIF", index)))


def give_route(index: int, route: Route) -> bytearray:
    """Add a route over a link. Keeps an existing route to the same network with the same metric."""
    return message(RTM_NEWROUTE, MAKE, *_route(index, route))


def take_route(index: int, route: Route) -> bytearray:
    """Remove a route that Ratchet added."""
    return message(RTM_DELROUTE, ACT, *_route(index, route))


def neighbours() -> bytearray:
    """Request the neighbours of all links."""
    return message(RTM_GETNEIGH, DUMP, NDMSG.pack(0, 0, 0, 0, 0, 0, 0))


def drop_neighbour(family: int, index: int, address: str) -> bytearray:
    """Delete a neighbour."""
    return message(RTM_DELNEIGH, ACT, NDMSG.pack(family, 0, 0, index, 0, 0, 0), _NEIGHBOUR.pack(("NDA_DST", address)))


def nsid_of(netns_fd: int) -> bytearray:
    """Request the nsid of a namespace in the socket's namespace."""
    return message(RTM_GETNSID, ACT, RTGENMSG.pack(0), _NSID.pack(("NETNSA_FD", netns_fd)))


def nsids() -> bytearray:
    """Request the nsids of all namespaces that have one in the socket's namespace."""
    return message(RTM_GETNSID, DUMP, RTGENMSG.pack(0))


def assign_nsid(netns_fd: int) -> bytearray:
    """Assign a namespace an nsid in the socket's namespace. Fails with EEXIST if it has one."""
    return message(RTM_NEWNSID, ACT, RTGENMSG.pack(0), _NSID.pack(("NETNSA_NSID", NSID_ANY), ("NETNSA_FD", netns_fd)))


def _link(index: int = 0, flags: int = 0) -> bytes:
    return IFINFOMSG.pack(0, 0, 0, index, flags, flags)


def _identity(port: InterfaceSpec, ifname: str) -> bytes:
    packed = _LINK.pack(("IFLA_IFNAME", ifname), ("IFLA_MTU", port.mtu), ("IFLA_GROUP", port.group or GROUP))
    return packed + _mac_and_queue(port.mac, port.txqlen)


def _mac_and_queue(mac: str, txqlen: int | None) -> bytes:
    packed = _LINK.pack(("IFLA_ADDRESS", bytes.fromhex(mac.replace(":", "")))) if mac else b""
    return packed if txqlen is None else packed + _LINK.pack(("IFLA_TXQLEN", txqlen))


def _route(index: int, route: Route) -> tuple[bytes, bytes]:
    family = AF_INET if route.to.version == 4 else AF_INET6
    scope = RT_SCOPE_LINK if route.via is None and family == AF_INET else RT_SCOPE_UNIVERSE
    head = RTMSG.pack(family, route.to.prefixlen, 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, scope, RTN_UNICAST, 0)
    attributes = _ROUTE.pack(("RTA_DST", route.to.network_address.packed), ("RTA_OIF", index))
    if route.via is not None:
        attributes += _ROUTE.pack(("RTA_GATEWAY", route.via.packed))
    if route.metric is not None:
        attributes += _ROUTE.pack(("RTA_PRIORITY", route.metric))
    return head, attributes


def _vxlan_info(data: bytes) -> bytes:
    return _LINK.pack(("IFLA_LINKINFO", _INFO.pack(("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", data))))


def _address(index: int, address: Address) -> bytes:
    family = AF_INET if address.version == 4 else AF_INET6
    return IFADDRMSG.pack(family, address.network.prefixlen, 0, 0, index)
