"""Parse short and regular HTTP responses (RFC 9112). `ratchet.store.http` has urllib3 read the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus

from urllib3 import HTTPHeaderDict

# A longer response is read chunk by chunk (`ratchet.store.paging`).
MAX_BYTES = 1 << 16

# No informational response, no folded line, and no more lines than `http.client` accepts.
_HEAD = re.compile(
    rb"HTTP/1\.1 ([2-5]\d\d)(?: [^\r\n\0]*)?\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\r\n){0,99}\r\n"
)
# In a head in lower case.
_FRAMING = re.compile(rb"\n(content-length|content-encoding|transfer-encoding|connection(?!: keep-alive\r)): *([^\r]*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,4})\r\n")
_NO_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class UnsupportedResponseError(Exception):
    """A response is too long or irregular."""


class Response:
    """A whole response, with those attributes of a response of urllib3 that Ratchet uses."""

    # No dataclass: its creation would cost each start of the daemonless plugin 0.5 ms.
    __slots__ = ("data", "head", "status")

    def __init__(self, status: int, head: bytes, data: bytes) -> None:
        self.status = status
        self.head = head
        self.data = data

    @property
    def headers(self) -> HTTPHeaderDict:
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return HTTPHeaderDict((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))

    @property
    def length_remaining(self) -> int:
        return len(self.data)

    def read(self) -> bytes:
        return self.data

    def stream(self, _amount: int) -> Iterator[bytes]:
        if self.data:
            yield self.data

    def close(self) -> None:
        """The connection is in the pool already."""


def parse_response(received: bytes) -> tuple[Response, int] | None:
    """The response at the beginning of `received`, and its size in bytes. None: it is incomplete.

    Raises UnsupportedResponseError.
    """
    if len(received) > MAX_BYTES:
        raise UnsupportedResponseError
    start = received.find(b"\n\r\n") + 3
    if start < 3:
        if b"\n\n" in received or not received.startswith(b"HTTP/1.1 "):
            raise UnsupportedResponseError
        return None
    head = _HEAD.fullmatch(received, 0, start)
    if head is None or (status := int(head[1])) in _NO_BODY:
        raise UnsupportedResponseError
    match _FRAMING.findall(head[0].lower()):
        case [(b"content-length", length)] if length.isdigit() and len(length) < 6:
            body = _fixed(received, start, int(length))
        case [(b"transfer-encoding", b"chunked")]:
            body = _chunked(received, start)
        case _:
            raise UnsupportedResponseError
    if body is None:
        return None
    data, end = body
    return Response(status, head[0], data), end


def _fixed(received: bytes, start: int, length: int) -> tuple[bytes, int] | None:
    end = start + length
    if end > MAX_BYTES:
        raise UnsupportedResponseError
    return (received[start:end], end) if end <= len(received) else None


def _chunked(received: bytes, start: int) -> tuple[bytes, int] | None:
    """A body of chunks without extensions and trailers, and its end."""
    chunks: list[bytes] = []
    while line := _CHUNK.match(received, start):
        size = int(line[1], 16)
        start, end = line.end(), line.end() + size
        after = received[end : end + 2]
        if after != b"\r\n":
            if b"\r\n".startswith(after):
                return None
            raise UnsupportedResponseError
        if size == 0:
            return b"".join(chunks), end + 2
        chunks.append(received[start:end])
        start = end + 2
    if b"\n" in received[start:] or len(received) - start > len("ffff\r"):
        raise UnsupportedResponseError
    return None
