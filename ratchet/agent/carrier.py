"""The agent's watch of the patch panel: pods that shut or open their ends, or are gone, decide the others' carrier.

On one node the panel's events tell, across nodes OAM frames (`core.oam`).
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

from ratchet.core.oam import TunnelPeer
from ratchet.core.observation import Proof
from ratchet.core.silence import TunnelProof
from ratchet.datapath.panel.events import CarrierWatch
from ratchet.datapath.panel.far_pods import FarPods
from ratchet.datapath.panel.lowered import forget_lowered, note_lowered
from ratchet.datapath.panel.namespace import Panel, hold_panel
from ratchet.datapath.panel.oam import OamSocket
from ratchet.errors import DatapathError, RatchetError

log = logging.getLogger(__name__)

# Seconds: between two looks for a panel that is missing or fails, for one event, and between two looks for new tunnels.
PAUSE_SECONDS, EVENT_SECONDS, PEERS_SECONDS = 0.5, 1.0, 1.0
# Seconds from one look for events and frames to the next: passes cause many, and each wake-up costs more than a few.
BATCH_SECONDS = 0.01


class Peers(Protocol):
    """The ends of this node at tunnels."""

    def read(self) -> Mapping[str, TunnelPeer]:
        """The ends by the names of their tunnels."""
        ...


class CarrierFollower:
    """Follows events and OAM frames of the panel at a path in a thread of its own, once the panel exists.

    `peers` finds the ends at tunnels (`agent.tunnel_peers`).
    """

    def __init__(self, path: str, peers: Peers) -> None:
        self._path = path
        self._peers = peers
        self._peers_at = float("-inf")
        self._fault = ""
        self._oam_fault = ""
        self._far_pods: FarPods | None = None
        self._lowered = set[str]()

    @property
    def fault(self) -> str:
        """Why carrier does not follow the pods of other nodes; empty if it does."""
        return self._oam_fault

    def proof(self, tunnel: str) -> Proof | None:
        """What is proven of a tunnel of the panel, by its name; None if it is not followed. Thread-safe."""
        far_pods = self._far_pods
        return far_pods.proof(tunnel) if far_pods is not None else None

    def proofs(self) -> list[TunnelProof]:
        """What is proven of the tunnels of this node's panel. Thread-safe."""
        far_pods = self._far_pods
        return far_pods.proofs() if far_pods is not None else []

    @property
    def sends_oam(self) -> bool:
        """Whether this agent sends OAM frames."""
        return self._far_pods is not None

    def start(self, stopping: threading.Event) -> None:
        """Start the thread. It ends once `stopping` is set. Call it before the first pass."""
        try:
            self._note_lowered()
        except (RatchetError, OSError) as error:
            log.warning('cannot tell which ends have no carrier cause="%s"', error)
        threading.Thread(target=self._run, args=(stopping,), name="carrier", daemon=True).start()

    def _note_lowered(self) -> None:
        """Leave ends without carrier that have none, until their peers are asked. Not if no frames can be sent."""
        if (panel := hold_panel(self._path)) is not None:
            with OamSocket(panel):
                self._lowered = note_lowered(panel)

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(PAUSE_SECONDS):
            try:
                if (panel := hold_panel(self._path)) is not None:
                    self._follow(panel, stopping)
            except (RatchetError, OSError) as error:
                if str(error) != self._fault:
                    self._fault = str(error)
                    log.error('carrier does not follow the pods of this node cause="%s"', self._fault)
            except Exception:
                log.exception("carrier watch failed")

    def _follow(self, panel: Panel, stopping: threading.Event) -> None:
        with ExitStack() as stack:
            self._far_pods = far_pods = self._open_oam(panel, stack)
            watch = stack.enter_context(CarrierWatch(panel, far_pods))
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(watch, selectors.EVENT_READ)
            if far_pods is not None:
                selector.register(far_pods, selectors.EVENT_READ)
            self._peers_at = float("-inf")
            self._follow_tunnels(far_pods)
            watch.look()
            if self._fault:
                self._fault = ""
                log.info("carrier follows the pods of this node again")
            while not stopping.is_set():
                most = EVENT_SECONDS if far_pods is None else far_pods.wait_seconds(EVENT_SECONDS)
                ready, began = selector.select(most), time.monotonic()
                if any(key.fileobj is watch for key, _ in ready):
                    watch.follow(EVENT_SECONDS)
                self._follow_tunnels(far_pods)
                time.sleep(max(0.0, began + BATCH_SECONDS - time.monotonic()))

    def _follow_tunnels(self, far_pods: FarPods | None) -> None:
        if far_pods is None:
            return
        if time.monotonic() - self._peers_at >= PEERS_SECONDS:
            far_pods.update(self._peers.read())
            self._peers_at = time.monotonic()
        far_pods.follow_frames()
        far_pods.follow_due()

    def _open_oam(self, panel: Panel, stack: ExitStack) -> FarPods | None:
        """Open the socket of OAM frames; None if that is not possible, which is logged once."""
        try:
            far_pods = FarPods(panel, stack.enter_context(OamSocket(panel)), lowered=self._lowered)
        except DatapathError as error:
            fault = f"{error} ({error.details})" if error.details else str(error)
            if fault != self._oam_fault:
                log.error('carrier does not follow the pods of other nodes cause="%s"', fault)
            self._oam_fault = fault
            forget_lowered(panel, self._lowered)
            self._lowered.clear()
            return None
        self._oam_fault = ""
        return far_pods
