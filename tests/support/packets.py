"""IP packets of tunnels that a test forges: whole datagrams, and fragments in every order."""

from __future__ import annotations

import itertools
import socket
import struct
from ipaddress import ip_address

from tests.support.frames import vxlan_datagram
from tests.support.namespaces import Bed

PORT, VNI = 4789, 11
TINY, ORDINARY = 8, 32  # bytes of a first fragment

_identities = itertools.count(1000)


def vxlan(payload: bytes, vni: int = VNI, reserved: int = 0) -> bytes:
    return vxlan_datagram(payload, vni, reserved)


def udp(source: str, target: str, content: bytes, port: int = PORT) -> bytes:
    """A UDP datagram with its checksum, which IPv6 requires."""
    length = 8 + len(content)
    addresses = ip_address(source).packed + ip_address(target).packed
    pseudo = addresses + struct.pack(">II", length, socket.IPPROTO_UDP)
    header = struct.pack(">HHHH", 5000, port, length, 0)
    total = pseudo + header + content + b"\0" * (length % 2)
    checksum = sum(struct.unpack(f">{len(total) // 2}H", total))
    while checksum >> 16:
        checksum = (checksum & 0xFFFF) + (checksum >> 16)
    return struct.pack(">HHHH", 5000, port, length, ~checksum & 0xFFFF or 0xFFFF) + content


def fragment(source: str, target: str, offset: int, more: bool, content: bytes, identity: int = 777) -> bytes:
    """An IP packet with a fragment of a UDP datagram; a whole one if it is first and last."""
    packed = ip_address(source).packed + ip_address(target).packed
    if ":" not in source:
        flags = (0x2000 if more else 0) | offset // 8
        return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(content), identity, flags, 64, 17, 0) + packed + content
    head = struct.pack(">BBHI", 17, 0, offset | int(more), identity)
    return struct.pack(">IHBB", 0x60000000, 8 + len(content), 44, 64) + packed + head + content


def send(bed: Bed, node: str, target: str, *packets: bytes) -> None:
    """Send raw IP packets, which may have any source."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with bed.inside(node), socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for packet in packets:
            raw.sendto(packet, (target, 0))


def send_udp(bed: Bed, node: str, target: str, content: bytes, port: int = PORT) -> None:
    """Send a datagram by a plain socket."""
    with (
        bed.inside(node),
        socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.sendto(content, (target, port))


def pieces(source: str, target: str, payload: bytes, first: int, vni: int = VNI) -> tuple[bytes, bytes]:
    """A datagram in two fragments, the first of `first` bytes."""
    datagram, identity = udp(source, target, vxlan(payload, vni)), next(_identities)
    parts = (0, True, datagram[:first]), (first, False, datagram[first:])
    head, tail = (fragment(source, target, *part, identity) for part in parts)
    return head, tail


def overlapping(source: str, target: str, payload: bytes) -> tuple[bytes, ...]:
    """Fragments that say another VNI first, and then overwrite it."""
    (other, ours), identity = (udp(source, target, vxlan(payload, vni)) for vni in (99, VNI)), next(_identities)
    parts = (0, True, other[:ORDINARY]), (8, True, ours[8:ORDINARY]), (ORDINARY, False, ours[ORDINARY:])
    return tuple(fragment(source, target, *part, identity) for part in parts)


def udp_packet(source: str, target: str, content: bytes) -> bytes:
    """An IP packet with a whole datagram."""
    packet = fragment(source, target, 0, False, udp(source, target, content))
    if ":" not in source:
        return packet
    return packet[:4] + struct.pack(">HB", len(packet) - 48, 17) + packet[7:40] + packet[48:]
