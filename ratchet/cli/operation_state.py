"""Whether an operation on a link acts, and its text for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import ceil

from ratchet.core.duration import duration_text
from ratchet.core.model import Link
from ratchet.core.operations import Operation, RecordedOperation

# An operation that may still act is not removed. The clocks of nodes differ little; that of who set it may be wrong.
NODE_SKEW, SETTER_SKEW = timedelta(minutes=1), timedelta(days=1)


def acting(link: Link, now: datetime) -> RecordedOperation | None:
    """The operation that acts on a link, according to its record; None if there is none."""
    recorded = link.operation
    return recorded if recorded is not None and not has_ended(recorded, now) else None


def has_ended(recorded: RecordedOperation, now: datetime) -> bool:
    """Whether the time of an operation is over."""
    return recorded.until is not None and now >= recorded.until


def may_be_over(operation: Operation, now: datetime) -> bool:
    """Whether the time of an operation may be over, by the clock of who set it."""
    until = _end_if_begun_when_set(operation)
    return operation.total_seconds is not None and (until is None or now >= until)


def is_over(operation: Operation, record: Link | None, now: datetime) -> bool:
    """Whether an operation cannot act any more, so that its entry can be removed.

    `record`: that of its link; None if it is missing or unknown.
    """
    if operation.total_seconds is None:
        return False
    recorded = recorded_in(record, operation)
    if recorded is not None:
        return has_ended(recorded, now - NODE_SKEW)
    until = _end_if_begun_when_set(operation)
    return until is not None and now - SETTER_SKEW >= until


def recorded_in(record: Link | None, operation: Operation) -> RecordedOperation | None:
    """An operation as the record of its link has it; None if the record has none, or another one."""
    recorded = record.operation if record is not None else None
    return recorded if recorded is not None and recorded.id == operation.id else None


def _end_if_begun_when_set(operation: Operation) -> datetime | None:
    return operation.until(operation.at) if operation.at is not None else None


def verb(recorded: RecordedOperation) -> str:
    """The kind of an operation, in one word."""
    return recorded.words.partition(" ")[0]


def operation_text(recorded: RecordedOperation, now: datetime) -> str:
    """An operation with who set it, since when and until when."""
    parts = [recorded.words, *([f"by {recorded.by}"] if recorded.by else []), f"since {moment(recorded.since)}"]
    return ", ".join((*parts, f"until {until_text(recorded.until, now)}"))


def until_text(until: datetime | None, now: datetime) -> str:
    """The end of an operation, and the time that is left."""
    if until is None:
        return "cleared"
    left = ceil((until - now).total_seconds())
    return f"{moment(until)} ({duration_text(left)} left)" if left > 0 else f"{moment(until)} (ended)"


def moment(at: datetime) -> str:
    """A time for people."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
