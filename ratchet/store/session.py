"""HTTP connections to one API server, with their credentials, and the streams of watches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from ratchet.errors import ApiUnavailableError
from ratchet.store import http
from ratchet.store.api_errors import ExpiredError
from ratchet.store.connection import Connection
from ratchet.store.paging import LargeResponses

Json = dict[str, Any]
Decoded = TypeVar("Decoded")

CREDENTIALS_SECONDS = 1.0
CONNECT_SECONDS = 3.0


class Session:
    """One connection, its credentials and its open watches. The copies of an `ApiServer` share one session."""

    _credentials: tuple[float, dict[str, str]]

    def __init__(self, connection: Connection) -> None:
        self._watches: set[Any] = set()
        self.large_responses = LargeResponses()
        self.renew(connection)

    def credentials(self) -> dict[str, str]:
        """The headers with the credentials. They are cached: the `kubernetes` package builds them again each time."""
        read, headers = self._credentials
        if time.monotonic() - read > CREDENTIALS_SECONDS:
            headers = self.connection.credentials()
            self._credentials = time.monotonic(), headers
        return headers

    def renew(self, connection: Connection) -> None:
        """Replace the connection by one that has read the credentials again."""
        self.connection = connection
        self._credentials = (float("-inf"), {})

    def send(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: Json | None,
        read_seconds: float,
        *,
        is_stream: bool = False,
    ) -> http.AnyResponse:
        """Send a request, and return the response. The body may be unread; that of a stream is.

        `target` is a path and a query. Raises HTTPError of urllib3, OSError.
        """
        request = http.Request(
            method,
            self.connection.base + target,
            headers | self.credentials(),
            None if body is None else json.dumps(body).encode(),
            min(CONNECT_SECONDS, read_seconds),
            read_seconds,
        )
        return (http.send_by_library if is_stream else http.send)(self.connection.pool, request)

    @contextmanager
    def watching(self, stream: Any) -> Iterator[None]:
        """Let `end_watches` end this stream within the block."""
        self._watches.add(stream)
        try:
            yield
        finally:
            self._watches.discard(stream)

    def event_decoder(self, path: str, decode: Callable[[Watched], Decoded]) -> Callable[[bytes], Decoded]:
        """A decoder of the lines of a watch of `path`. One thread at a time decodes a large one."""

        def decode_line(line: bytes) -> Decoded:
            with self.large_responses.admitted() as admit:
                admit(len(line))
                return decode(watch_event(path, json.loads(line)))

        return decode_line

    def end_watches(self) -> None:
        """End the streams of all watches."""
        for response in list(self._watches):
            with suppress(ValueError, RuntimeError, OSError):  # it has just ended
                response.shutdown()

    def close(self) -> None:
        self.connection.close()


@dataclass(frozen=True, slots=True)
class Watched:
    """One event of a watch: `type` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Json


def read_lines(stream: Any, until: float) -> Iterator[bytes]:
    """The lines of a stream, until `until` (monotonic seconds), which is checked after each chunk.

    While it waits for a chunk, it has only the beginning of an unfinished line in memory.
    """
    buffered, searched = bytearray(), 0
    for chunk in stream.stream(amt=None, decode_content=True):
        buffered += chunk
        del chunk
        while (end := buffered.find(b"\n", searched)) >= 0:
            line = bytes(buffered[:end])
            del buffered[: end + 1]
            searched = 0
            if line.strip():
                yield line
            del line
        searched = len(buffered)
        if time.monotonic() >= until:
            return


def watch_event(path: str, event: Json) -> Watched:
    """The event of a watch of `path`.

    Raises ExpiredError or ApiUnavailableError for an event of type ERROR.
    """
    if event["type"] != "ERROR":
        return Watched(event["type"], event["object"])
    status = event["object"]
    message = f"cannot watch {path}: {status.get('message')}"
    if status.get("code") == HTTPStatus.GONE:
        raise ExpiredError(message)
    raise ApiUnavailableError(message)
