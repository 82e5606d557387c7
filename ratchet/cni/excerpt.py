"""Excerpts of foreign text for errors and logs: one line, bounded, without control characters."""

from __future__ import annotations

import json


def escaped(text: str, limit: int = 300) -> str:
    """The first `limit` characters of the text at most; all but printable ASCII is JSON-escaped."""
    shown = _escape(text[:limit])
    return shown[:limit] + "..." if len(text) > limit or len(shown) > limit else shown


def escaped_end(text: str, limit: int = 300) -> str:
    """As `escaped`, for the end of the text, where a program usually writes why it failed."""
    shown = _escape(text[-limit:])
    return "..." + shown[-limit:] if len(text) > limit or len(shown) > limit else shown


def quoted(value: object, limit: int = 80) -> str:
    """A value as JSON, cut after `limit` characters. Strings keep their quotes, so the type is visible."""
    try:
        shown = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        shown = f"a {type(value).__name__}"
    return shown if len(shown) <= limit else shown[:limit] + "..."


def _escape(text: str) -> str:
    return json.dumps(text)[1:-1].replace('\\"', '"')
