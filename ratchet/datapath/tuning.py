"""What of an interface is set elsewhere than by rtnetlink: its settings under /proc/sys/net, and its offloads.

All of it acts in the calling thread's network namespace.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from ratchet.core.properties import IFNAME, Sysctl

# In a container /proc/sys is read-only: the host's is mounted beside it. Either shows the opening thread's namespace.
MOUNTED = "/host/proc/sys/net"
_SETTINGS = "/host/proc/sys" if Path(MOUNTED).is_dir() else "/proc/sys"

SIOCETHTOOL = 0x8946
# ethtool(8), "-K": the commands that read and set each (include/uapi/linux/ethtool.h). Checksums first: the others
# are of no use without them, and the kernel turns some off with them.
TX_CHECKSUM, SCATTER, TSO, GSO, GRO = (0x16, 0x17), (0x18, 0x19), (0x1E, 0x1F), (0x23, 0x24), (0x2B, 0x2C)
OFFLOADS = (TX_CHECKSUM, SCATTER, TSO, GSO, GRO)
_VALUE = struct.Struct("=II")  # struct ethtool_value: command, value
_IFREQ = struct.Struct("16sP16x")  # struct ifreq with ifr_data


def accept_no_routers(ifname: str) -> None:
    """Have an interface ignore router advertisements. Raises OSError, FileNotFoundError where it has no IPv6."""
    _write(f"net.ipv6.conf.{IFNAME}.accept_ra", ifname, "0")


def write_sysctl(ifname: str, sysctl: Sysctl) -> None:
    """Raises OSError, FileNotFoundError where the kernel has no such setting."""
    name, value = sysctl
    _write(name, ifname, str(value))


def read_sysctls(ifname: str, names: Iterable[str]) -> tuple[Sysctl, ...]:
    """Those of these settings that the kernel has, as they are."""
    found = []
    for name in names:
        try:
            found.append((name, int(Path(_path(name, ifname)).read_text())))
        except FileNotFoundError:
            continue
    return tuple(found)


def turn_offloads_off(ifname: str) -> None:
    """Raises OSError."""
    with _asking() as asked:
        for _, command in OFFLOADS:
            _ethtool(asked, ifname, command, 0)


def has_offloads(ifname: str) -> bool:
    """Whether any of those that can be turned off is on. Raises OSError."""
    with _asking() as asked:
        return any(_ethtool(asked, ifname, command) for command, _ in OFFLOADS)


def _path(name: str, ifname: str) -> str:
    # The interface's own name may have dots in it.
    return "/".join((_SETTINGS, *(ifname if part == IFNAME else part for part in name.split("."))))


def _write(name: str, ifname: str, value: str) -> None:
    fd = os.open(_path(name, ifname), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _asking() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _ethtool(asked: socket.socket, ifname: str, command: int, value: int = 0) -> int:
    """What the kernel says to one command."""
    said = array.array("B", _VALUE.pack(command, value))
    fcntl.ioctl(asked, SIOCETHTOOL, _IFREQ.pack(ifname.encode(), said.buffer_info()[0]))
    return int(_VALUE.unpack(said)[1])
