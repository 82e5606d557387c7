"""The thread that checks continuously what must hold at every moment, and reports the progress."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping

from ratchet.core.state_machine import derive
from tests.chaos.invariants import LOST_SECONDS, always, calm_links, unanswered
from tests.chaos.nodes import NodeActor
from tests.chaos.observing import answers, observe
from tests.chaos.pods import PodActor
from tests.chaos.steps import Kind
from tests.chaos.tenants import Tenants
from tests.chaos.world import World

INTERVAL = 2.0
REPORT_SECONDS = 5.0


class Monitor:
    """Takes snapshots until it is closed. `violations`: what did not hold. `pings`: how many were sent."""

    def __init__(
        self,
        world: World,
        pods: Mapping[str, PodActor],
        nodes: Mapping[str, NodeActor],
        tenants: Tenants,
        report: Callable[[str], None],
    ) -> None:
        self.violations: list[str] = []
        self.pings = 0
        self._world = world
        self._pods, self._nodes = pods, nodes
        self._tenants = tenants
        self._report = report
        self._unanswered: dict[tuple[str, ...], float] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="chaos monitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        reported = 0.0
        while not self._closed.wait(INTERVAL):
            try:
                states = self._look()
            except Exception:  # noqa: BLE001  # reported by the run, which ends
                self._world.errors.append(f"cannot observe the run: {traceback.format_exc()}")
                return
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                self._report(self._progress(states))

    def _look(self) -> Counter[str]:
        """Check one snapshot, and ping. Returns how many links have each state."""
        snapshot = observe(self._world, self._pods.values(), self._nodes.values())
        self.violations += always(snapshot)
        answered = answers(self._pods, self._tenants.specs, [link for link, _ in calm_links(snapshot)])
        self.pings += len(answered)
        now = time.monotonic()
        self._unanswered = unanswered(self._unanswered, answered, now)
        lost = [link for link, since in self._unanswered.items() if now - since >= LOST_SECONDS]
        self.violations += [f"no ping was answered for {LOST_SECONDS:.0f} s through {link}" for link, *_ in lost]
        self._world.faults.sent.clear()  # a long run has millions
        return Counter(str(derive(link)) for link in snapshot.records.values())

    def _progress(self, states: Counter[str]) -> str:
        log = self._world.log
        links = ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "no links"
        running = sum(pod.sandbox is not None for pod in self._pods.values())
        steps = sum(number for what, number in log.counts.items() if what in set(Kind))
        waiting = f"; waiting for {log.waiting_for}" if log.waiting_for else ""
        return f"{log.seconds:6.0f} s: {steps} steps, {running} pods run, {links}, {self.pings} pings{waiting}"
