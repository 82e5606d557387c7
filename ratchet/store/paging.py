"""The sizes of a list's pages, and responses that are read up to a limit: one page of JSON is in memory at a time.

`limit` of a list counts objects, and an object has up to 1.5 MB (etcd, `--max-request-bytes`). So the limit of each
page is chosen by the bytes of the page before. A page that grows too large nevertheless is not read to its end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar

from ratchet.store.api_errors import ExpiredError

log = logging.getLogger(__name__)

Json = dict[str, Any]
Decoded = TypeVar("Decoded")
Arguments = ParamSpec("Arguments")

# Objects.
FIRST_LIMIT, LARGEST_LIMIT = 50, 1000
# The limit grows by this factor at most from page to page, because the next objects may be larger.
GROWTH = 10
# The factor after a page that was too large: the API server had to read all of that page.
CAREFUL_GROWTH = 2
# Bytes of JSON, which take some ten times as much memory when parsed.
PAGE_BYTES = 1 << 20
LARGEST_PAGE_BYTES = 3 << 20
# A response of more bytes is read and decoded while no other one of that size is.
LARGE_BYTES = 1 << 18

# How often a list is started. Each start reads a newer version, and etcd keeps versions for five minutes.
LIST_ATTEMPTS = 3

_CHUNK = 1 << 16


class PageTooLargeError(Exception):
    """A page has more than LARGEST_PAGE_BYTES and more than one object."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Decoded]):
    """A page of a list: its decoded objects, the token of the next page ("": there is none), and its bytes of JSON."""

    objects: list[Decoded]
    next_token: str
    version: str
    size: int


# Requests the page with a query. Raises PageTooLargeError if it has more than a number of bytes (None: no limit).
PageReader = Callable[[Mapping[str, str], int | None], Page[Decoded]]


def read_list(read_page: PageReader[Decoded]) -> tuple[list[Decoded], str]:
    """The objects of a list, read page by page, and the resourceVersion of the list."""
    objects: list[Decoded] = []
    limit, growth, token = FIRST_LIMIT, GROWTH, dict[str, str]()
    while True:
        try:
            page = read_page({"limit": str(limit), **token}, LARGEST_PAGE_BYTES if limit > 1 else None)
        except PageTooLargeError:
            limit, growth = max(1, limit // GROWTH), CAREFUL_GROWTH
            continue
        objects += page.objects
        if not page.next_token:
            return objects, page.version
        limit = next_limit(limit * growth, len(page.objects), page.size)
        token = {"continue": page.next_token}


def restarts_expired(read: Callable[Arguments, Decoded]) -> Callable[Arguments, Decoded]:
    """Have a function list again from the first page if its list expires between two pages.

    The function must begin with nothing each time. Raises ExpiredError after LIST_ATTEMPTS.
    """

    @wraps(read)
    def attempted(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Decoded:
        for _ in range(LIST_ATTEMPTS - 1):
            try:
                return read(*args, **kwargs)
            except ExpiredError as cause:
                log.info('list expired between two pages, starting again cause="%s"', cause)
        return read(*args, **kwargs)

    return attempted


def decode_page(decode: Callable[[Json], Decoded], content: Json, size: int) -> Page[Decoded]:
    """The page in a response of `size` bytes."""
    metadata = content.get("metadata") or {}
    objects = [decode(item) for item in content.get("items") or ()]
    return Page(objects, metadata.get("continue") or "", metadata.get("resourceVersion", ""), size)


def next_limit(most: int, objects: int, size: int) -> int:
    """The limit of the page after one of so many objects and bytes, at most `most`."""
    fitting = PAGE_BYTES * max(objects, 1) // max(size, 1)
    return max(1, min(fitting, most, LARGEST_LIMIT))


class LargeResponses:
    """Lets one thread at a time have a large response in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def admitted(self) -> Iterator[Callable[[int], None]]:
        """Within the block, call the function with the bytes read so far. It waits once they are LARGE_BYTES.

        The response must not be referenced after the block.
        """
        holds = False

        def admit(size: int) -> None:
            nonlocal holds
            if size >= LARGE_BYTES and not holds:
                self._lock.acquire()
                holds = True

        try:
            yield admit
        finally:
            if holds:
                self._lock.release()


def read_body(response: Any, admit: Callable[[int], None], largest: int | None = None) -> bytearray:
    """Read a response to its end. Raises PageTooLargeError if it has more than `largest` bytes."""
    body = bytearray()
    length = response.length_remaining
    is_short = length is not None and 0 < length <= _CHUNK
    for chunk in (response.read(),) if is_short else response.stream(_CHUNK):
        body += chunk
        admit(len(body))
        if largest is not None and len(body) > largest:
            response.close()
            raise PageTooLargeError
    return body
