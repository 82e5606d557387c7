"""The memory that lists of links take in an agent: an upper bound, from their text alone."""

from __future__ import annotations

import sys

# Bytes. A parsed address takes some 640 bytes, a link without addresses 1500, and it has two items or more.
_PER_ITEM = 768
_PER_FIELD = 160
# A dash and a white space or line break of YAML begin an item.
_ITEMS = (",", "- ", "-\n", "-\t", "-\r")
_OTHER_ITEMS = ("-\x85", "-\u2028", "-\u2029")

UNLIMITED = 1 << 62
MIB = 1 << 20


def memory_of(text: str) -> int:
    """The most bytes that a YAML or JSON list of links takes, with its text.

    Each item of a list follows a comma or a dash, each field has a colon.
    """
    items = sum(map(text.count, _ITEMS if text.isascii() else _ITEMS + _OTHER_ITEMS))
    return sys.getsizeof(text) + _PER_ITEM * items + _PER_FIELD * text.count(":")


def in_mib(size: int) -> str:
    """A number of bytes as text, rounded up to a tenth of a MiB."""
    return f"{-(-size * 10 // MIB) / 10} MiB"
