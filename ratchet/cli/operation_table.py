"""The operations of a namespace, as a table or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from ratchet.cli.link_table import NOTHING, table
from ratchet.cli.namespace_links import NamespaceLinks
from ratchet.cli.operation_state import has_ended, is_over, moment, recorded_in, until_text
from ratchet.core.escape import escape_unprintable
from ratchet.core.operations import Operation, RecordedOperation, parse_operations
from ratchet.errors import RatchetError
from ratchet.store.operation_entries import Entries

_HEADINGS = ("LINK", "OPERATION", "BY", "SINCE", "UNTIL")


class Progress(StrEnum):
    """Whether an operation acts. If records cannot be read, this is derived from the time at which it was set."""

    NOT_BEGUN = "not begun"
    ACTING = "acting"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ShownOperation:
    """An operation of a link, with its times according to the link's record."""

    link: str
    operation: Operation
    times: RecordedOperation | None
    progress: Progress

    def row(self, now: datetime) -> tuple[str, ...]:
        """The cells of the table."""
        since, until = str(self.progress), NOTHING
        if self.times is not None:
            since, until = moment(self.times.since), until_text(self.times.until, now)
        cells = (self.link, self.operation.words, self.operation.by or NOTHING, since, until)
        return tuple(map(escape_unprintable, cells))

    def as_json(self) -> dict[str, Any]:
        times = self.times
        return {
            "link": self.link,
            "operation": self.operation.words,
            "by": self.operation.by,
            "at": self.operation.at.isoformat() if self.operation.at is not None else None,
            "since": times.since.isoformat() if times is not None else None,
            "until": times.until.isoformat() if times is not None and times.until is not None else None,
            "progress": str(self.progress),
        }


def print_operations(
    entries: Entries,
    links: NamespaceLinks,
    namespace: str,
    now: datetime,
    *,
    of: Collection[str] = (),
    as_json: bool = False,
) -> int:
    """Print the operations of a namespace, those of the links that `of` names if any.

    Returns the exit status: 1 if an entry is invalid. Raises RatchetError if there are too many to be read.
    """
    operations = parse_operations(entries)
    if operations.fault:
        raise RatchetError(
            f"cannot read the operations of namespace {namespace}: {operations.fault}",
            details="agents read none of them. Remove some or all with ratchet link clear",
        )
    wanted = {key for name in of for key in links.keys(name, f"show link {name}")}
    valid = {key: one for key, one in operations.valid.items() if not of or key in wanted}
    invalid = {key: error for key, error in operations.invalid.items() if not of or key in wanted}
    shown = [_shown(key, one, links, now) for key, one in sorted(valid.items())]
    if as_json:
        print(json.dumps([one.as_json() for one in shown], indent=2))
    else:
        print(table([_HEADINGS, *(one.row(now) for one in shown)]))
    for key, error in sorted(invalid.items()):
        print(f"ratchet: cannot read the operation of link {escape_unprintable(key)}: {error}", file=sys.stderr)
    return 1 if invalid else 0


def _shown(key: str, operation: Operation, links: NamespaceLinks, now: datetime) -> ShownOperation:
    record = links.record(key)
    times = recorded_in(record, operation)
    if times is None and not links.may_read_records and operation.at is not None:
        times = operation.recorded(operation.at)
    return ShownOperation(key, operation, times, _progress(operation, times, links, now))


def _progress(operation: Operation, times: RecordedOperation | None, links: NamespaceLinks, now: datetime) -> Progress:
    if times is not None:
        return Progress.ENDED if has_ended(times, now) else Progress.ACTING
    if not links.may_read_records:
        return Progress.UNKNOWN
    return Progress.ENDED if is_over(operation, None, now) else Progress.NOT_BEGUN
