"""Who has a UDP port of the node, so that no tunnel can use it. Read after failures, by agents, and for STATUS.

"The node" is the calling thread's network namespace. A tunnel shares its port with other tunnels of the same options,
and with nothing else (drivers/net/vxlan, vxlan_find_sock). Processes in PID namespaces that /proc does not show, and
sockets of other parts of the kernel, are not found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ratchet.core.interface import Device
from ratchet.datapath.parse import links_of
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.errors import DatapathError

# A device with one of these options shares its socket with no tunnel (drivers/net/vxlan, VXLAN_F_RCV_FLAGS).
_EXCLUSIVE = frozenset({"external", "gpe", "gbp", "udp6zerocsumrx", "remcsumrx"})
_SOCKETS = {False: "/proc/thread-self/net/udp", True: "/proc/thread-self/net/udp6"}  # by whether they are of IPv6
_LOCAL_ADDRESS, _INODE = 1, 9  # columns (proc_net_udp(5))

FindTunnels = Callable[[], Iterable[Device]]


@dataclass(frozen=True, slots=True)
class PortUse:
    """Who has a UDP port. `is_free`: tunnels can use it. Neither: it is in use, and no holder is found."""

    holder: str = ""
    is_free: bool = False


class _Socket(NamedTuple):
    inode: str
    is_ipv6: bool


def use_of(port: int, own_tunnels: FindTunnels = tuple) -> PortUse:
    """What uses a UDP port so that tunnels cannot share it: a device or a process.

    `own_tunnels` returns tunnels in other namespaces whose sockets are in this one. They are read as far as needed.
    Raises DatapathError.
    """
    sockets = _sockets_at(port)
    if not sockets:
        return PortUse(is_free=True)
    devices = [one for one in _tunnels_of_node() if one.up and one.port == port]
    if holder := next(filter(None, map(_exclusive, devices)), ""):
        return PortUse(holder)
    # A tunnel that is up has the only socket of its port and address family, which other tunnels share.
    for tunnel in chain(devices, (one for one in own_tunnels() if one.up and one.port == port)):
        sockets = {one for one in sockets if one.is_ipv6 != _is_ipv6(tunnel)}
        if not sockets:
            return PortUse(is_free=True)
    return PortUse(_process_with({one.inode for one in sockets}))


def _sockets_at(port: int) -> set[_Socket]:
    """The sockets that are bound to the port."""
    try:
        return {
            _Socket(inode, is_ipv6)
            for is_ipv6, path in _SOCKETS.items()
            for bound, inode in _bound_sockets(path)
            if bound == port
        }
    except OSError as error:
        raise DatapathError(f"cannot read the UDP sockets of the node: {error.strerror}") from error


def _bound_sockets(path: str) -> Iterator[tuple[int, str]]:
    """The port and the inode of each UDP socket of one family."""
    with suppress(FileNotFoundError):  # a kernel without IPv6
        for line in Path(path).read_text().splitlines()[1:]:
            fields = line.split()
            yield int(fields[_LOCAL_ADDRESS].rpartition(":")[2], 16), fields[_INODE]


def _tunnels_of_node() -> list[Device]:
    try:
        with Channel() as node:
            return [link.device for link in links_of(node, "vxlan")]
    except RefusedError as refusal:
        raise DatapathError(f"cannot list the tunnels of the node: {refusal.strerror}") from refusal


def _exclusive(device: Device) -> str:
    """The name of a VXLAN device with an option that keeps other tunnels from its port; empty if it has none."""
    options = [option for option in device.options if option in _EXCLUSIVE]
    return f"the VXLAN device {device.ifname} ({', '.join(options)})" if options else ""


def _is_ipv6(tunnel: Device) -> bool:
    return ":" in (tunnel.remote or tunnel.local or "")


def _process_with(inodes: set[str]) -> str:
    """A process that has a descriptor of one of these sockets; empty if none is found."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ends meanwhile, or is another user's
            if any(str(fd.readlink()) in wanted for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (PID {process.name})"
    return ""
