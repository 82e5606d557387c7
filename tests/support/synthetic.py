"""An API server whose objects are made when they are read, so that large collections cost the test no memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.http_server import HttpServer, JsonHandler, running, write_kubeconfig

Json = dict[str, object]

# The peak of the resident memory of a process (proc_pid_status(5)). `ru_maxrss` has that of the parent before exec too.
_PEAK = """
import atexit, sys
def report_peak():
    with open("/proc/self/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM:"))
    print("PEAK_KB", peak.split()[1], file=sys.stderr)
atexit.register(report_peak)
"""

_EXPIRED = {"kind": "Status", "code": 410, "reason": "Expired", "message": "The provided continue parameter is too old"}


@dataclass(frozen=True, slots=True)
class Collection:
    """`count` objects. `make` returns the JSON of the object with a number, from 0.

    `changes` are the events of a watch, as JSON.
    """

    count: int
    make: Callable[[int], str]
    changes: tuple[str, ...] = ()


@dataclass(slots=True)
class SyntheticApi:
    """The collections by path; any other path has an empty collection. `pages` are the sizes of all pages in bytes.

    `expiries` is how many lists of each collection expire between their first two pages. `restarts` counts them.
    """

    url: str
    collections: Mapping[str, Collection]
    expiries: int = 0
    restarts: Counter[str] = field(default_factory=Counter)
    pages: list[int] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def kubeconfig(self, folder: Path) -> str:
        """Write a kubeconfig, and return its path."""
        return write_kubeconfig(folder, self.url)

    def expires(self, path: str, start: int) -> bool:
        """Whether the list ends before the page with this first object."""
        if not start or self.restarts[path] >= self.expiries:
            return False
        self.restarts[path] += 1
        return True

    def page(self, path: str, limit: int, start: int) -> str:
        collection = self.collections.get(path, Collection(0, str))
        end = min(collection.count, start + limit)
        metadata: Json = {"resourceVersion": "1000000"}
        metadata |= {"continue": str(end)} if end < collection.count else {}
        items = ",".join(map(collection.make, range(start, end)))
        body = f'{{"kind":"List","apiVersion":"v1","metadata":{json.dumps(metadata)},"items":[{items}]}}'
        self.pages.append(len(body.encode()))
        return body


class _Server(HttpServer):
    """A server of lists and watches."""

    def __init__(self, collections: Mapping[str, Collection], expiries: int) -> None:
        super().__init__(_Handler)
        self.api = SyntheticApi(self.url, collections, expiries)


class _Handler(JsonHandler):
    server: _Server

    def get(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        path = unquote(url.path)
        if "watch" in query:
            self._watch(path)
            return
        start = int(query.get("continue", "0"))
        if self.server.api.expires(path, start):
            self.send(410, _EXPIRED)
            return
        try:
            self.send(200, self.server.api.page(path, int(query.get("limit", "500")), start))
        except OSError:  # the client does not read a page that is too large
            self.close_connection = True

    def _watch(self, path: str) -> None:
        """Send the changes, and keep the stream open until the server stops."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        try:
            for change in self.server.api.collections.get(path, Collection(0, str)).changes:
                line = change.encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        except OSError:
            return
        self.server.api.stopping.wait()


@contextmanager
def serve(collections: Mapping[str, Collection], expiries: int = 0) -> Iterator[SyntheticApi]:
    """Serve lists and watches of these collections. `expiries` is as in SyntheticApi."""
    with running(_Server(collections, expiries)) as server:
        try:
            yield server.api
        finally:
            server.api.stopping.set()


@dataclass(frozen=True, slots=True)
class Measured:
    """What a process printed, and the peak of its resident memory in MB (10^6 bytes)."""

    stdout: str
    peak: float


def measure(program: str, *arguments: str) -> Measured:
    """Run a Python program to its end in a process of its own."""
    command = [sys.executable, "-c", _PEAK + program, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert process.returncode == 0, process.stderr
    *errors, peak = process.stderr.splitlines()
    assert errors == [], process.stderr
    return Measured(process.stdout, int(peak.split()[1]) * 1024 / 1e6)
