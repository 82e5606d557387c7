"""The offloads of an interface, in the calling thread's network namespace (ethtool(8))."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

SIOCETHTOOL = 0x8946
# ethtool(8), "-K": the commands that read and set each offload (include/uapi/linux/ethtool.h). Checksums come first:
# the others are useless without them, and the kernel turns some off with them.
TX_CHECKSUM, SCATTER, TSO, GSO, GRO = (0x16, 0x17), (0x18, 0x19), (0x1E, 0x1F), (0x23, 0x24), (0x2B, 0x2C)
OFFLOADS = (TX_CHECKSUM, SCATTER, TSO, GSO, GRO)
_VALUE = struct.Struct("=II")  # struct ethtool_value: command, value
_IFREQ = struct.Struct("16sP16x")  # struct ifreq with ifr_data


def enable_offloads(ifname: str, *, gro: bool) -> None:
    """Turn on the OFFLOADS that a new interface has. A new vEth has no GRO. Raises OSError."""
    with _open_socket() as opened:
        for _, command in OFFLOADS if gro else OFFLOADS[:-1]:
            _ethtool(opened, ifname, command, 1)


def disable_offloads(ifname: str) -> None:
    """Turn all OFFLOADS off. Raises OSError."""
    with _open_socket() as opened:
        for _, command in OFFLOADS:
            _ethtool(opened, ifname, command, 0)


def has_offloads(ifname: str) -> bool:
    """Whether any of OFFLOADS is on. Raises OSError."""
    with _open_socket() as opened:
        return any(_ethtool(opened, ifname, command) for command, _ in OFFLOADS)


def _open_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _ethtool(opened: socket.socket, ifname: str, command: int, value: int = 0) -> int:
    """Run one command and return the value that the kernel writes back."""
    buffer = array.array("B", _VALUE.pack(command, value))
    fcntl.ioctl(opened, SIOCETHTOOL, _IFREQ.pack(ifname.encode(), buffer.buffer_info()[0]))
    return int(_VALUE.unpack(buffer)[1])
