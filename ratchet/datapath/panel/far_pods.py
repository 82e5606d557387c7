"""Tell the panels at the other ends of tunnels what the pods here do, and follow what they tell (`core.oam`)."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ratchet.core.oam import LOWERED_SECONDS, OamFrame, OamSchedule, OamState, TunnelPeer, decode, encode
from ratchet.core.observation import Proof
from ratchet.core.silence import TunnelProof, tunnel_proof
from ratchet.datapath.panel.carrier import PodReading, pod_end_is_up, settle_tunnel_carrier
from ratchet.datapath.panel.devices import PanelDevice
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.panel.oam import OamSocket
from ratchet.datapath.panel.tunnel_cables import TunnelCable, read_cable
from ratchet.datapath.panel.tunnel_state import link_at, note_far_pod, tunnel_state
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.errors import DatapathError

# The repetitions of many ends are spread: each waits for a part of its interval, between these.
LEAST_PART, GOLDEN_RATIO = 0.75, 0.618033988749895
# Seconds for which an end about which nothing is reported repeats its frame without a reading. Passes repair patches
# that somebody removes, sooner than that.
READING_SECONDS = 120.0


@dataclass(slots=True)
class _End:
    """An end at a tunnel. `tunnel` is the ifindex of its tunnel, 0 if that and a cable are not patched to each other.

    `noted` is what was last noted there of the far pod. `last`: tunnel and cable as last read, at `read_at`.
    """

    peer: TunnelPeer
    state: OamState
    schedule: OamSchedule = field(default_factory=OamSchedule)
    tunnel: int = 0
    noted: bool | None = None
    last: TunnelCable | None = None
    read_at: float = float("-inf")

    def far_pod_up(self, now: float) -> bool | None:
        return self.state.far_pod_up(sandbox=self.peer.far, lease_expired=self.peer.lease_expired, now=now)


class FarPods:
    """The ends at the tunnels of one panel, by the names of their tunnels. For one thread.

    `clock` returns monotonic seconds. `lowered` are the tunnels whose cables had no carrier when the process started
    (`panel.lowered`); those that are followed are removed from it. The methods raise DatapathError.
    """

    def __init__(
        self,
        panel: Panel,
        socket: OamSocket,
        clock: Callable[[], float] = time.monotonic,
        lowered: set[str] | None = None,
    ) -> None:
        self._panel = panel
        self._lowered = lowered if lowered is not None else set()
        self._socket = socket
        self._clock = clock
        self._start = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._sequence = 0
        self._ends: dict[str, _End] = {}
        # When each end is due, the next one first. An entry counts only while its end has this schedule, or if the far
        # pod's state has changed: an end that was lowered counts as shut for a time.
        self._due: list[tuple[float, str]] = []
        self._changed: set[str] = set()

    def fileno(self) -> int:
        return self._socket.fileno()

    def update(self, peers: Mapping[str, TunnelPeer]) -> None:
        """Serve these ends from now on, by the names of their tunnels."""
        now = self._clock()
        ends = dict[str, _End]()
        for name, peer in peers.items():
            end = self._ends.get(name)
            if end is None or (end.peer.record, end.peer.end, end.peer.own) != (peer.record, peer.end, peer.own):
                end = self._new_end(name, peer, now)
            elif peer.linked and not end.peer.linked:
                end.state = replace(end.state, since=now)  # until now, the peer's panel may have had no tunnel
            end.peer = peer
            ends[name] = end
            if end.far_pod_up(now) is not end.noted:
                self._changed.add(name)
        self._ends = ends  # at once: other threads read it

    def proof(self, name: str) -> Proof | None:
        """What is proven of the tunnel of this name; None if it is none of the ends'. For any thread."""
        end = self._ends.get(name)
        return tunnel_proof(end.peer, end.state, self._clock()).proof if end is not None else None

    def proofs(self) -> list[TunnelProof]:
        """What is proven of the tunnels of all ends. For any thread."""
        now = self._clock()
        return [tunnel_proof(end.peer, end.state, now) for end in list(self._ends.values())]

    def wait_seconds(self, most: float) -> float:
        """Seconds until the next frame is due, `most` at most."""
        now = self._clock()
        return max(0.0, min(self._due[0][0] - now, most)) if self._due else most

    def follow_due(self) -> None:
        """Send the frames that are due, and note what has changed without a frame: another peer, an expired Lease."""
        now, names = self._clock(), dict.fromkeys(name for name in self._changed if name in self._ends)
        self._changed.clear()
        while self._due and self._due[0][0] <= now:
            due, name = heapq.heappop(self._due)
            end = self._ends.get(name)
            if end is None or (end.schedule.due != due and end.far_pod_up(now) is end.noted):
                continue
            if end.last is not None and name not in names and self._is_as_read(end, now):
                self._send_if_due(end, end.last.tunnel, True)
            else:
                names[name] = None
        if names:
            self._follow(names)

    def follow_frames(self) -> None:
        """Read the frames that have arrived, and settle the ends that they change. `follow_due` answers those that ask.

        A frame at a tunnel that is not patched may be a pod's (`panel.patches`).
        """
        heard = dict[str, None]()
        for name, payload in self._socket.received():
            end, frame = self._ends.get(name), decode(payload)
            if end is None or frame is None or not end.state.accepts(frame):
                continue
            if not end.tunnel:
                self._follow([name])
            if not end.tunnel:
                continue
            now = self._clock()
            end.state = end.state.heard(frame, now)
            if frame.asks:
                self._schedule(name, end, end.schedule.asked(now))
            if end.far_pod_up(now) is not end.noted:
                heard[name] = None
        if heard:
            self._follow(heard)

    def awaits(self, tunnel: PanelDevice, *, is_news: bool) -> bool:
        """Whether the cable of a tunnel may need another carrier, or its end is to send a frame."""
        cookie, index = self._panel.cookie, tunnel.index
        known = tunnel_state(cookie, index, link_at(cookie, index))
        return is_news or tunnel.ifname in self._ends or known.complete is not True or known.far_up is False

    def cable_changed(self, channel: Channel, cable: PanelDevice, tunnel: PanelDevice) -> None:
        """Tell the far panel what the pod of a cable does, and settle its carrier. `channel` is in the panel."""
        end = self._ends.get(tunnel.ifname)
        if end is not None:
            self._settle(channel, end, TunnelCable(tunnel, cable, pod_end_is_up(channel, cable)))
        elif link := link_at(self._panel.cookie, tunnel.index):
            settle_tunnel_carrier(channel, self._panel.cookie, cable, tunnel.index, link)

    def device_deleted(self, index: int) -> None:
        """Read the end whose tunnel or cable was deleted. Start again at another tunnel that takes its place."""
        for name, end in self._ends.items():
            if end.last is not None and end.last.cable.index == index:
                end.read_at = float("-inf")
            if end.tunnel == index:
                end.tunnel = 0
                self._schedule(name, end, OamSchedule())

    def _is_as_read(self, end: _End, now: float) -> bool:
        """Whether a reading would find what the last one did. Of a panel's end that is up, the panel's events report.

        Readings are repeated nevertheless, because no event reports a patch that somebody removes.
        """
        if end.last is None or not end.tunnel or now - end.read_at > READING_SECONDS:
            return False
        known = tunnel_state(self._panel.cookie, end.tunnel, end.peer.link)
        has_carrier = end.last.cable.up and known.complete is True and end.noted is not False
        return has_carrier and end.schedule.pod_up is True and end.far_pod_up(now) is end.noted

    def _follow(self, names: Iterable[str]) -> None:
        try:
            for name in names:
                self._follow_one(self._socket.channel, name)
        except RefusedError as refusal:
            raise DatapathError(
                f"cannot follow the tunnels of patch panel {self._panel.netns.path}: {refusal.strerror}"
            ) from refusal

    def _follow_one(self, channel: Channel, name: str) -> None:
        """Settle an end whose tunnel and cable are patched to each other: only there, frames are those of a panel."""
        end = self._ends[name]
        seen = read_cable(channel, name, end.last)
        if seen is None:
            end.last = None
            self._schedule(name, end, end.schedule.postponed(self._clock()))
            end.tunnel, end.noted = 0, end.far_pod_up(self._clock())
        else:
            self._settle(channel, end, seen)

    def _settle(self, channel: Channel, end: _End, seen: TunnelCable) -> None:
        end.last, end.read_at = seen, self._clock()
        tunnel, pod = seen.tunnel, PodReading(seen.pod_up)
        self._send_if_due(end, tunnel, seen.pod_up)
        end.tunnel, end.noted = tunnel.index, end.far_pod_up(self._clock())
        note_far_pod(self._panel.cookie, tunnel.index, end.peer.link, end.noted)
        up = settle_tunnel_carrier(channel, self._panel.cookie, seen.cable, tunnel.index, end.peer.link, pod)
        self._send_if_due(end, tunnel, up)  # the pod may have changed its end while the panel's was down

    def _send_if_due(self, end: _End, tunnel: PanelDevice, pod_up: bool | None) -> None:
        up, now = pod_up is not False, self._clock()
        if not end.schedule.is_due(up, now):
            return
        self._sequence += 1
        peer = end.peer
        asks = end.state.last is None or end.state.last.sandbox != peer.far
        frame = OamFrame(peer.record, peer.end, peer.own, self._start, self._sequence, up, asks)
        self._socket.send(tunnel.ifname, encode(frame))
        part = LEAST_PART + (1 - LEAST_PART) * (self._sequence * GOLDEN_RATIO % 1)
        self._schedule(tunnel.ifname, end, end.schedule.sent(up, now, part))

    def _new_end(self, name: str, peer: TunnelPeer, now: float) -> _End:
        until = float("-inf")
        if name in self._lowered:
            until = now + LOWERED_SECONDS
            heapq.heappush(self._due, (until, name))
            self._lowered.discard(name)
        end = _End(peer, OamState(peer.record, peer.end, since=now, lowered_until=until))
        self._schedule(name, end, end.schedule)
        return end

    def _schedule(self, name: str, end: _End, schedule: OamSchedule) -> None:
        end.schedule = schedule
        heapq.heappush(self._due, (schedule.due, name))
