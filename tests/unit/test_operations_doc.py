"""docs/operations.md lists the metrics that the agent exports."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from ratchet.agent.metrics import Gauges, Metrics
from tests.support.doctables import quoted, rows


def test_every_metric_is_listed() -> None:
    listed = {
        (quoted(name)[0], kind, tuple(quoted(labels)))
        for name, kind, labels, _ in rows("operations.md", "Metrics", "metric")
    }
    assert {name for name, _, _ in listed} == set(exported())
    assert {(name, kind) for name, kind, _ in listed} == set(exported().items())


def exported() -> dict[str, str]:
    """The type of each metric of the agent, by the metric's name in a query."""
    metrics = Metrics()
    metrics.gauges(Gauges)
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        if family.name.startswith("ratchet_") and not family.name.endswith("_created"):
            suffix = "_total" if family.type == "counter" else ""
            found[family.name + suffix] = family.type
    return found
