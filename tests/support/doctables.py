"""Tables in docs/, for tests that compare them with the code."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def rows(page: str, heading: str, first: str) -> list[list[str]]:
    """The cells of a table of docs/`page`: in the section `heading`, with the first column `first`."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = section.partition(f"| {first} |")[2].partition("\n\n")[0].splitlines()[2:]
    assert lines, (page, heading)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def quoted(cell: str) -> list[str]:
    """The code spans of a cell."""
    return re.findall(r"`([^`]+)`", cell)
