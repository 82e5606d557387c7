"""Operations on links: a link is held up or down, cut or flapped, for a time.

A namespace has one ConfigMap of operations, OPERATIONS_NAME. Each key is the name of a link's record, each value a JSON
object:

| field | value |
|---|---|
| `operation` | `up`, `down`, `cut` or `flap` |
| `for` | the duration, as in `30s`; without it, the operation lasts until it is removed |
| `from` | of `cut`: the endpoint whose packets are dropped, as in `r1:eth1`; without it, those of both |
| `times`, `down`, `up` | of `flap`: how often the link goes down, and for how long it is down and up |
| `by`, `at` | who has set it, and when (RFC 3339); for people |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any, TypeVar

from ratchet.core.duration import duration_text, parse_duration
from ratchet.core.escape import excerpt

Value = TypeVar("Value")

OPERATIONS_NAME = "ratchet-operations"
OPERATIONS_VALUE = "operations"  # of the label that topologies have too

SIZE_MOST = 128 * 1024  # characters of all operations of a namespace
ENTRIES_MOST = 1024
BY_MOST = 128  # characters
TIMES_MOST = 1_000_000
# The shortest and the longest duration, in seconds. Each turn of a flap costs both nodes a pass over the link.
LEAST_SECONDS, MOST_SECONDS = 0.05, 30 * 86_400.0
FLAP_TIMES, FLAP_SECONDS = 5, 1.0  # without `times`, `down` and `up`
_FLAP_FIELDS = ("times", "down", "up")
_FIELDS = ("operation", "for", "from", *_FLAP_FIELDS, "by", "at")


class Verb(StrEnum):
    """What an operation does to a link. CUT and DOWN are as in `EndState`, FLAP is DOWN and as declared, in turns."""

    UP = "up"
    DOWN = "down"
    CUT = "cut"
    FLAP = "flap"


@dataclass(frozen=True, slots=True)
class RecordedOperation:
    """An operation on a link as the link's record has it, for people. `until` is None if it ends when it is removed.

    `id` is that of the `Operation`, `words` say what it does. Both times are in UTC.
    """

    id: str
    words: str
    by: str
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation on one link. `id` tells it from a later one of the same link.

    `seconds`: how long it lasts at most; None: until it is removed. `sender`: the endpoint whose packets are dropped,
    as pod name and interface; None: both. `times`: how often a link goes down, for `down_seconds` each time, with
    `up_seconds` in between. `by` and `at` are for people.
    """

    id: str
    verb: Verb
    seconds: float | None = None
    sender: tuple[str, str] | None = None
    times: int = FLAP_TIMES
    down_seconds: float = FLAP_SECONDS
    up_seconds: float = FLAP_SECONDS
    by: str = ""
    at: datetime | None = None

    @property
    def total_seconds(self) -> float | None:
        """How long it lasts, in seconds; None: until it is removed."""
        if self.verb is not Verb.FLAP:
            return self.seconds
        flaps = self.times * (self.down_seconds + self.up_seconds) - self.up_seconds
        return min(flaps, MOST_SECONDS if self.seconds is None else self.seconds)

    @property
    def words(self) -> str:
        """What it does, for people."""
        if self.verb is Verb.FLAP:
            down, up = duration_text(self.down_seconds), duration_text(self.up_seconds)
            return f"flap {self.times} times, {down} down and {up} up"
        return f"{self.verb} from {self.sender[0]}:{self.sender[1]}" if self.sender else str(self.verb)

    def until(self, since: datetime) -> datetime | None:
        """When it ends if it begins at `since`; None: when it is removed."""
        return None if self.total_seconds is None else since + timedelta(seconds=self.total_seconds)

    def recorded(self, since: datetime) -> RecordedOperation:
        """The operation for the record of a link, on which it acts since a time in UTC."""
        return RecordedOperation(self.id, self.words, self.by, since, self.until(since))

    def as_text(self) -> str:
        """The operation as a value of the ConfigMap. Its `id` is not in it (`parse_operation`)."""
        fields: dict[str, Any] = {"operation": str(self.verb)}
        if self.seconds is not None:
            fields["for"] = duration_text(self.seconds)
        if self.sender is not None:
            fields["from"] = ":".join(self.sender)
        if self.verb is Verb.FLAP:
            down, up = duration_text(self.down_seconds), duration_text(self.up_seconds)
            fields |= {"times": self.times, "down": down, "up": up}
        if self.by:
            fields["by"] = self.by
        if self.at is not None:
            fields["at"] = self.at.isoformat()
        return json.dumps(fields)


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations of a namespace, by their keys, and the errors of invalid ones.

    `fault`: why none of them can be read; empty if they can.
    """

    valid: Mapping[str, Operation]
    invalid: Mapping[str, str]
    fault: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is neither an operation nor an error."""
        return not (self.valid or self.invalid or self.fault)


