"""What the agent counts and times, for Prometheus.

Everything is in a registry of its own: two agents in one process, as tests have them, do not add up.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase

from ratchet import __version__
from ratchet.core.model import State

log = logging.getLogger(__name__)

# "Exposition formats", Prometheus' documentation: the text format as every Prometheus reads it.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SERIES_MAX = 256
"""How many label values one metric may come to have; what comes after them is counted as "other"."""

_CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 150.0)
_LINK_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)
_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labelled = TypeVar("Labelled", bound=MetricWrapperBase)


@dataclass(frozen=True, slots=True)
class Gauges:
    """What there is at this moment: this node's links by state, and how many of everything else.

    `queue` are the links that wait to be tended, `calls` the runtime's calls that are being served, `vnis` the numbers
    that this node's links use, `sandboxes` those that the node has.
    """

    links: Mapping[State, int] = field(default_factory=dict)
    queue: int = 0
    calls: int = 0
    vnis: int = 0
    sandboxes: int = 0


class Metrics:
    """One agent's metrics; safe to use from every thread."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._call_seconds = _Children(
            Histogram(
                "ratchet_cni_call_seconds",
                "The runtime's calls by command and CNI error code (0: it succeeded).",
                ("command", "code"),
                buckets=_CALL_SECONDS,
                registry=registry,
            )
        )
        self._link_seconds = Histogram(
            "ratchet_link_ready_seconds",
            "From the moment at which both ends of a link have joined until it is linked.",
            buckets=_LINK_SECONDS,
            registry=registry,
        )
        self._retries = _Children(
            Counter("ratchet_retries_total", "Steps that had to be taken again.", ("reason",), registry=registry)
        )
        self._requests = _Children(
            Counter(
                "ratchet_api_requests_total",
                "Requests to the Kubernetes API by status (0: there was no answer).",
                ("verb", "code"),
                registry=registry,
            )
        )
        self._request_seconds = _Children(
            Histogram(
                "ratchet_api_request_seconds",
                "Requests to the Kubernetes API; a watch until its headers have come.",
                ("verb",),
                buckets=_REQUEST_SECONDS,
                registry=registry,
            )
        )
        self._dropped = Counter(
            "ratchet_events_dropped_total",
            "Changes that no Event reports: repeats, over the limits, or refused.",
            registry=registry,
        )
        self._now = _Now()
        registry.register(self._now)
        ProcessCollector(registry=registry)
        build = Info("ratchet_build", "The version that runs.", registry=registry)
        build.info({"version": __version__, "python": platform.python_version()})

    def call(self, command: str, code: int, seconds: float) -> None:
        """A call of the runtime was answered: with this CNI error code (0: success), after so many seconds."""
        self._call_seconds.of(command, code).observe(seconds)

    def linked(self, seconds: float) -> None:
        """A link is linked, so many seconds after both its ends had joined."""
        self._link_seconds.observe(seconds)

    def retry(self, reason: str) -> None:
        """A step has to be taken again; `reason` is one of a few words, as "conflict", and never holds a name."""
        self._retries.of(reason).inc()

    def api(self, verb: str, code: int, seconds: float) -> None:
        """A request to the API is over: its HTTP method and status (0: no answer), and how many seconds it took."""
        self._requests.of(verb, code).inc()
        self._request_seconds.of(verb).observe(seconds)

    def event_dropped(self, changes: int = 1) -> None:
        """So many changes of a pod or of its links are not reported by an Event."""
        self._dropped.inc(changes)

    def gauges(self, source: Callable[[], Gauges]) -> None:
        """Ask `source` at every scrape, in the thread that serves it; it takes the place of an earlier one."""
        self._now.source = source

    def text(self) -> bytes:
        """All metrics in the text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)


class _Children(Generic[Labelled]):
    """A metric's children by their labels: looked up in a plain dict, for half of what the library's way costs.

    Their number is bounded, whatever is counted: a series is never forgotten again.
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
    """A collector of what there is at the moment of the scrape."""

    def __init__(self) -> None:
        self.source: Callable[[], Gauges] | None = None

    def collect(self) -> Iterator[Metric]:
        if self.source is None:
            return
        try:
            now = self.source()
        except Exception:
            log.exception("cannot count what there is")  # the other metrics say more than an empty scrape
            return
        links = GaugeMetricFamily("ratchet_links", "This node's links by state.", labels=("state",))
        for state in State:
            links.add_metric((state.value,), now.links.get(state, 0))
        yield links
        yield GaugeMetricFamily("ratchet_queue_length", "Links that wait to be tended.", now.queue)
        yield GaugeMetricFamily("ratchet_calls_in_progress", "Calls of the runtime that are being served.", now.calls)
        yield GaugeMetricFamily("ratchet_vnis_in_use", "VNIs that this node's links use.", now.vnis)
        yield GaugeMetricFamily("ratchet_sandboxes", "Sandboxes that the node has.", now.sandboxes)
