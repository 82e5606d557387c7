"""Events of the panel's cables: a pod has set its end up or down, or is gone with its end (rtnetlink(7))."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOBUFS
from types import TracebackType
from typing import Protocol, Self

from ratchet.core.carrier import PanelEndState, may_have_changed
from ratchet.datapath.messages import RTM_DELLINK, RTM_NEWLINK
from ratchet.datapath.netns import inside
from ratchet.datapath.panel.carrier import set_carrier, settle_carriers
from ratchet.datapath.panel.devices import PanelDevice, device_at, devices_of, read_device, read_state
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.panel.patches import observe_patch
from ratchet.datapath.panel.tunnel_state import forget_tunnel
from ratchet.datapath.rtnetlink import BUFFER, Channel, RefusedError, split_messages
from ratchet.errors import DatapathError

RTMGRP_LINK = 1
RECEIVE_BUFFER = 4 << 20  # bytes: the events of some 1,000 cables that come or go at once
BATCH = 64  # events that are handled before the caller looks for others
SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h


class TunnelEnds(Protocol):
    """Who follows the cables that are patched to tunnels."""

    def awaits(self, tunnel: PanelDevice, *, is_news: bool) -> bool:
        """Whether to call `cable_changed`. Without news, who raised the panel's end has settled its carrier."""
        ...

    def cable_changed(self, channel: Channel, cable: PanelDevice, tunnel: PanelDevice) -> None:
        """A pod may have changed its end, or the panel's end is up now."""
        ...

    def device_deleted(self, index: int) -> None:
        """The tunnel, cable or other device at this ifindex was deleted."""
        ...


class CarrierWatch:
    """Gives the cables of one panel the carrier that they must have as pods change their ends.

    Patches between two cables are settled here, those to tunnels by `tunnels`: the far pod is on another node. A
    context manager that closes its socket; the panel is the caller's. For one thread.
    """

    def __init__(self, panel: Panel, tunnels: TunnelEnds | None = None) -> None:
        self._panel = panel
        self._tunnels = tunnels
        with inside(panel.netns):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        with suppress(PermissionError):  # in a user namespace; lost events are made up for by a look
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._socket.bind((0, RTMGRP_LINK))
        # Opened by the first event. The socket of events keeps the panel alive as well.
        self._channel: Channel | None = None
        # The last report of each device, by its ifindex.
        self._seen: dict[int, PanelEndState] = {}
        # The ifindex to which each cable is patched, as last read: by it, the partner of a deleted one is found.
        self._targets: dict[int, int] = {}

    def fileno(self) -> int:
        return self._socket.fileno()

    def look(self) -> None:
        """Settle all patches. Raises DatapathError.

        Events come from now on, so no change is missed.
        """
        with self._opened() as channel:
            cables = [device for device in devices_of(channel) if device.is_cable]
            self._seen = {cable.index: _state_of(cable) for cable in cables}
            self._targets = {}
            for cable in cables:
                self._settle(channel, cable)

    def follow(self, seconds: float) -> None:
        """Wait up to `seconds` for an event, and settle the patches that it and the next ones concern.

        Raises DatapathError.
        """
        self._socket.settimeout(seconds)
        with self._opened() as channel:
            for _ in range(BATCH):
                try:
                    data = self._socket.recv(BUFFER)
                except (TimeoutError, BlockingIOError):
                    return
                except OSError as error:
                    if error.errno != ENOBUFS:
                        raise DatapathError(f"cannot read the events of the patch panel: {error.strerror}") from error
                    self.look()  # events were lost
                    return
                self._read(channel, data)
                self._socket.settimeout(0)

    def close(self) -> None:
        self._socket.close()
        if self._channel is not None:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _read(self, channel: Channel, data: bytes) -> None:
        for _, kind, _, raw in split_messages(data):
            index, state = read_state(raw)
            if kind == RTM_DELLINK:
                self._deleted(channel, index)
            elif kind == RTM_NEWLINK:
                self._changed(channel, index, state, raw)

    def _changed(self, channel: Channel, index: int, now: PanelEndState, raw: bytes) -> None:
        """Follow a report of a device. Most reports change nothing or are of an end that is down, and cost no read."""
        before = self._seen.get(index)
        if not now.up or before == now:
            self._seen[index] = now
            return
        cable = read_device(raw)
        if not cable.is_cable:
            return
        self._seen[index] = now
        if may_have_changed(before, now):
            self._settle(channel, cable)
        elif before is None or not before.up:
            self._settle(channel, cable, is_news=False)

    def _deleted(self, channel: Channel, index: int) -> None:
        """Take the carrier of the cable that was patched to a deleted device, or settle its new patch."""
        forget_tunnel(self._panel.cookie, index)
        if self._tunnels is not None:
            self._tunnels.device_deleted(index)
        self._seen.pop(index, None)
        self._targets.pop(index, None)
        for partner in [one for one, target in self._targets.items() if target == index]:
            new_target, cable = self._read_target(channel, partner), device_at(channel, partner)
            if cable is not None and new_target == 0:
                set_carrier(channel, cable, False)
            elif cable is not None and new_target is not None:
                self._settle(channel, cable)  # it may have been settled for the deleted one meanwhile

    def _settle(self, channel: Channel, cable: PanelDevice, *, is_news: bool = True) -> None:
        """Settle the patch of a cable, if it and another device are patched to each other.

        Without news, who raised the panel's end of a patch between two cables has settled it.
        """
        target = self._read_target(channel, cable.index)
        other = device_at(channel, target) if target else None
        if other is None or not other.ours:
            return
        if other.is_cable:
            if is_news and self._read_target(channel, other.index) == cable.index:
                settle_carriers(channel, cable, other)
        elif (
            self._tunnels is not None
            and self._tunnels.awaits(other, is_news=is_news)
            and observe_patch(channel, other.index).target == cable.index
        ):
            self._tunnels.cable_changed(channel, cable, other)

    def _read_target(self, channel: Channel, index: int) -> int | None:
        target = observe_patch(channel, index).target
        if target:
            self._targets[index] = target
        else:
            self._targets.pop(index, None)
        return target

    @contextmanager
    def _opened(self) -> Iterator[Channel]:
        if self._channel is None:
            self._channel = Channel(self._panel.netns)
        try:
            yield self._channel
        except RefusedError as refusal:
            path = self._panel.netns.path
            raise DatapathError(f"cannot watch patch panel {path}: {refusal.strerror}") from refusal


def _state_of(cable: PanelDevice) -> PanelEndState:
    return PanelEndState(cable.up, cable.carrier)
