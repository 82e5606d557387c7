"""docs/operations.md says what the code does: its tables are compared with what they are tables of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ratchet.agent.events import Reason
from ratchet.agent.metrics import Gauges, Metrics
from ratchet.agent.settings import _OPTIONS
from ratchet.errors import RatchetError

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
FROM_THE_SHIM_ALONE = {5}


def rows(heading: str, first: str) -> list[list[str]]:
    """The cells of the table whose first column is headed `first`, in the section of this heading."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = section.partition(f"| {first} |")[2].partition("\n\n")[0].splitlines()[2:]
    assert lines, heading
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_setting_is_told_with_its_variables_and_its_default() -> None:
    told = {flag.strip("`"): (tuple(quoted(names)), default) for flag, names, default, _ in rows("Settings", "option")}
    assert told == {option.flag: (option.variables, option.shown) for option in _OPTIONS}


def test_every_metric_is_told() -> None:
    told = {(quoted(name)[0], kind, tuple(quoted(labels))) for name, kind, labels, _ in rows("Metrics", "metric")}
    assert {name for name, _, _ in told} == set(exported())
    assert {(name, kind) for name, kind, _ in told} == set(exported().items())


def exported() -> dict[str, str]:
    """Our metrics by the names that are asked for, each with its type."""
    metrics = Metrics()
    metrics.gauges(Gauges)
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        if family.name.startswith("ratchet_") and not family.name.endswith("_created"):
            suffix = "_total" if family.type == "counter" else ""
            found[family.name + suffix] = family.type
    return found


def test_every_event_is_told_with_its_type() -> None:
    told = {quoted(reason)[0]: kind for reason, kind, _ in rows("Events and the readiness gate", "reason")}
    assert told == {reason.value: reason.type.value for reason in Reason}


def test_every_error_code_is_told() -> None:
    told = {int(code) for code, _, _ in rows("Errors", "code")}
    kinds: list[type[RatchetError]] = [RatchetError, *descendants(RatchetError)]
    assert told == {kind.code for kind in kinds} | FROM_THE_SHIM_ALONE


def descendants(kind: type[RatchetError]) -> Iterator[type[RatchetError]]:
    for one in kind.__subclasses__():
        if one.__module__.startswith("ratchet."):
            yield one
            yield from descendants(one)
