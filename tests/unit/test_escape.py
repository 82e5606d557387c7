"""Escaping of untrusted text for errors, logs, records and output: printable and of limited length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core.escape import escape_unprintable, excerpt, excerpt_end, quoted

anything = st.text(st.characters())


def test_printable_text_is_unchanged() -> None:
    assert escape_unprintable('pod "é" \\ ok') == 'pod "é" \\ ok'
    assert excerpt('pod "a"') == excerpt_end('pod "a"') == 'pod "a"'


@pytest.mark.parametrize(
    ("text", "escaped"), [("a\nb", "a\\nb"), ("\x1b[2J", "\\x1b[2J"), ("\u202e", "\\u202e"), ("\udc80", "\\udc80")]
)
def test_unprintable_characters_are_escaped(text: str, escaped: str) -> None:
    assert escape_unprintable(text) == excerpt(text) == excerpt_end(text) == escaped


def test_an_excerpt_is_ascii_and_escapes_backslashes() -> None:
    assert excerpt("é\\n") == "\\xe9\\\\n"


def test_an_excerpt_of_a_long_text_is_truncated() -> None:
    assert excerpt("a" * 80) == "a" * 80
    assert excerpt("a" * 81) == "a" * 77 + "..."
    assert excerpt_end("a" * 300) == "a" * 300
    assert excerpt_end("b" + "a" * 300) == "..." + "a" * 297
    assert excerpt("\x00" * 80) == ("\\x00" * 20)[:77] + "..."


@given(anything, st.integers(4, 100))
def test_the_result_is_printable_and_bounded_for_any_text(text: str, limit: int) -> None:
    assert escape_unprintable(text).isprintable()
    for shown in (excerpt(text, limit), excerpt_end(text, limit)):
        assert shown.isascii()
        assert shown.isprintable()
        assert len(shown) <= limit


def test_a_quoted_value_shows_its_type() -> None:
    assert [quoted(one) for one in ("1", 1, None, {"a": "é"}, {1, 2})] == [
        '"1"',
        "1",
        "null",
        '{"a": "\\u00e9"}',
        "a set",
    ]
    assert quoted("x" * 100) == '"' + "x" * 79 + "..."
