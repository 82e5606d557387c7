"""Objects of the Kubernetes API as plain JSON, and back. There is one module per kind of object.

This module has the parts that the others share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ratchet.core.naming import MANAGED_BY

Json = dict[str, Any]

MANAGER = "ratchet"
MANAGED_SELECTOR = f"{MANAGED_BY}={MANAGER}"
NO_TEXTS: Mapping[str, str] = {}  # one object for all that have none
NUMBER = re.compile(r"[0-9]{1,18}")


def decode_time(text: str | None) -> datetime | None:
    """The time that Kubernetes writes in RFC 3339, in UTC; None if there is none."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def encode_moment(at: datetime) -> str:
    """A time in a record, in UTC and milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def decode_moment(text: str) -> datetime | None:
    """The time that a record has, in UTC; None if it is malformed."""
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def decode_number(data: Mapping[str, str], key: str, valid: range) -> int:
    """The number under a key.

    Raises KeyError if the key is missing, ValueError if the number is not `valid`.
    """
    text = data[key]
    number = int(text) if NUMBER.fullmatch(text) else -1
    if number not in valid:
        raise ValueError(f"{key} is {text!r:.80}, not a number from {valid[0]} to {valid[-1]}")
    return number


def merge_changes(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str | None]:
    """The merge patch (RFC 7386) that turns `old` into `new`."""
    gone: dict[str, str | None] = {key: None for key in old if key not in new}
    return gone | {key: value for key, value in new.items() if old.get(key) != value}
