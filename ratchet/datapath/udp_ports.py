"""Who has a UDP port of the node, so that no tunnel can use it. Read only after a failure, and at the agent's start.

"The node" is the calling thread's network namespace. A tunnel shares its port with other tunnels of the same options,
and with nothing else (drivers/net/vxlan, vxlan_find_sock). Processes in PID namespaces that /proc does not show, and
sockets of other parts of the kernel, are not found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ratchet.datapath.parse import links_of
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.errors import DatapathError

# A device with one of these options shares its socket with no tunnel (drivers/net/vxlan, VXLAN_F_RCV_FLAGS).
_EXCLUSIVE = frozenset({"external", "gpe", "gbp", "udp6zerocsumrx", "remcsumrx"})
_SOCKETS = ("/proc/thread-self/net/udp", "/proc/thread-self/net/udp6")
_LOCAL_ADDRESS, _INODE = 1, 9  # columns (proc_net_udp(5))


def holder_of(port: int) -> str | None:
    """What uses a UDP port so that tunnels cannot share it: a device or a process. None if nothing is found.

    Raises DatapathError.
    """
    inodes = _inodes_at(port)
    return _device_at(port) or _process_with(inodes) if inodes else None


def _inodes_at(port: int) -> set[str]:
    """The inodes of the sockets that are bound to the port."""
    try:
        return {inode for path in _SOCKETS for bound, inode in _bound_sockets(path) if bound == port}
    except OSError as error:
        raise DatapathError(f"cannot read the UDP sockets of the node: {error.strerror}") from error


def _bound_sockets(path: str) -> Iterator[tuple[int, str]]:
    """The port and the inode of each UDP socket of one family."""
    with suppress(FileNotFoundError):  # a kernel without IPv6
        for line in Path(path).read_text().splitlines()[1:]:
            fields = line.split()
            yield int(fields[_LOCAL_ADDRESS].rpartition(":")[2], 16), fields[_INODE]


def _device_at(port: int) -> str | None:
    """A VXLAN device of the node with an option that keeps other tunnels from the port."""
    try:
        with Channel() as node:
            devices = [link.device for link in links_of(node, "vxlan")]
    except RefusedError as refusal:
        raise DatapathError(f"cannot list the tunnels of the node: {refusal.strerror}") from refusal
    for device in devices:
        options = [option for option in device.options if option in _EXCLUSIVE]
        if device.port == port and options:
            return f"the VXLAN device {device.ifname} ({', '.join(options)})"
    return None


def _process_with(inodes: set[str]) -> str | None:
    """A process that has a descriptor of one of these sockets."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ends meanwhile, or is another user's
            if any(str(fd.readlink()) in wanted for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (PID {process.name})"
    return None
