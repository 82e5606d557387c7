"""Results of the benchmarks: rows, their table, and JSON to compare runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Report = Callable[[str], None]

_HEADS = ("", "value", "unit", "target", "comparison")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    `target`: the condition of the figure, as text; None for no target. `met`: whether the target is met. `comparison`:
    the figures that it is compared with. If `value` is None, the figure was not measured, and `comparison` has the
    reason.
    """

    name: str
    value: float | None
    unit: str
    comparison: str = ""
    target: str | None = None
    met: bool | None = None


def at_most(name: str, value: float, unit: str, target: float, comparison: str = "") -> Row:
    """A figure whose target is a maximum."""
    return Row(name, value, unit, comparison, f"<= {target:g}", value <= target)


def at_least(name: str, value: float, unit: str, target: float, comparison: str = "") -> Row:
    """A figure whose target is a minimum."""
    return Row(name, value, unit, comparison, f">= {target:g}", value >= target)


def table(rows: Sequence[Row]) -> str:
    """The rows in columns, one per line."""
    cells = [_HEADS, *((row.name, _number(row.value), row.unit, _verdict(row), row.comparison) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(_line(line, widths) for line in cells)


def to_json(rows: Iterable[Row]) -> str:
    """A list of {name, value, unit, bar, holds, against}: the keys of earlier runs."""
    found = [
        {
            "name": row.name,
            "value": None if row.value is None else float(f"{row.value:.4g}"),
            "unit": row.unit,
            "bar": row.target,
            "holds": row.met,
            "against": row.comparison,
        }
        for row in rows
    ]
    return json.dumps(found, indent=2) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, value, *others = cells
    rest = (cell.ljust(width) for cell, width in zip(others, widths[2:], strict=True))
    return "  ".join((name.ljust(widths[0]), value.rjust(widths[1]), *rest)).rstrip()


def _number(value: float | None) -> str:
    """A number with three significant digits; a count with all digits."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, 3 - whole)}f}"


def _verdict(row: Row) -> str:
    if row.target is None:
        return ""
    return f"{row.target}: {'met' if row.met else 'missed'}"
