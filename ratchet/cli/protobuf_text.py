"""The text format of protocol buffers as nodes (protobuf.dev/reference/protobuf/textformat-spec), without a schema.

A field that occurs several times is a list. Whether a field is repeated is unknown, so one that occurs once is no list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ratchet.cli.yaml_nodes import DEPTH_MOST, Kind, Node, SyntaxFaultError
from ratchet.core.escape import excerpt

_TOKEN = re.compile(
    r"""(?P<blank>(?:\s|\#[^\n]*)+)
      | (?P<text>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
      | (?P<word>[-+.A-Za-z0-9_/]+)
      | (?P<mark>[{}<>\[\]:;,])""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}
_NUMBER = re.compile(r"[-+]?[0-9.][0-9A-Za-z.+-]*")
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class _Token:
    line: int
    kind: str
    text: str


def parse_protobuf_text(text: str) -> Node:
    """The message in a text. Raises SyntaxFaultError."""
    return _Parser(text).message(1, "", 0)


def _tokens(text: str) -> Iterator[_Token]:
    line, at = 1, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise SyntaxFaultError(line, f"unexpected {excerpt(text[at])}")
        if match.lastgroup != "blank":
            yield _Token(line, match.lastgroup or "", match[0])
        line, at = line + match[0].count("\n"), match.end()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def message(self, line: int, closing: str, depth: int) -> Node:
        """A message up to its closing mark; empty for the end of the text."""
        if depth == DEPTH_MOST:
            raise SyntaxFaultError(line, f"nested deeper than {DEPTH_MOST} levels")
        found: dict[str, list[Node]] = {}
        while (token := self._next(line, closing)) is not None and token.text != closing:
            if token.kind != "word":
                raise SyntaxFaultError(token.line, f"expected the name of a field, found {excerpt(token.text)}")
            found.setdefault(token.text, []).extend(self._values(token, depth))
            self._skip(",", ";")
        fields = {
            name: nodes[0] if len(nodes) == 1 else Node(nodes[0].line, Kind.LIST, items=tuple(nodes))
            for name, nodes in found.items()
            if nodes
        }
        return Node(line, Kind.MAPPING, fields=fields)

    def _values(self, name: _Token, depth: int) -> list[Node]:
        """The values of a field: one, or those of a short list."""
        self._skip(":")
        token = self._required(name.line)
        if token.text != "[":
            return [self._value(token, depth)]
        found = list[Node]()
        while (token := self._required(token.line)).text != "]":
            if token.text != ",":
                found.append(self._value(token, depth))
        return found

    def _value(self, token: _Token, depth: int) -> Node:
        if token.text in _CLOSING:
            return self.message(token.line, _CLOSING[token.text], depth + 1)
        if token.kind == "text":
            text = _unquoted(token.text)
            while self._at < len(self._tokens) and self._tokens[self._at].kind == "text":  # adjacent texts are one
                text += _unquoted(self._tokens[self._at].text)
                self._at += 1
            return Node(token.line, Kind.TEXT, text)
        if token.kind == "word":
            return Node(token.line, Kind.NUMBER if _NUMBER.fullmatch(token.text) else Kind.TEXT, token.text)
        raise SyntaxFaultError(token.line, f"expected a value, found {excerpt(token.text)}")

    def _next(self, line: int, closing: str) -> _Token | None:
        """The next token; None at the end of the text, if no closing mark is missing."""
        return self._required(line) if closing or self._at < len(self._tokens) else None

    def _required(self, line: int) -> _Token:
        if self._at == len(self._tokens):
            raise SyntaxFaultError(line, "the message that begins here does not end")
        self._at += 1
        return self._tokens[self._at - 1]

    def _skip(self, *marks: str) -> None:
        if self._at < len(self._tokens) and self._tokens[self._at].text in marks:
            self._at += 1


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(r"\1", text[1:-1])
