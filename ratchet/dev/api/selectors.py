"""Label and field selectors ("Kubernetes: Labels and Selectors", "Field Selectors")."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ratchet.dev.api.kinds import JsonObject, ResourceKind
from ratchet.dev.api.status import bad_request
from ratchet.dev.api.validation import label_value_problem, qualified_name_problem

Predicate = Callable[[JsonObject], bool]

_TOKEN = re.compile(r"\s*(==|!=|=|!|<|>|\(|\)|,|[^\s=!<>(),]+)")


def label_selector(text: str) -> Predicate:
    """A predicate over objects for a selector such as ``a=b,c in (d,e),!f``.

    Raises:
        ApiError: 400 when the selector cannot be parsed.
    """
    requirements = _Parser(text).requirements()
    return lambda obj: all(holds((obj["metadata"].get("labels") or {}).get(key)) for key, holds in requirements)


_Holds = Callable[[Any], bool]


class _Parser:
    """Reads the tokens of one label selector from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _TOKEN.findall(text)
        if "".join(self._tokens) != re.sub(r"\s+", "", text):
            raise self._failure("unexpected character")

    def requirements(self) -> list[tuple[str, _Holds]]:
        found: list[tuple[str, _Holds]] = []
        while self._tokens:
            found.append(self._requirement())
            if self._tokens and self._next() != ",":
                raise self._failure("expected ','")
            if not self._tokens and self._text.rstrip().endswith(","):
                raise self._failure("found '', expected: identifier after ','")
        return found

    def _requirement(self) -> tuple[str, _Holds]:
        first = self._next()
        if first == "!":
            return self._key(self._next()), lambda value: value is None
        key = self._key(first)
        if not self._tokens or self._tokens[0] == ",":
            return key, lambda value: value is not None
        operator = self._next()
        if operator in ("in", "notin"):
            values = self._value_set()
            if operator == "in":
                return key, lambda value: value in values
            return key, lambda value: value not in values
        if operator in ("=", "==", "!="):
            wanted = self._optional_value()
            if operator == "!=":
                return key, lambda value: value != wanted
            return key, lambda value: value == wanted
        if operator in ("<", ">"):
            return key, self._compared(operator)
        raise self._failure(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")

    def _compared(self, operator: str) -> _Holds:
        bound = self._optional_value()
        if not re.fullmatch(r"-?\d+", bound):
            raise self._failure(f"for '{operator}' operators, the value must be an integer")

        def holds(value: Any) -> bool:
            if value is None or not re.fullmatch(r"-?\d+", value):
                return False
            return int(value) < int(bound) if operator == "<" else int(value) > int(bound)

        return holds

    def _value_set(self) -> set[str]:
        if self._next() != "(":
            raise self._failure("expected '('")
        values = {self._optional_value()}
        while (end := self._next()) == ",":
            values.add(self._optional_value())
        if end != ")":
            raise self._failure(f"found '{end}', expected: ',' or ')'")
        return values

    def _optional_value(self) -> str:
        if not self._tokens or self._tokens[0] in (",", ")"):
            return ""
        value = self._next()
        if problem := label_value_problem(value):
            raise self._failure(f'values: Invalid value: "{value}": {problem}')
        return value

    def _key(self, token: str) -> str:
        if problem := qualified_name_problem(token):
            raise self._failure(f'key: Invalid value: "{token}": {problem}')
        return token

    def _next(self) -> str:
        if not self._tokens:
            raise self._failure("unexpected end")
        return str(self._tokens.pop(0))

    def _failure(self, cause: str) -> Exception:
        return bad_request(f"unable to parse requirement: {cause} in {self._text!r}")


def field_selector(kind: ResourceKind, text: str) -> Predicate:
    """A predicate over objects of ``kind`` for a selector such as ``status.phase!=Running``.

    Raises:
        ApiError: 400 when the selector cannot be parsed or names a field that is not selectable.
    """
    terms = [_field_term(kind, part) for part in _split_terms(text) if part]
    return lambda obj: all((_text_at(obj, path) == value) == equal for path, value, equal in terms)


def _split_terms(text: str) -> list[str]:
    return re.split(r"(?<!\\),", text)


def _field_term(kind: ResourceKind, part: str) -> tuple[tuple[str, ...], str, bool]:
    match = re.fullmatch(r"([^=!]+)(==|!=|=)(.*)", part)
    if not match:
        raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
    label, operator, value = match.groups()
    path = kind.field_path(label)
    if path is None:
        raise bad_request(_unsupported(kind, label))
    return path, re.sub(r"\\([\\,=])", r"\1", value), operator != "!="


def _unsupported(kind: ResourceKind, label: str) -> str:
    if kind.field_labels:
        return f"field label not supported: {label}"
    return f'"{label}" is not a known field selector: only "metadata.name", "metadata.namespace"'


def _text_at(obj: JsonObject, path: tuple[str, ...]) -> str:
    value: Any = obj
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "false" if path[-1] in ("unschedulable", "hostNetwork") else ""
    return str(value)
