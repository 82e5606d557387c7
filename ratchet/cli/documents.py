"""Files of YAML or JSON as typed values. Each read checks a type; an error names file, line, path and expected type.

Any bytes are read or rejected with ManifestError.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ratchet.cli.yaml_nodes import TRUE_WORDS, Kind, Node, SyntaxFaultError, parse
from ratchet.core.escape import escape_unprintable, excerpt
from ratchet.errors import RatchetError

SIZE_MOST = 64 << 20  # bytes of a file

_WHOLE = re.compile(r"[0-9]{1,18}")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class ManifestError(RatchetError):
    """A file that cannot be read, or a value in it that is not as expected.

    `where` is the line and the path, `place` also has the file; `cause` is what is wrong there.
    """

    def __init__(self, file: str, where: str, cause: str, *, details: str = "") -> None:
        self.where = where
        self.place = ": ".join(filter(None, (escape_unprintable(file), where)))
        self.cause = cause
        super().__init__(f"cannot read {self.place}: {cause}", details=details)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A value of a file, read by type. Each reading method raises ManifestError if it has another type.

    Null and a missing field are the same.
    """

    _node: Node
    file: str
    path: str = ""

    @property
    def line(self) -> int:
        return self._node.line

    @property
    def kind(self) -> Kind:
        return self._node.kind

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{escape_unprintable(self.file)}: line {self.line}"

    def __getitem__(self, key: str) -> Value:
        """The field of a mapping; a null if it is missing."""
        fields = self._fields()
        return self._child(fields.get(key) or Node(self.line, Kind.NOTHING), key)

    def fields(self) -> dict[str, Value]:
        """The fields of a mapping; none of a null."""
        return {key: self._child(node, key) for key, node in self._fields().items()}

    def items(self) -> list[Value]:
        """The items of a list; none of a null."""
        if self.kind not in (Kind.LIST, Kind.NOTHING):
            raise self.unexpected("a list")
        return [Value(node, self.file, f"{self.path}[{index}]") for index, node in enumerate(self._node.items)]

    def text(self, default: str | None = None) -> str:
        """A text; `default` for a null."""
        if self.kind is Kind.NOTHING and default is not None:
            return default
        if self.kind is not Kind.TEXT:
            raise self.unexpected("text")
        return self._node.text

    def texts(self) -> dict[str, str]:
        """A mapping of texts to texts. A null in it is an empty text, as for the API server."""
        return {key: value.text("") for key, value in self.fields().items()}

    def scalar(self, default: str | None = None) -> str:
        """A text, or a number as it is written; `default` for a null."""
        return self._node.text if self.kind is Kind.NUMBER else self.text(default)

    def whole_number(self, default: int) -> int:
        """A number of at most 18 digits, from 0; `default` for a null."""
        if self.kind is Kind.NOTHING:
            return default
        if self.kind is not Kind.NUMBER or not _WHOLE.fullmatch(self._node.text):
            raise self.unexpected("a whole number, at least 0")
        return int(self._node.text)

    def flag(self, *, default: bool = False) -> bool:
        """A boolean; `default` for a null."""
        if self.kind is Kind.NOTHING:
            return default
        if self.kind is not Kind.BOOLEAN:
            raise self.unexpected("true or false")
        return self._node.text in TRUE_WORDS

    def error(self, cause: object, *, details: str = "") -> ManifestError:
        """The error of this value."""
        path = f": {self.path}" if self.path else ""
        return ManifestError(self.file, f"line {self.line}{path}", str(cause), details=details)

    def unexpected(self, wanted: str) -> ManifestError:
        """The error of a value that is not `wanted`."""
        scalar = self.kind in (Kind.NUMBER, Kind.BOOLEAN)
        found = f"{self.kind} ({excerpt(self._node.text)})" if scalar else str(self.kind)
        details = "put it in quotes" if scalar and wanted == "text" else ""
        return self.error(f"expected {wanted}, found {found}", details=details)

    @property
    def identity(self) -> int:
        """Equal for values that aliases repeat."""
        return id(self._node)

    def _fields(self) -> Mapping[str, Node]:
        if self.kind not in (Kind.MAPPING, Kind.NOTHING):
            raise self.unexpected("a mapping")
        return self._node.fields or {}

    def _child(self, node: Node, key: str) -> Value:
        name = key if _PLAIN_KEY.fullmatch(key) else f"[{excerpt(key)}]"
        dot = "." if self.path and not name.startswith("[") else ""
        return Value(node, self.file, f"{self.path}{dot}{name}")


def read_documents(file: str) -> list[Value]:
    """The documents of a file, or of stdin for "-", without empty ones. Raises ManifestError."""
    return parse_documents(file, read_bytes(file))


def decode(file: str, content: bytes) -> str:
    """The text in the content of a file. Raises ManifestError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = content.count(b"\n", 0, cause.start) + 1
        raise ManifestError(file, f"line {line}", "expected UTF-8", details="save the file as UTF-8") from cause


def parse_documents(file: str, content: bytes) -> list[Value]:
    """The documents in the content of a file, without empty ones. Raises ManifestError."""
    text = decode(file, content)
    try:
        return [Value(node, file) for node in parse(text) if node.kind is not Kind.NOTHING]
    except SyntaxFaultError as cause:
        raise ManifestError(file, f"line {cause.line}", cause.cause) from cause


def read_bytes(file: str) -> bytes:
    """The content of a file, or of stdin for "-". Raises ManifestError."""
    try:
        if file == "-":
            content = sys.stdin.buffer.read(SIZE_MOST + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(SIZE_MOST + 1)
    except (OSError, ValueError) as cause:
        raise ManifestError(file, "", escape_unprintable(str(cause))) from cause
    if len(content) > SIZE_MOST:
        raise ManifestError(file, "", f"larger than {SIZE_MOST >> 20} MiB")
    return content
