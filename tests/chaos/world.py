"""The world of a chaos run: testbed, faults, and the history of what was done and seen."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ratchet.dev.cluster.cluster import Cluster
from ratchet.dev.fake_kubelet import Kubelet
from ratchet.dev.testbed import RATCHET_NAMESPACE, Testbed
from ratchet.errors import RatchetError
from ratchet.store.codec import MANAGED_SELECTOR
from tests.chaos.drawing import EMBEDDED, OWN_REAL, REAL, ApiServerKind
from tests.chaos.steps import NODES
from tests.support.capabilities import agent_capabilities
from tests.support.clock import SteppedClock, stepped_clock
from tests.support.cluster import PATIENT
from tests.support.disks import small_disk
from tests.support.event_streams import EventStreams
from tests.support.faults import Faults
from tests.support.outages import port_of
from tests.support.record_history import History

NAMESPACE = "chaos"
# Short intervals, so that agents notice within a round what no watch reports. A node is lost within a round too.
AGENT: Mapping[str, object] = {
    "vni_range": "11-2000",
    "resync": 10,
    "drain_seconds": 1,
    "heartbeat": 1,
    "node_lost_after": 5,
}
STATE_SIZE = "16m"
# For how long the run itself retries requests while the API server restarts.
RESTART_SECONDS = 60.0


@dataclass(slots=True)
class RunLog:
    """What was done and seen, with the seconds since the start. Counts steps by kind.

    `waiting_for`: what a quiet point waits for; empty while steps are carried out.
    """

    counts: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    waiting_for: str = ""
    _began: float = field(default_factory=time.monotonic)

    def note(self, what: str) -> None:
        self.lines.append(f"{self.seconds:8.2f} {what}")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


@dataclass(frozen=True, slots=True)
class Server:
    """The API server of a run. `kubeconfig`: None for the embedded one. `restart` returns once it is ready again."""

    kind: ApiServerKind = EMBEDDED
    kubeconfig: Path | None = None
    restart: Callable[[], None] = lambda: None


def real_server(kubeconfig: Path) -> Server:
    """An API server that is only used."""
    return Server(REAL, kubeconfig)


def server_of(cluster: Cluster) -> Server:
    """The API server of a cluster of `hack/cluster`, which is restarted too."""
    return Server(OWN_REAL, cluster.kubeconfig, cluster.control_plane().restart_api)


@dataclass(slots=True)
class World:
    """What the actors of a run share.

    `ended_containers`: IDs of sandboxes that have ended, `deleted_containers`: of those whose DEL succeeded. `errors`:
    failures of the run itself. `mended_at`: when the network of a node was mended (monotonic seconds; infinite: it is
    cut).
    `leases_lost`: whether VNI Leases were lost since the last quiet point. `ended`: the run is over, so that nothing is
    retried.
    """

    bed: Testbed
    server: Server
    faults: Faults
    streams: EventStreams
    history: History
    clocks: Mapping[str, SteppedClock]
    ports: Mapping[str, str]
    log: RunLog = field(default_factory=RunLog)
    ended_containers: set[str] = field(default_factory=set)
    deleted_containers: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    mended_at: dict[str, float] = field(default_factory=dict)
    leases_lost: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    def kubelet(self, node: str) -> Kubelet:
        return self.bed.kubelets[node]


@contextmanager
def built_world(server: Server) -> Iterator[World]:
    """Three nodes with agents."""
    faults, streams = Faults(), EventStreams()
    middlewares = () if server.kubeconfig else (streams.middleware, faults.middleware)
    bed = Testbed(
        namespace=NAMESPACE,
        kubeconfig=server.kubeconfig,
        middlewares=middlewares,
        capabilities=agent_capabilities(),
    )
    with bed, ExitStack() as stack:
        _require_unused(bed)
        if server.kind.restarts:
            bed.api.patience = RESTART_SECONDS
        clocks = {}
        for number, node in enumerate(NODES):
            kubelet = bed.add_node(node, f"192.168.1.{71 + number}/24", dict(PATIENT), agent=AGENT)
            bed.agents[node].stop()
            stack.enter_context(small_disk(kubelet.state_dir, STATE_SIZE))
            stack.callback(bed.agents[node].kill)  # before the disk is unmounted
            clocks[node] = stepped_clock(bed.agents[node])
        history = History(bed.api, bed.store.links.path, "", late_deletes=True)  # of records only: Leases are lost
        history.follow()
        stack.callback(history.close)
        ports = {node: port_of(bed.hosts, bed.kubelets[node]) for node in NODES}
        yield World(bed, server, faults, streams, history, clocks, ports)


def _require_unused(bed: Testbed) -> None:
    """Raise RatchetError if the API server has records or Leases of Ratchet: a run would delete them."""
    store = bed.store
    if any(bed.api.has_any(path, labelSelector=MANAGED_SELECTOR) for path in (store.links.path, store.vnis.path)):
        raise RatchetError(
            f"cannot use the API server {bed.api.host}: the namespace {RATCHET_NAMESPACE} has records or Leases",
            details=f"if they are remains of an earlier run, delete the namespace {RATCHET_NAMESPACE}",
        )
