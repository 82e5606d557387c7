"""The agent's metrics for Prometheus.

Each agent has its own registry, so two agents in one process, as in tests, do not add up.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase

from ratchet import __version__
from ratchet.core.model import State
from ratchet.core.silence import TunnelCondition

log = logging.getLogger(__name__)

# The text format that every Prometheus reads (prometheus.io, "Exposition formats").
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SERIES_MAX = 256
"""The most label values of one metric. Further values are counted as "other"."""

_CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 150.0)
_LINK_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)
_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labelled = TypeVar("Labelled", bound=MetricWrapperBase)


@dataclass(frozen=True, slots=True)
class Gauges:
    """The current numbers of one node: its links by state, and the others below.

    `queue`: keys that wait for a worker. `calls`: running calls. `vnis`: VNIs of the node's links. `sandboxes`: journal
    entries. `journal_deferred`, `journal_unreadable`: changes that the disk rejected, and files that are torn or newer.
    `tunnels`: tunnels of the patch panel. `tunnel_unproven`: seconds since the oldest of their last proofs.
    """

    links: Mapping[State, int] = field(default_factory=dict)
    queue: int = 0
    calls: int = 0
    vnis: int = 0
    sandboxes: int = 0
    journal_deferred: int = 0
    journal_unreadable: int = 0
    tunnels: Mapping[TunnelCondition, int] = field(default_factory=dict)
    tunnel_unproven: float = 0.0


class Metrics:
    """One agent's metrics; safe to use from every thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._call_seconds = self._histograms(
            "ratchet_cni_call_seconds",
            "Duration of CNI calls by command and CNI error code (0: success).",
            ("command", "code"),
            _CALL_SECONDS,
        )
        self._link_seconds = Histogram(
            "ratchet_link_ready_seconds",
            "Time from the join of the second end of a link until it is linked.",
            buckets=_LINK_SECONDS,
            registry=self._registry,
        )
        self._retries = self._counters(
            "ratchet_retries_total", "Retried reconciliations by the name of the error.", ("reason",)
        )
        self._requests = self._counters(
            "ratchet_api_requests_total",
            "Requests to the Kubernetes API by method and status (0: no answer).",
            ("verb", "code"),
        )
        self._request_seconds = self._histograms(
            "ratchet_api_request_seconds",
            "Duration of requests to the Kubernetes API; of a watch until its headers arrive.",
            ("verb",),
            _REQUEST_SECONDS,
        )
        self._dropped = self._counter(
            "ratchet_events_dropped_total", "Changes that no Event reports: repeats, over the limits, or rejected."
        )
        self._add_tunnel_metrics()
        self._now = self._register_current()

    def _add_tunnel_metrics(self) -> None:
        self._guard_dropped = self._counters(
            "ratchet_guard_dropped_total",
            "Datagrams to tunnels of this node that the guard has dropped (source: not from the peer; fragment: too "
            "short for a VNI).",
            ("reason",),
        )
        self._guarded = Gauge(
            "ratchet_guard_active", "Whether the tunnel port of this node is guarded.", registry=self._registry
        )
        self._tunnel_resets = self._counter(
            "ratchet_tunnel_resets_total",
            "Tunnel ends that were changed from outside, such as by their pod, and reset.",
        )

    def _counter(self, name: str, help_text: str) -> Counter:
        return Counter(name, help_text, registry=self._registry)

    def _counters(self, name: str, help_text: str, labels: Sequence[str]) -> _Children[Counter]:
        return _Children(Counter(name, help_text, labels, registry=self._registry))

    def _histograms(
        self, name: str, help_text: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> _Children[Histogram]:
        return _Children(Histogram(name, help_text, labels, buckets=buckets, registry=self._registry))

    def _register_current(self) -> _Now:
        """Register what is collected at each scrape: the gauges, the process and the version."""
        now = _Now()
        self._registry.register(now)
        ProcessCollector(registry=self._registry)
        build = Info("ratchet_build", "The version of the agent and of Python.", registry=self._registry)
        build.info({"version": __version__, "python": platform.python_version()})
        return now

    def call(self, command: str, code: int, seconds: float) -> None:
        """Count an answered call: its CNI error code (0: success) and its duration in seconds."""
        self._call_seconds.of(command, code).observe(seconds)

    def linked(self, seconds: float) -> None:
        """Count a link that is linked, `seconds` after its second end has joined."""
        self._link_seconds.observe(seconds)

    def retry(self, reason: str) -> None:
        """Count a retry. `reason` is one of a few words, such as "conflict", and never the name of an object."""
        self._retries.of(reason).inc()

    def api(self, verb: str, code: int, seconds: float) -> None:
        """Count a request to the API: its HTTP method, its status (0: no answer) and its duration in seconds."""
        self._requests.of(verb, code).inc()
        self._request_seconds.of(verb).observe(seconds)

    def event_dropped(self, changes: int = 1) -> None:
        """Count changes of pods or links that no Event reports."""
        self._dropped.inc(changes)

    def guard_dropped(self, reason: str, packets: int) -> None:
        """Count datagrams that the guard of the tunnel port has dropped. `reason`: source or fragment."""
        self._guard_dropped.of(reason).inc(packets)

    def guarded(self, active: bool) -> None:
        """Note whether the tunnel port is guarded."""
        self._guarded.set(active)

    def tunnel_reset(self) -> None:
        """Count a tunnel's end that was changed from outside and has been reset."""
        self._tunnel_resets.inc()

    def gauges(self, source: Callable[[], Gauges]) -> None:
        """Call `source` at every scrape, in the thread that serves the scrape. It replaces an earlier source."""
        self._now.source = source

    def text(self) -> bytes:
        """All metrics in the text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)


class _Children(Generic[Labelled]):
    """A metric's children by their labels, in a dict: a lookup costs half of the library's.

    The number of children is bounded, because the library never forgets one.
    """

    def __init__(self, metric: Labelled) -> None:
        self._metric = metric
        self._made: dict[tuple[object, ...], Labelled] = {}

    def of(self, *labels: object) -> Labelled:
        return self._made.get(labels) or self._make(labels)

    def _make(self, labels: tuple[object, ...]) -> Labelled:
        if len(self._made) >= SERIES_MAX:
            return self._metric.labels(*("other" for _ in labels))
        return self._made.setdefault(labels, self._metric.labels(*labels))


class _Now:
    """A collector of the gauges at the time of the scrape."""

    def __init__(self) -> None:
        self.source: Callable[[], Gauges] | None = None

    def collect(self) -> Iterator[Metric]:
        if self.source is None:
            return
        try:
            now = self.source()
        except Exception:
            log.exception("cannot collect the gauges")  # the scrape still has the other metrics
            return
        links = GaugeMetricFamily("ratchet_links", "Links of this node by state.", labels=("state",))
        for state in State:
            links.add_metric((state.value,), now.links.get(state, 0))
        yield links
        tunnels = GaugeMetricFamily(
            "ratchet_panel_tunnels", "Tunnels of the patch panel by what OAM frames say of them.", labels=("state",)
        )
        for condition in TunnelCondition:
            tunnels.add_metric((condition.value,), now.tunnels.get(condition, 0))
        yield tunnels
        yield GaugeMetricFamily(
            "ratchet_panel_tunnel_unproven_seconds",
            "Time since the last OAM frame of the tunnel of the patch panel that has had none for longest.",
            now.tunnel_unproven,
        )
        yield GaugeMetricFamily("ratchet_queue_length", "Links and pods that wait for reconciliation.", now.queue)
        yield GaugeMetricFamily(
            "ratchet_calls_in_progress", "Running CNI calls, including those that wait for a peer.", now.calls
        )
        yield GaugeMetricFamily("ratchet_vnis_in_use", "VNIs that links of this node use.", now.vnis)
        yield GaugeMetricFamily("ratchet_sandboxes", "Sandboxes on this node.", now.sandboxes)
        yield GaugeMetricFamily(
            "ratchet_journal_deferred", "Journal changes in memory that the disk has rejected.", now.journal_deferred
        )
        yield GaugeMetricFamily(
            "ratchet_journal_unreadable", "Journal files that are torn or of a newer Ratchet.", now.journal_unreadable
        )
