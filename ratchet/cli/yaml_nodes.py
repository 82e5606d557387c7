"""YAML and JSON as nodes with lines and types.

Scalars have the types that kubectl gives them (`resolve.go` of go-yaml 2), and keep their text: `1:30` is text, `yes`
is a boolean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml

from ratchet.core.escape import excerpt

DEPTH_MOST = 100
MERGED_MOST = 1_000_000  # fields that the merge keys (<<) of a document copy

_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_TAG = "tag:yaml.org,2002:"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
TRUE_WORDS = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_NUMBER = re.compile(
    r"[-+]?(0x[0-9a-fA-F_]+|0b[01_]+|0o[0-7_]+|[0-9][0-9_]*"
    r"|(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN)"
)


class Kind(StrEnum):
    """The type of a value, as errors name it."""

    TEXT = "text"
    NUMBER = "a number"
    BOOLEAN = "a boolean"
    NOTHING = "nothing"
    LIST = "a list"
    MAPPING = "a mapping"
    OTHER = "a value of another type"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A parsed value. Aliases share one node."""

    line: int
    kind: Kind
    text: str = ""
    items: tuple[Node, ...] = ()
    fields: Mapping[str, Node] | None = None


class SyntaxFaultError(ValueError):
    """A text that is not YAML, or not supported; with the line."""

    def __init__(self, line: int, cause: str) -> None:
        super().__init__(f"line {line}: {cause}")
        self.line, self.cause = line, cause


def parse(text: str) -> Iterator[Node]:
    """The documents in a text. Raises SyntaxFaultError."""
    return _Parser(text).documents()


def is_plain_text(text: str) -> bool:
    """Whether a scalar without quotes is text for kubectl, and no number, boolean or null."""
    return _plain_kind(text) is Kind.TEXT


def _plain_kind(text: str) -> Kind:
    """The type of a scalar without quotes and tag."""
    if text in _NULLS:
        return Kind.NOTHING
    if text in TRUE_WORDS or text in _FALSE:
        return Kind.BOOLEAN
    return Kind.NUMBER if _NUMBER.fullmatch(text) else Kind.TEXT


class _Parser:
    """Parses a text event by event, so that no alias costs more than its length."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._anchors: dict[str, Node] = {}
        self._merged = 0

    def documents(self) -> Iterator[Node]:
        try:
            self._events: Iterator[Any] = yaml.parse(self._text, Loader=_Loader)
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    self._anchors, self._merged = {}, 0
                    yield self._node(next(self._events), 0)
        except yaml.MarkedYAMLError as cause:
            mark = cause.problem_mark or cause.context_mark
            raise SyntaxFaultError(
                mark.line + 1 if mark else 1, excerpt(str(cause.problem or cause.context))
            ) from cause
        except yaml.reader.ReaderError as cause:
            line = self._text.count("\n", 0, int(cause.position)) + 1
            raise SyntaxFaultError(line, "characters that YAML does not allow") from cause
        except yaml.YAMLError as cause:
            raise SyntaxFaultError(1, excerpt(str(cause))) from cause

    def _node(self, event: Any, depth: int) -> Node:
        line = int(event.start_mark.line) + 1
        if isinstance(event, yaml.AliasEvent):
            anchor = event.anchor or ""
            if anchor not in self._anchors:
                raise SyntaxFaultError(line, f"the anchor of *{excerpt(anchor)} is missing, or has the alias in it")
            return self._anchors[anchor]
        if depth == DEPTH_MOST:
            raise SyntaxFaultError(line, f"nested deeper than {DEPTH_MOST} levels")
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(item, depth + 1))
            node = Node(line, Kind.LIST, items=tuple(items))
        else:
            node = Node(line, Kind.MAPPING, fields=self._mapping(depth))
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any, line: int) -> Node:
        if not event.value.isascii() and re.search("[\ud800-\udfff]", event.value):
            raise SyntaxFaultError(line, "half of a surrogate pair")
        return Node(line, _kind_of(event), event.value)

    def _mapping(self, depth: int) -> dict[str, Node]:
        """The fields of a mapping, with those of its merge keys (yaml.org/type/merge.html)."""
        own, merged = dict[str, Node](), dict[str, Node]()
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if key.kind in (Kind.LIST, Kind.MAPPING):
                raise SyntaxFaultError(key.line, f"expected text as a key, found {key.kind}")
            value = self._node(next(self._events), depth + 1)
            if key.text == "<<" and isinstance(event, yaml.ScalarEvent) and not event.style:
                merged = {**self._merge(value), **merged}
            elif key.text in own:
                raise SyntaxFaultError(key.line, f"duplicate key {excerpt(key.text)}")
            else:
                own[key.text] = value
        return {**merged, **own}

    def _merge(self, value: Node) -> dict[str, Node]:
        found = dict[str, Node]()
        for one in value.items if value.kind is Kind.LIST else (value,):
            if one.fields is None:
                raise SyntaxFaultError(value.line, f"expected a mapping to merge, found {one.kind}")
            self._merged += len(one.fields)
            if self._merged > MERGED_MOST:
                raise SyntaxFaultError(value.line, f"merge keys copy more than {MERGED_MOST} fields")
            found = {**one.fields, **found}
        return found


def _kind_of(event: Any) -> Kind:
    """The type of a scalar: that of its tag, or the one that a plain text has."""
    tag, text = event.tag or "", event.value
    if tag in ("", "!"):
        if event.style or tag:
            return Kind.TEXT
        return _plain_kind(text)
    match tag.removeprefix(_TAG):
        case "str":
            return Kind.TEXT
        case "int" | "float" if _NUMBER.fullmatch(text):
            return Kind.NUMBER
        case "bool" if text in TRUE_WORDS or text in _FALSE:
            return Kind.BOOLEAN
        case "null":
            return Kind.NOTHING
    return Kind.OTHER
