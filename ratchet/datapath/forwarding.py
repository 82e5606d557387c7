"""The forwarding entries of a VXLAN: read, add and remove (bridge(8), "fdb"; drivers/net/vxlan)."""

from __future__ import annotations

from ipaddress import ip_address

from ratchet.core.forwarding import ANY_MAC, ForwardingEntry
from ratchet.core.interface import Device
from ratchet.datapath.message_classes import ndmsg
from ratchet.datapath.messages import (
    ACT,
    AF_BRIDGE,
    DUMP,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NTF_SELF,
    NUD_NOARP,
    NUD_PERMANENT,
    RTM_DELNEIGH,
    RTM_GETNEIGH,
    RTM_NEWNEIGH,
)
from ratchet.datapath.nlattr import HEADER, NDMSG, Layout, Reading, message
from ratchet.datapath.rtnetlink import Channel

_LAYOUT = Layout(ndmsg)
_ENTRY = Reading(ndmsg, "NDA_LLADDR", "NDA_DST", "NDA_PORT", "NDA_VNI", "NDA_IFINDEX", "NDA_MASTER", "NDA_NH_ID")


def entries_of(channel: Channel, device: Device) -> tuple[ForwardingEntry, ...]:
    """The forwarding entries of a VXLAN. Raises RefusedError."""
    found = (read_entry(raw, device) for raw in channel.dump(all_entries(device.index)))
    return tuple(entry for entry in found if entry is not None)


def read_entry(raw: bytes, device: Device) -> ForwardingEntry | None:
    """An entry of this VXLAN. None for one of another device, or of a bridge that has the VXLAN as a port."""
    index = NDMSG.unpack_from(raw, HEADER.size)[3]
    found = _ENTRY.read(raw, HEADER.size + NDMSG.size)
    if index != device.index or "NDA_MASTER" in found:
        return None
    remote = found.get("NDA_DST", b"")
    return ForwardingEntry(
        mac=found.get("NDA_LLADDR", b"").hex(":"),
        remote=str(ip_address(remote)) if remote else "",
        # The kernel leaves out what is the device's own.
        port=found.get("NDA_PORT", device.port or 0),
        vni=found.get("NDA_VNI", device.vni or 0),
        parent_index=found.get("NDA_IFINDEX", 0),
        nexthop=found.get("NDA_NH_ID", 0),
    )


def all_entries(index: int) -> bytearray:
    """Request the entries of a VXLAN; those of all links if the kernel does not filter (before 4.20)."""
    return message(RTM_GETNEIGH, DUMP, NDMSG.pack(AF_BRIDGE, 0, 0, index, 0, 0, 0))


def lead_to(index: int, remote: str, port: int) -> bytearray:
    """Add a VTEP and UDP port to which a VXLAN sends all its frames too."""
    destination = _LAYOUT.pack(("NDA_LLADDR", bytes(6)), ("NDA_DST", ip_address(remote).packed), ("NDA_PORT", port))
    return message(RTM_NEWNEIGH, ACT | NLM_F_CREATE | NLM_F_APPEND, _head(index), destination)


def lead_nowhere(index: int, mac: str = ANY_MAC) -> bytearray:
    """Remove all entries of a VXLAN for a MAC address."""
    packed = bytes.fromhex(mac.replace(":", ""))
    return message(RTM_DELNEIGH, ACT, _head(index), _LAYOUT.pack(("NDA_LLADDR", packed)))


def _head(index: int) -> bytes:
    return NDMSG.pack(AF_BRIDGE, 0, 0, index, NUD_NOARP | NUD_PERMANENT, NTF_SELF, 0)
