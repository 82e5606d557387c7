"""Lists are read page by page: each page is decoded before the next one is requested."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ratchet.store.api_errors import ExpiredError
from ratchet.store.apiserver import ApiServer, connect
from ratchet.store.store import ApiStore

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
def served(pages: Pages, folder: Path) -> Iterator[ApiServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, answer = pages.answer(parse_qs(urlsplit(self.path).query))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        file = folder / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        config = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **config, "current-context": "c"}))
        with closing(connect(str(file), patience=5.0)) as api:
            yield api
        server.shutdown()


def test_a_page_is_decoded_before_the_next_one_is_requested(tmp_path: Path) -> None:
    pages = Pages(["a", "b"], ["c"], ["d"])
    with served(pages, tmp_path) as api:
        assert api.list_decoded("/things", pages.decode) == (["a", "b", "c", "d"], "7")
        assert pages.log == ["page 0", "a", "b", "page 1", "c", "page 2", "d"]
        assert [item["metadata"]["name"] for item in api.list("/things")[0]] == ["a", "b", "c", "d"]


def test_metadata_is_decoded_page_by_page_too(tmp_path: Path) -> None:
    pages = Pages(["a"], ["b"])
    with served(pages, tmp_path) as api:
        assert api.list_metadata("/things", pages.decode) == ["a", "b"]
    assert pages.log == ["page 0", "a", "page 1", "b"]


def test_a_list_that_expires_between_two_pages_raises_an_error(tmp_path: Path) -> None:
    pages = Pages(["a"], 410)
    with served(pages, tmp_path) as api, pytest.raises(ExpiredError):
        api.list_decoded("/things", pages.decode)


@pytest.mark.parametrize("names", [["a", "b"], []])
def test_has_earlier_reads_one_record_at_most(names: list[str], tmp_path: Path) -> None:
    """An agent calls it at every second heartbeat while an upgraded cluster has records of schema 1."""
    pages = Pages(names, ["c"])
    with served(pages, tmp_path) as api:
        assert ApiStore(api).links.has_earlier() is bool(names)
    assert pages.log == ["page 0"]
    assert pages.queries[0]["limit"] == ["1"]
