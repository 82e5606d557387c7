"""YAML and JSON with line numbers. Every scalar is read as text; its field gives it a type."""

from __future__ import annotations

from dataclasses import dataclass

SIZE_MOST = 256 * 1024  # bytes: all of an object's annotations (kubernetes.io, "Annotations")


@dataclass(frozen=True, slots=True)
class YamlNode:
    """A text, a list or a mapping, and the line on which it begins, from 1. Null is an empty text."""

    line: int
    value: str | list[YamlNode] | dict[str, YamlNode]


class UnreadableError(ValueError):
    """An error in a text, with its line, its cause, and its field if it is in one."""

    def __init__(self, line: int, cause: object, field: str = "") -> None:
        self.line, self.cause, self.field = line, cause, field
        super().__init__(f"line {line}: {f'{field}: ' if field else ''}{cause}")


def read(text: str) -> YamlNode:
    """Parse the one document in a text. Raises UnreadableError.

    It is read event by event, so that neither depth nor aliases can cost more than the length of the text.
    """
    if len(text) > SIZE_MOST:
        raise UnreadableError(1, f"longer than {SIZE_MOST} bytes")
    # Imported here because PyYAML takes 15 ms, and most calls of the plugin read no list.
    from ratchet.core.intent.yaml_parser import parse

    return parse(text)