def parse_operations(data: Mapping[str, str]) -> Operations:
    """The operations in the data of a namespace's ConfigMap. If there are too many, none of them is read."""
    if fault := over_limit(data):
        return Operations({}, {}, fault)
    valid, invalid = dict[str, Operation](), dict[str, str]()
    for key, text in data.items():
        try:
            valid[key] = parse_operation(text)
        except ValueError as cause:
            invalid[key] = str(cause)
    return Operations(valid, invalid)


def over_limit(data: Mapping[str, str]) -> str:
    """Which limit the operations of a namespace exceed; empty if none."""
    if len(data) > ENTRIES_MOST:
        return f"it has {len(data)} operations, at most {ENTRIES_MOST}"
    if sum(len(key) + len(text) for key, text in data.items()) > SIZE_MOST:
        return f"it is longer than {SIZE_MOST} characters"
    return ""


def parse_operation(text: str) -> Operation:
    """An operation from its text. Its ID is a digest of the text. Raises ValueError that names the field."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise ValueError(f"expected JSON such as {_EXAMPLE}") from cause
    if not isinstance(fields, dict):
        raise ValueError(f"expected a JSON object such as {_EXAMPLE}")  # noqa: TRY004  # of the text
    if unknown := next((name for name in fields if name not in _FIELDS), None):
        raise ValueError(f'unknown field "{excerpt(unknown)}": expected {", ".join(_FIELDS)}')
    verb = _read(fields, "operation", _verb)
    if verb is None:
        raise ValueError("operation: it is missing")
    for name in _of_other_verbs(verb):
        if name in fields:
            raise ValueError(f'{name}: an operation "{verb}" has no such field')
    return Operation(
        sha256(text.encode(errors="replace")).hexdigest()[:12],
        verb,
        seconds=_read(fields, "for", read_seconds),
        sender=_read(fields, "from", _endpoint),
        times=_read(fields, "times", read_times) or FLAP_TIMES,
        down_seconds=_read(fields, "down", read_seconds) or FLAP_SECONDS,
        up_seconds=_read(fields, "up", read_seconds) or FLAP_SECONDS,
        by=_read(fields, "by", _by) or "",
        at=_read(fields, "at", _at),
    )


_EXAMPLE = Operation("", Verb.DOWN, 30.0).as_text()


def _of_other_verbs(verb: Verb) -> Iterator[str]:
    """The fields that an operation of this kind does not have."""
    if verb is not Verb.CUT:
        yield "from"
    if verb is not Verb.FLAP:
        yield from _FLAP_FIELDS


def _read(fields: Mapping[str, Any], name: str, read: Callable[[Any], Value]) -> Value | None:
    """The value of a field; None if it is missing. Raises ValueError that names the field."""
    if fields.get(name) is None:
        return None
    try:
        return read(fields[name])
    except ValueError as cause:
        raise ValueError(f"{name}: {cause}") from cause


def _verb(value: Any) -> Verb:
    if value not in list(Verb):
        raise ValueError(f'invalid operation "{excerpt(str(value))}": expected {", ".join(Verb)}')
    return Verb(value)


def read_seconds(value: Any) -> float:
    """A duration of an operation, in seconds. Raises ValueError."""
    seconds = parse_duration(_text(value))
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        least, most = duration_text(LEAST_SECONDS), duration_text(MOST_SECONDS)
        raise ValueError(f'invalid duration "{excerpt(value)}": expected {least} to {most}')
    return seconds


def read_times(value: Any) -> int:
    """How often a link flaps. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= TIMES_MOST:
        raise ValueError(f'invalid number "{excerpt(str(value))}": expected 1 to {TIMES_MOST}')
    return value


def _endpoint(value: Any) -> tuple[str, str]:
    name, colon, ifname = _text(value).partition(":")
    if not (name and colon and ifname) or not value.isprintable():
        raise ValueError(f'invalid endpoint "{excerpt(value)}": expected pod:interface')
    return name, ifname


def _by(value: Any) -> str:
    return _text(value)[:BY_MOST]


def _at(value: Any) -> datetime:
    with suppress(ValueError, OverflowError):
        at = datetime.fromisoformat(_text(value))
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    raise ValueError(f'invalid time "{excerpt(str(value))}": expected a time such as 2026-01-31T12:00:00+00:00')


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f'invalid value "{excerpt(str(value))}": expected text')  # noqa: TRY004  # of the field
    return value
