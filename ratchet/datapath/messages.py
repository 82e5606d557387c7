"""What is said to the kernel: each function gives one message ready to send (rtnetlink(7))."""

from __future__ import annotations

from ipaddress import IPv4Interface

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg

from ratchet.core.device import Port, VxlanWire
from ratchet.core.model import Address
from ratchet.datapath.packing import IFADDRMSG, IFINFOMSG, NDMSG, RTGENMSG, RTMSG, Layout, message

# The mark of ownership: IFLA_GROUP takes effect with the very message that makes a link, so that there is no moment
# at which a link of ours is not marked. "RATC" in ASCII, out of the way of the small numbers that people give.
GROUP = 0x52415443
# IFA_PROTO, "R": tells the addresses that we gave from those that somebody added in the pod (Linux 5.18 and later;
# an older kernel ignores it, and then no address is ever taken for one of ours to remove).
ADDRESS_PROTOCOL = 0x52

IFALIAS_BYTES = 255

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_GETROUTE = 26
RTM_DELNEIGH, RTM_GETNEIGH = 29, 30
RTM_NEWNSID, RTM_GETNSID = 88, 90

NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
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
AF_INET, AF_INET6 = 2, 10

_LINK = Layout(ifinfmsg)
_INFO = Layout(ifinfmsg.ifinfo)
_VETH = Layout(ifinfmsg.ifinfo.veth_data)
_VXLAN = Layout(ifinfmsg.ifinfo.data_map["vxlan"])
_ADDRESS = Layout(ifaddrmsg)
_NEIGHBOUR = Layout(ndmsg)
_NSID = Layout(nsidmsg)

