"""What a bench finds: rows, a table of them for people, JSON for whoever compares one run with another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

Say = Callable[[str], None]

_HEADS = ("", "value", "unit", "bar", "beside")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    `bar` is what it is to hold, in words, and `holds` whether it does; None where no bar is set. `against` is what
    was run beside it, with that one's figure. `value` is None where it could not be measured, and `against` says why.
    """

    name: str
    value: float | None
    unit: str
    against: str = ""
    bar: str | None = None
    holds: bool | None = None


def at_most(name: str, value: float, unit: str, bar: float, against: str = "") -> Row:
    """A figure that is to be no more than its bar."""
    return Row(name, value, unit, against, f"<= {bar:g}", value <= bar)


def at_least(name: str, value: float, unit: str, bar: float, against: str = "") -> Row:
    """A figure that is to be no less than its bar."""
    return Row(name, value, unit, against, f">= {bar:g}", value >= bar)


def table(rows: Sequence[Row]) -> str:
    """The rows in columns, one a line."""
    cells = [_HEADS, *((row.name, _number(row.value), row.unit, _verdict(row), row.against) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(_line(line, widths) for line in cells)


def to_json(rows: Iterable[Row]) -> str:
    """A list of {name, value, unit, bar, holds, against}."""
    keys = ("name", "value", "unit", "bar", "holds", "against")
    found = [asdict(row) | {"value": None if row.value is None else float(f"{row.value:.4g}")} for row in rows]
    return json.dumps([{key: row[key] for key in keys} for row in found], indent=2) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, value, *others = cells
    rest = (cell.ljust(width) for cell, width in zip(others, widths[2:], strict=True))
    return "  ".join((name.ljust(widths[0]), value.rjust(widths[1]), *rest)).rstrip()


def _number(value: float | None) -> str:
    """Three figures, so that none says more than it knows; a count as it is."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, 3 - whole)}f}"


def _verdict(row: Row) -> str:
    if row.bar is None:
        return ""
    return f"{row.bar}: {'holds' if row.holds else 'does not hold'}"
