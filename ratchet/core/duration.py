"""Durations as text, in the notation of kubectl (Go's time.ParseDuration)."""

from __future__ import annotations

import re

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_UNITS = "ns|us|µs|ms|s|m|h"
_DURATION = re.compile(rf"(?:{_NUMBER}(?:{_UNITS}))+|{_NUMBER}", re.ASCII)
_PART = re.compile(rf"({_NUMBER})({_UNITS})?", re.ASCII)
_WRITTEN = (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def parse_duration(text: str) -> float:
    """A duration in seconds: `90`, `90s`, `1m30s`, `1.5h`. A number without a unit is in seconds.

    Raises ValueError, also for a negative duration.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f'invalid duration "{text:.40}": expected a number and a unit, such as 30s or 1m')
    return sum(float(number) * _SECONDS[unit or "s"] for number, unit in _PART.findall(text))


def duration_text(seconds: float) -> str:
    """A duration in whole milliseconds as text: `30s`, `1m30s`, `1s500ms`."""
    left, parts = round(seconds * 1000), list[str]()
    for unit, size in _WRITTEN:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
