"""The socket of OAM frames in the patch panel (`core.oam`; packet(7)).

It is bound to the EtherType: a socket for all protocols is a tap on every device, which costs TCP 7 %. The filters of
patches pass the EtherType at tunnels to the panel's stack, and drop it at cables (`patches`).

Only frames to the group address are read: the kernel marks a frame that had a VLAN tag as for another host.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from errno import EACCES, EAGAIN, EINTR, EMSGSIZE, ENETDOWN, ENOBUFS, ENODEV, ENXIO, EPERM
from types import TracebackType
from typing import Self

from ratchet.core.oam import DESTINATION, ETHERTYPE
from ratchet.core.panel import TUNNEL_PREFIX
from ratchet.datapath.netns import inside
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.rtnetlink import Channel
from ratchet.errors import DatapathError

SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
# Bytes: some 1,000 frames, as another node's agent sends when it starts. The kernel drops more, and they are repeated.
RECEIVE_BUFFER = 1 << 20
FRAME_BYTES = 256  # longer frames are read up to here
BATCH = 256  # frames

# The tunnel is gone or down, or the frame was lost as on the wire: a repetition makes up for it.
_UNSENT = frozenset({ENODEV, ENXIO, ENETDOWN, ENOBUFS, EAGAIN, EMSGSIZE})
_NO_MORE = frozenset({EAGAIN, EINTR})


class OamSocket:
    """Sends and receives OAM frames at the tunnels of one panel. It never blocks; `fileno` is for selectors.

    `channel` is a netlink socket in the panel, for reads of what the frames concern: to open one for each is dear.
    A context manager that closes its socket; the panel is the caller's. For one thread.
    """

    def __init__(self, panel: Panel) -> None:
        """Open the socket. Raises DatapathError, also without CAP_NET_RAW."""
        self._path = panel.netns.path
        with inside(panel.netns):
            self._socket = _opened(self._path)
        try:
            self.channel = Channel(panel.netns)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, tunnel: str, payload: bytes) -> bool:
        """Send a payload out of a tunnel, from its address. Returns False if the tunnel is gone, down or congested.

        Raises DatapathError.
        """
        try:
            self._socket.sendto(payload, (tunnel, ETHERTYPE, 0, 0, DESTINATION))
        except OSError as error:
            if error.errno in _UNSENT:
                return False
            raise DatapathError(f"cannot send an OAM frame from {tunnel}: {error.strerror}") from error
        return True

    def received(self) -> Iterator[tuple[str, bytes]]:
        """The tunnels and payloads of the frames that have arrived, BATCH at most.

        A tunnel that has no patch is not a source of OAM frames: the caller checks that. Raises DatapathError.
        """
        for _ in range(BATCH):
            try:
                payload, (ifname, _, kind, *_) = self._socket.recvfrom(FRAME_BYTES)
            except OSError as error:
                if error.errno in _NO_MORE:
                    return
                if error.errno in (ENETDOWN, ENOBUFS):  # a device went down; frames were lost
                    continue
                raise DatapathError(f"cannot read OAM frames in {self._path}: {error.strerror}") from error
            if ifname.startswith(TUNNEL_PREFIX) and kind == socket.PACKET_MULTICAST:
                yield ifname, payload

    def close(self) -> None:
        self._socket.close()
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _opened(path: str) -> socket.socket:
    try:
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        opened = socket.socket(socket.AF_PACKET, kind, socket.htons(ETHERTYPE))
    except OSError as error:
        raise DatapathError(
            f"cannot open an OAM socket in patch panel {path}: {error.strerror}",
            details="Ratchet needs CAP_NET_RAW." if error.errno in (EPERM, EACCES) else "",
        ) from error
    with suppress(PermissionError):  # the kernel's default is large enough for 250 frames
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    return opened
