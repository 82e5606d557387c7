"""Raw Ethernet frames through packet sockets, with the tags that the kernel keeps apart from them (packet(7))."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.namespaces import Bed

ETH_P_ALL = 3
OAM = 0x88B7  # the EtherType that patches keep off the wire
SOL_PACKET, PACKET_AUXDATA = 263, 8
AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata of packet(7)
TP_STATUS_VLAN_VALID = 0x10
MACS = 12  # bytes of both MAC addresses
SMALLEST = 60  # bytes of a frame without its checksum
SECONDS = 10.0  # the longest wait for a frame

SOURCE = bytes.fromhex("0600005eba11")


def ethernet(destination: str, ethertype: int, payload: bytes) -> bytes:
    """An Ethernet II frame."""
    head = bytes.fromhex(destination.replace(":", "")) + SOURCE + struct.pack("!H", ethertype)
    return (head + payload).ljust(SMALLEST, b"\0")


@contextmanager
def opened(bed: Bed, pod: str, ifname: str, protocol: int = ETH_P_ALL) -> Iterator[socket.socket]:
    """A packet socket on an interface."""
    with bed.inside(pod):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with made:
        made.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        made.settimeout(SECONDS)
        made.bind((ifname, protocol))
        yield made


def received(link: socket.socket) -> bytes:
    """The next frame from SOURCE."""
    while True:
        frame, extra, _, (_, _, direction, *_) = link.recvmsg(1 << 16, 1 << 8)
        if frame[MACS // 2 : MACS] == SOURCE and direction != socket.PACKET_OUTGOING:
            return tagged(frame, extra)


def tagged(frame: bytes, extra: list[tuple[int, int, bytes]]) -> bytes:
    """The frame with its outer tag, which the kernel keeps apart from it."""
    for level, kind, data in extra:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, *_, tag, ethertype = AUXDATA.unpack(data)
            if status & TP_STATUS_VLAN_VALID:
                return frame[:MACS] + struct.pack("!HH", ethertype, tag) + frame[MACS:]
    return frame