_BRIEFLY = _LINK.pack(("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS))


def link_named(ifname: str) -> bytearray:
    """Ask for one link."""
    return message(RTM_GETLINK, ACT, _link(), _LINK.pack(("IFLA_IFNAME", ifname)) + _BRIEFLY)


def link_at(index: int) -> bytearray:
    """Ask for one link."""
    return message(RTM_GETLINK, ACT, _link(index), _BRIEFLY)


def links(kind: str = "", nsid: int | None = None) -> bytearray:
    """Ask for all links, of one kind only or in the namespace known here as `nsid`."""
    attributes = _BRIEFLY
    if kind:
        attributes += _LINK.pack(("IFLA_LINKINFO", _INFO.pack(("IFLA_INFO_KIND", kind))))
    if nsid is not None:
        attributes += _LINK.pack(("IFLA_IF_NETNSID", nsid))
    return message(RTM_GETLINK, DUMP, _link(), attributes)


def new_veth(near: Port, far: Port, far_fd: int) -> bytearray:
    """Make a pair, one end in the namespace of the socket, the other behind `far_fd`; both down.

    The socket has to be in the near pod: where the name is looked up differs between kernels, and only there do all
    of them agree.
    """
    peer = _link() + _identity(far, far.ifname) + _LINK.pack(("IFLA_NET_NS_FD", far_fd))
    info = _INFO.pack(("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", _VETH.pack(("VETH_INFO_PEER", peer))))
    return message(RTM_NEWLINK, MAKE, _link(), _identity(near, near.ifname) + _LINK.pack(("IFLA_LINKINFO", info)))


def new_vxlan(wire: VxlanWire, ifname: str, pod_fd: int) -> bytearray:
    """Make a tunnel's end behind `pod_fd`, its underlay in the namespace of the socket; down.

    Nothing is learnt: a link has one other end, and whoever can send a datagram to the VTEP could otherwise draw its
    frames elsewhere.
    """
    ipv6 = ":" in wire.remote
    data = _VXLAN.pack(
        ("IFLA_VXLAN_ID", wire.vni),
        ("IFLA_VXLAN_GROUP6" if ipv6 else "IFLA_VXLAN_GROUP", wire.remote),
        ("IFLA_VXLAN_LOCAL6" if ipv6 else "IFLA_VXLAN_LOCAL", wire.local),
        ("IFLA_VXLAN_LINK", wire.parent.index),
        ("IFLA_VXLAN_PORT", wire.port),
        ("IFLA_VXLAN_LEARNING", 0),
    )
    attributes = _identity(wire.near, ifname) + _LINK.pack(("IFLA_NET_NS_FD", pod_fd))
    return message(RTM_NEWLINK, MAKE, _link(), attributes + _vxlan_info(data))


def new_remote(index: int, remote: str) -> bytearray:
    """Point a tunnel to another VTEP of the same address family."""
    data = _VXLAN.pack(("IFLA_VXLAN_GROUP6" if ":" in remote else "IFLA_VXLAN_GROUP", remote))
    return message(RTM_NEWLINK, ACT, _link(index), _vxlan_info(data))


def named(index: int, ifname: str) -> bytearray:
    """Rename a link that is down."""
    return message(RTM_NEWLINK, ACT, _link(index), _LINK.pack(("IFLA_IFNAME", ifname)))


def sized(index: int, mtu: int) -> bytearray:
    """Set a link's MTU in bytes."""
    return message(RTM_NEWLINK, ACT, _link(index), _LINK.pack(("IFLA_MTU", mtu)))


def carrier(index: int, has: bool) -> bytearray:
    """Give a link its carrier, or take it: the pod sees a cable plugged in or pulled, and keeps its interface.

    By protodown, as a VXLAN refuses IFLA_CARRIER. The message that makes a link cannot say it; one that is still down
    comes up as it was told.
    """
    return message(RTM_NEWLINK, ACT, _link(index), _LINK.pack(("IFLA_PROTO_DOWN", int(not has))))


def up(index: int, link: str) -> bytearray:
    """Bring a link up, with the record's name on it for whoever looks."""
    alias = f"ratchet/{link}".encode()[:IFALIAS_BYTES].decode("utf-8", "ignore")
    return message(RTM_NEWLINK, ACT, _link(index, IFF_UP), _LINK.pack(("IFLA_IFALIAS", alias)))


def drop_link(index: int) -> bytearray:
    """Delete a link."""
    return message(RTM_DELLINK, ACT, _link(index))


def drop_link_in(nsid: int, index: int) -> bytearray:
    """Delete a link in the namespace known here as `nsid` (Linux 4.20 and later)."""
    return message(RTM_DELLINK, ACT, _link(index), _LINK.pack(("IFLA_IF_NETNSID", nsid)))


def addresses(index: int = 0) -> bytearray:
    """Ask for all addresses, or those of one link where the kernel filters (4.20 and later)."""
    return message(RTM_GETADDR, DUMP, IFADDRMSG.pack(0, 0, 0, 0, index))


def give_address(index: int, address: Address) -> bytearray:
    """Give a link an address, usable at once: no duplicate address detection on a wire with two ends."""
    attributes = _ADDRESS.pack(
        ("IFA_LOCAL", address.packed), ("IFA_FLAGS", IFA_F_NODAD), ("IFA_PROTO", ADDRESS_PROTOCOL)
    )
    if isinstance(address, IPv4Interface) and address.network.prefixlen <= IPV4_PREFIX_WITH_BROADCAST:
        attributes += _ADDRESS.pack(("IFA_BROADCAST", address.network.broadcast_address.packed))
    return message(RTM_NEWADDR, PUT, _address(index, address), attributes)


def take_address(index: int, address: Address) -> bytearray:
    """Take an address from a link."""
    return message(RTM_DELADDR, ACT, _address(index, address), _ADDRESS.pack(("IFA_LOCAL", address.packed)))


def routes(family: int) -> bytearray:
    """Ask for all routes of one family."""
    return message(RTM_GETROUTE, DUMP, RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def neighbours() -> bytearray:
    """Ask for all neighbours of all links."""
    return message(RTM_GETNEIGH, DUMP, NDMSG.pack(0, 0, 0, 0, 0, 0, 0))


def drop_neighbour(family: int, index: int, address: str) -> bytearray:
    """Forget a neighbour."""
    head = NDMSG.pack(family, 0, 0, index, 0, 0, 0)
    return message(RTM_DELNEIGH, ACT, head, _NEIGHBOUR.pack(("NDA_DST", address)))


def nsid_of(netns_fd: int) -> bytearray:
    """Ask by which number the socket's namespace knows another."""
    return message(RTM_GETNSID, ACT, RTGENMSG.pack(0), _NSID.pack(("NETNSA_FD", netns_fd)))


def nsids() -> bytearray:
    """Ask for every namespace that the socket's namespace has a number for."""
    return message(RTM_GETNSID, DUMP, RTGENMSG.pack(0))


def assign_nsid(netns_fd: int) -> bytearray:
    """Have the socket's namespace give another one a number; EEXIST where it has one."""
    attributes = _NSID.pack(("NETNSA_NSID", NSID_ANY), ("NETNSA_FD", netns_fd))
    return message(RTM_NEWNSID, ACT, RTGENMSG.pack(0), attributes)


def _link(index: int = 0, flags: int = 0) -> bytes:
    return IFINFOMSG.pack(0, 0, 0, index, flags, flags)


def _identity(port: Port, ifname: str) -> bytes:
    packed = _LINK.pack(("IFLA_IFNAME", ifname), ("IFLA_MTU", port.mtu), ("IFLA_GROUP", GROUP))
    return packed + _LINK.pack(("IFLA_ADDRESS", bytes.fromhex(port.mac.replace(":", "")))) if port.mac else packed


def _vxlan_info(data: bytes) -> bytes:
    return _LINK.pack(("IFLA_LINKINFO", _INFO.pack(("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", data))))


def _address(index: int, address: Address) -> bytes:
    family = AF_INET if address.version == 4 else AF_INET6
    return IFADDRMSG.pack(family, address.network.prefixlen, 0, 0, index)
