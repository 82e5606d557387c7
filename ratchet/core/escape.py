"""Escapes for untrusted text: the result is printable, of one line, and of limited length."""

from __future__ import annotations

import json

_CUT = "..."


def escape_unprintable(text: str) -> str:
    """Replace each character that is not printable, line breaks too, by its Python escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def excerpt(text: str, limit: int = 80) -> str:
    """The start of a text in at most `limit` characters of printable ASCII. Others become Python escapes."""
    escaped = _to_ascii(text[: limit + 1])
    return escaped if len(escaped) <= limit else escaped[: limit - len(_CUT)] + _CUT


def excerpt_end(text: str, limit: int = 300) -> str:
    """As `excerpt`, for the end of the text, where a program usually writes why it failed."""
    escaped = _to_ascii(text[-limit - 1 :])
    return escaped if len(escaped) <= limit else _CUT + escaped[len(_CUT) - limit :]


def quoted(value: object, limit: int = 80) -> str:
    """A value as JSON, cut after `limit` characters. Strings keep their quotes, so the type is visible."""
    try:
        shown = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        shown = f"a {type(value).__name__}"
    return shown if len(shown) <= limit else shown[:limit] + _CUT


def _to_ascii(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")
