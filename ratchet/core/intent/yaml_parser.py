"""The parser of `yaml_source`, on the events of PyYAML: neither depth nor aliases cost more than the text's length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from ratchet.core.escape import excerpt
from ratchet.core.intent.yaml_source import UnreadableError, YamlNode

DEPTH_MOST = 6

_NULLS = ("null", "Null", "NULL", "~")
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def parse(text: str) -> YamlNode:
    """Parse the one document in a text of limited length. Raises UnreadableError."""
    events = yaml.parse(text, Loader=_Loader)
    try:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                document = _read_node(next(events), events, 0)
                next(events)
                if not isinstance(after := next(events), yaml.StreamEndEvent):
                    raise UnreadableError(_line(after), "expected one document, found a second")
                return document
        return YamlNode(1, "")
    except yaml.MarkedYAMLError as cause:
        line = cause.problem_mark.line + 1 if cause.problem_mark else 1
        raise UnreadableError(line, excerpt(str(cause.problem))) from cause
    except yaml.YAMLError as cause:
        raise UnreadableError(1, excerpt(str(cause))) from cause


def _read_node(event: Any, events: Iterator[Any], depth: int) -> YamlNode:
    line = _line(event)
    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise UnreadableError(line, "anchors and aliases are not supported")
    if isinstance(event, yaml.ScalarEvent):
        plain = event.style not in ("'", '"')
        return YamlNode(line, "" if plain and event.value in _NULLS else event.value)
    if depth == DEPTH_MOST:
        raise UnreadableError(line, f"nested deeper than {DEPTH_MOST} levels")
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_read_node(item, events, depth + 1))
        return YamlNode(line, items)
    fields: dict[str, YamlNode] = {}
    while not isinstance(item := next(events), yaml.MappingEndEvent):
        key = _read_node(item, events, depth + 1)
        if not isinstance(key.value, str):
            raise UnreadableError(key.line, "expected text as a key")
        if key.value in fields:
            raise UnreadableError(key.line, "duplicate field", excerpt(key.value))
        fields[key.value] = _read_node(next(events), events, depth + 1)
    return YamlNode(line, fields)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
