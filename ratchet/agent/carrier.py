"""The agent's watch of the patch panel: pods that shut or open their ends, or are gone, decide the others' carrier."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from ratchet.datapath.panel.events import CarrierWatch
from ratchet.datapath.panel.namespace import hold_panel
from ratchet.errors import RatchetError

log = logging.getLogger(__name__)

# Seconds: between two looks for a panel that is missing or fails, and for one event.
PAUSE_SECONDS, EVENT_SECONDS = 0.5, 1.0


@dataclass(frozen=True, slots=True)
class CarrierFollower:
    """Follows the events of the panel at a path in a thread of its own, once the panel exists."""

    path: str

    def start(self, stopping: threading.Event) -> None:
        """Start the thread. It ends once `stopping` is set."""
        threading.Thread(target=self._run, args=(stopping,), name="carrier", daemon=True).start()

    def _run(self, stopping: threading.Event) -> None:
        fault = ""
        while not stopping.wait(PAUSE_SECONDS):
            try:
                if (panel := hold_panel(self.path)) is not None:
                    with CarrierWatch(panel) as watch:
                        self._follow(watch, stopping, recovered=bool(fault))
            except (RatchetError, OSError) as error:
                if str(error) != fault:
                    fault = str(error)
                    log.error('carrier does not follow the pods of this node cause="%s"', fault)
            except Exception:
                log.exception("carrier watch failed")

    def _follow(self, watch: CarrierWatch, stopping: threading.Event, *, recovered: bool) -> None:
        watch.look()
        if recovered:
            log.info("carrier follows the pods of this node again")
        while not stopping.is_set():
            watch.follow(EVENT_SECONDS)
