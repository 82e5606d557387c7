"""Foreign text, made fit for one line of an error or a log: bounded, and without control characters."""

from __future__ import annotations

import json


def escaped(text: str, limit: int = 300) -> str:
    """At most `limit` characters of the text's beginning; whatever is not printable ASCII is a JSON escape."""
    shown = _escape(text[:limit])
    return shown[:limit] + "..." if len(text) > limit or len(shown) > limit else shown


def escaped_end(text: str, limit: int = 300) -> str:
    """As escaped, of the text's end: where a program says at last why it gives up."""
    shown = _escape(text[-limit:])
    return "..." + shown[-limit:] if len(text) > limit or len(shown) > limit else shown


def quoted(value: object, limit: int = 80) -> str:
    """A value as JSON writes it, cut after `limit` characters: strings keep their quotes, so a person sees the type."""
    try:
        shown = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        shown = f"a {type(value).__name__}"
    return shown if len(shown) <= limit else shown[:limit] + "..."


def _escape(text: str) -> str:
    return json.dumps(text)[1:-1].replace('\\"', '"')
