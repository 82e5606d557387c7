"""Durations on the command line."""

from __future__ import annotations

import argparse

from ratchet.core.duration import parse_duration


def duration(text: str) -> float:
    """A duration in seconds (`parse_duration`), for argparse. Raises ArgumentTypeError."""
    try:
        return parse_duration(text)
    except ValueError as cause:
        raise argparse.ArgumentTypeError(str(cause)) from cause
