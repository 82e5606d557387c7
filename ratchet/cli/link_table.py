"""Links as a table, with the columns that fit a terminal, or with all of them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ratchet.cli.operation_state import acting, verb
from ratchet.core.endpoint_spec import EndState
from ratchet.core.model import Link, Side
from ratchet.core.state_machine import derive

Row = tuple[str, ...]

GAP = "   "
CELL_MIN = 8  # no cell is shortened to fewer characters
_NARROW = ("NAMESPACE", "PRIMARY", "PAIR", "STATE", "KIND", "VNI", "AGE")
_WIDE = ("WIRING", "PRIMARY-NODE", "PAIR-NODE")
_PROOF, _NAME = "VERIFIED", "LINK"
_SHORTENED = ("NAMESPACE", "PRIMARY", "PAIR")
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class LinkTable:
    """The format of a table of links.

    `is_wide`: with the wiring, the nodes and the names of the records. `has_proofs`: with what OAM frames prove of
    tunnels, if it is wide. `has_namespace`: with the namespace of each link. `width`: cells are shortened until a row
    has this many columns; None: they are not.
    """

    is_wide: bool = False
    has_proofs: bool = False
    has_namespace: bool = True
    width: int | None = None

    @property
    def headings(self) -> Row:
        narrow = _NARROW if self.has_namespace else _NARROW[1:]
        return (*narrow, *_WIDE, *self._if_proofs(_PROOF), _NAME) if self.is_wide else narrow

    def row(self, link: Link, now: datetime, *, is_gone: bool = False, proof: str = NOTHING) -> Row:
        """The cells of a link. `is_gone`: its record is deleted, or matches no more. `proof`: what is proven of it."""
        narrow = (
            link.namespace,
            _endpoint(link, Side.PRIMARY),
            _endpoint(link, Side.PAIR),
            "gone" if is_gone else _state(link, now),
            link.kind.value if link.kind else NOTHING,
            str(link.vni) if link.vni is not None else NOTHING,
            age(link.created, now),
        )
        nodes = _node(link, Side.PRIMARY), _node(link, Side.PAIR)
        cells = narrow if self.has_namespace else narrow[1:]
        return (*cells, link.wiring.value, *nodes, *self._if_proofs(proof), link.name) if self.is_wide else cells

    def _if_proofs(self, cell: str) -> Row:
        return (cell,) if self.has_proofs else ()

    def widths(self, rows: Sequence[Row]) -> list[int]:
        """The width of each column for the headings and these rows."""
        widths = _widths((self.headings, *rows))
        if self.width is None or self.is_wide:
            return widths
        shortened = [index for index, heading in enumerate(self.headings) if heading in _SHORTENED]
        while sum(widths) + len(GAP) * (len(widths) - 1) > self.width:
            widest = max(shortened, key=lambda index: widths[index])
            if widths[widest] <= CELL_MIN:
                break
            widths[widest] -= 1
        return widths

    def text(self, rows: Sequence[Row]) -> str:
        """The headings and these rows, each in a line."""
        return table((self.headings, *rows), self.widths(rows))


def table(rows: Sequence[Row], widths: Sequence[int] | None = None) -> str:
    """Rows of cells in columns of these widths, as kubectl prints them; None: as wide as their cells."""
    widths = widths if widths is not None else _widths(rows)
    return "\n".join(table_line(row, widths) for row in rows)


def table_line(row: Row, widths: Sequence[int]) -> str:
    """One row of a table, with the cells shortened to their columns."""
    return GAP.join(shortened(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _widths(rows: Sequence[Row]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def terminal_width() -> int | None:
    """The number of columns of the terminal; None if stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def shortened(text: str, length: int) -> str:
    """A text with its middle left out if it is longer than `length`: begin and end tell most names apart."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"


def age(created: datetime | None, now: datetime) -> str:
    """The age of an object in its largest unit, as kubectl prints it."""
    if created is None:
        return NOTHING
    seconds = max(0, int((now - created).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _state(link: Link, now: datetime) -> str:
    """The state, with a mark if an end has an error, the declared states other than up, and the operation."""
    mark = "!" if any(link.end(side).error for side in Side) else ""
    states = {link.end(side).properties.state for side in Side} - {EndState.UP}
    operation = acting(link, now)
    held = f"({verb(operation)})" if operation is not None else ""
    return "".join((derive(link), mark, *(f",{state}" for state in sorted(states)), held))


def _endpoint(link: Link, side: Side) -> str:
    end = link.end(side)
    return f"{end.sandbox.pod.name if end.sandbox else end.name}:{end.ifname}"


def _node(link: Link, side: Side) -> str:
    sandbox = link.sandbox(side)
    return sandbox.node if sandbox else NOTHING
