"""Ethernet frames and tunnel datagrams that tests send, and what arrives of them at a pod's interface."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.namespaces import Bed

ETHERTYPE = 0x88B5  # for experiments (IEEE 802)


class Frames:
    """The frames of `ETHERTYPE` that arrive at an interface of a pod."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._received = b""

    def __contains__(self, payload: bytes) -> bool:
        """Whether a frame with this payload has arrived."""
        self._socket.setblocking(False)
        while True:
            try:
                self._received += self._socket.recv(65535)
            except BlockingIOError:
                return payload in self._received


@contextmanager
def received_frames(bed: Bed, pod: str, ifname: str = "in1") -> Iterator[Frames]:
    """The frames that arrive during a block."""
    with _packet_socket(bed, pod, ifname, ETHERTYPE) as opened:
        yield Frames(opened)


def send_frame(bed: Bed, pod: str, payload: bytes, ifname: str = "in1") -> None:
    """Send a broadcast frame from an interface of a pod."""
    with _packet_socket(bed, pod, ifname, 0) as opened:
        opened.send(broadcast(payload))


@contextmanager
def _packet_socket(bed: Bed, pod: str, ifname: str, protocol: int) -> Iterator[socket.socket]:
    with bed.inside(pod):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    with opened:
        opened.bind((ifname, protocol))
        yield opened


def broadcast(payload: bytes) -> bytes:
    """A broadcast frame."""
    return b"\xff" * 6 + b"\x02" * 6 + struct.pack(">H", ETHERTYPE) + payload


def vxlan_datagram(payload: bytes, vni: int, reserved: int = 0) -> bytes:
    """A VXLAN header and a broadcast frame (RFC 7348, section 5)."""
    return struct.pack(">II", 0x08000000, vni << 8 | reserved) + broadcast(payload)
