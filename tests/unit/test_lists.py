"""Lists are read page by page: each page is decoded before the next one is requested."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ratchet.store.api_errors import ExpiredError
from ratchet.store.apiserver import ApiServer
from ratchet.store.connection import static_connection
from ratchet.store.kubeconfig import StaticAccess
from ratchet.store.paging import (
    FIRST_LIMIT,
    LARGE_BYTES,
    LARGEST_LIMIT,
    LARGEST_PAGE_BYTES,
    LIST_ATTEMPTS,
    PAGE_BYTES,
    LargeResponses,
    restarts_expired,
)
from ratchet.store.session import read_lines
from ratchet.store.store import ApiStore
from tests.support.http_server import HttpServer, JsonHandler, running
from tests.support.synthetic import Collection, serve

Json = dict[str, Any]


class Pages:
    """A server whose collections have these pages. The page number is the continue token.

    `log` has the requests and the decoded names in order. An int instead of a page is the status of an error.
    """

    def __init__(self, *pages: list[str] | int) -> None:
        self.pages = pages
        self.log: list[str] = []
        self.queries: list[dict[str, list[str]]] = []

    def answer(self, query: dict[str, list[str]]) -> tuple[int, Json]:
        number = int(query.get("continue", ["0"])[0])
        self.log.append(f"page {number}")
        self.queries.append(query)
        page = self.pages[number]
        if isinstance(page, int):
            return page, {"kind": "Status", "code": page, "message": "made to fail"}
        items = [{"metadata": {"name": name, "uid": name}} for name in page[: int(query["limit"][0])]]
        metadata = {"resourceVersion": "7"} | ({"continue": str(number + 1)} if number + 1 < len(self.pages) else {})
        return 200, {"items": items, "metadata": metadata}

    def decode(self, item: Json) -> str:
        name = str(item["metadata"]["name"])
        self.log.append(name)
        return name


@contextmanager
def served(pages: Pages) -> Iterator[ApiServer]:
    class Handler(JsonHandler):
        def get(self) -> None:
            self.send(*pages.answer(parse_qs(urlsplit(self.path).query)))

    with running(HttpServer(Handler)) as server, connected(server.url) as api:
        yield api


@contextmanager
def connected(url: str) -> Iterator[ApiServer]:
    with closing(ApiServer(lambda: static_connection(StaticAccess(url)), patience=5.0)) as api:
        yield api


def test_a_page_is_decoded_before_the_next_one_is_requested() -> None:
    pages = Pages(["a", "b"], ["c"], ["d"])
    with served(pages) as api:
        assert api.list_decoded("/things", pages.decode) == (["a", "b", "c", "d"], "7")
        assert pages.log == ["page 0", "a", "b", "page 1", "c", "page 2", "d"]
        assert [item["metadata"]["name"] for item in api.list("/things")[0]] == ["a", "b", "c", "d"]


def test_metadata_is_decoded_page_by_page_too() -> None:
    pages = Pages(["a"], ["b"])
    with served(pages) as api:
        assert api.list_metadata("/things", pages.decode) == ["a", "b"]
    assert pages.log == ["page 0", "a", "page 1", "b"]


def sized(collection: Collection) -> tuple[list[int], list[int]]:
    """List a collection. Return the numbers of its objects as decoded, and the bytes of the pages that were sent."""
    with serve({"/things": collection}) as synthetic:
        with connected(synthetic.url) as api:
            numbers, version = api.list_decoded("/things", lambda item: int(item["n"]))
        assert version == "1000000"
        return numbers, synthetic.pages


def thing(number: int, size: int) -> str:
    return json.dumps({"n": number, "padding": "x" * size})


@pytest.mark.parametrize("size", [10, 1_000, 30_000, 200_000], ids="{} bytes".format)
def test_a_page_has_as_many_objects_as_fit_into_its_bytes(size: int) -> None:
    count = 4 + 8_000_000 // max(size, 1_000)
    numbers, pages = sized(Collection(count, lambda number: thing(number, size)))
    assert numbers == list(range(count))
    assert max(pages) <= 1.1 * max(PAGE_BYTES, FIRST_LIMIT * size)
    assert len(pages) <= 4 + 2 * count * (size + 50) // PAGE_BYTES + count // LARGEST_LIMIT


def test_a_page_that_grows_too_large_is_requested_again_with_fewer_objects() -> None:
    """The names of objects decide their order: a tenant can put large ones behind many small ones."""
    numbers, pages = sized(Collection(330, lambda number: thing(number, 10 if number < 300 else 900_000)))
    assert numbers == list(range(330))
    assert sum(size > LARGEST_PAGE_BYTES for size in pages) <= 6


def test_an_object_larger_than_a_page_is_read_alone() -> None:
    numbers, _ = sized(Collection(3, lambda number: thing(number, LARGEST_PAGE_BYTES + 1)))
    assert numbers == [0, 1, 2]


def test_small_responses_are_decoded_while_a_large_one_is() -> None:
    responses = LargeResponses()
    with responses.admitted() as admit_large, responses.admitted() as admit_small:
        admit_large(LARGE_BYTES)
        admit_small(LARGE_BYTES - 1)


def test_a_large_response_waits_until_another_one_is_decoded() -> None:
    responses, order, waits = LargeResponses(), list[str](), Event()

    def read_second() -> None:
        with responses.admitted() as admit:
            waits.set()
            admit(LARGE_BYTES)
            order.append("second")

    with responses.admitted() as admit:
        admit(LARGE_BYTES)
        admit(2 * LARGE_BYTES)
        second = Thread(target=read_second)
        second.start()
        assert waits.wait(10.0)
        order.append("first")
    second.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("cuts", [1, 3, 1000])
def test_lines_are_whole_whatever_the_chunks_are(cuts: int) -> None:
    text = b"".join(b"%d" % number * (number % 7) + b"\n" for number in range(50)) + b"unfinished"
    chunks = [text[at : at + cuts] for at in range(0, len(text), cuts)]
    stream = SimpleNamespace(stream=lambda **_: iter(chunks))
    assert list(read_lines(stream, float("inf"))) == [line for line in text.split(b"\n")[:-1] if line]


def test_a_list_that_expires_between_two_pages_raises_an_error() -> None:
    pages = Pages(["a"], 410)
    with served(pages) as api, pytest.raises(ExpiredError):
        api.list_decoded("/things", pages.decode)


@pytest.mark.parametrize("expiries", [LIST_ATTEMPTS - 1, LIST_ATTEMPTS])
def test_an_expired_list_starts_again_a_limited_number_of_times(expiries: int) -> None:
    left = iter(range(expiries))

    class Expiring(Pages):
        def answer(self, query: dict[str, list[str]]) -> tuple[int, Json]:
            self.pages = (["a"], 410 if "continue" in query and next(left, None) is not None else ["b"])
            return super().answer(query)

    pages = Expiring()
    with served(pages) as api:

        @restarts_expired
        def read() -> list[str]:
            return api.list_decoded("/things", pages.decode)[0]

        if expiries < LIST_ATTEMPTS:
            assert read() == ["a", "b"]
        else:
            with pytest.raises(ExpiredError):
                read()
    assert pages.log.count("page 0") == LIST_ATTEMPTS


@pytest.mark.parametrize("names", [["a", "b"], []])
def test_has_earlier_reads_one_record_at_most(names: list[str]) -> None:
    """An agent calls it at every second heartbeat while an upgraded cluster has records of schema 1."""
    pages = Pages(names, ["c"])
    with served(pages) as api:
        assert ApiStore(api).links.has_earlier() is bool(names)
    assert pages.log == ["page 0"]
    assert pages.queries[0]["limit"] == ["1"]
