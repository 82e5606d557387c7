"""Durations on the command line, in the notation of kubectl (Go's time.ParseDuration)."""

from __future__ import annotations

import argparse
import re

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_UNITS = "ns|us|µs|ms|s|m|h"
_DURATION = re.compile(rf"(?:{_NUMBER}(?:{_UNITS}))+|{_NUMBER}", re.ASCII)
_PART = re.compile(rf"({_NUMBER})({_UNITS})?", re.ASCII)


def duration(text: str) -> float:
    """A duration in seconds, for argparse: `90`, `90s`, `1m30s`, `1.5h`. A number without a unit is in seconds.

    Raises ArgumentTypeError. Negative durations are rejected.
    """
    if not _DURATION.fullmatch(text):
        raise argparse.ArgumentTypeError(f'invalid duration "{text}": expected a number and a unit, such as 30s or 1m')
    return sum(float(number) * _SECONDS[unit or "s"] for number, unit in _PART.findall(text))
