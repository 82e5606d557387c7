"""The agent, which traces its requests to the API and the CPU of its calls.

It writes these files, where PATH is the file of its settings:

| file | content |
|---|---|
| PATH.requests | a line per request: when it was sent, when its response began, thread, method, path, status |
| PATH.calls | a line per call and per helper of a call: when it ended, and its CPU seconds without the API's client |
| PATH.threads | a line per thread of the threading module: its ID in the kernel, and its name |
| PATH.profile | the sum of the profiles of calls, written when the agent ends |

A call is profiled while the file PATH.profiling exists. Times are seconds of the monotonic clock.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar

# A script finds only modules of its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet.agent import agent, logs, service  # noqa: E402
from ratchet.node import concurrency  # noqa: E402
from ratchet.node.response import Response  # noqa: E402
from ratchet.store import apiserver, http  # noqa: E402
from tests.support.settings import read_settings  # noqa: E402

Answer = TypeVar("Answer", bound=Any)


def trace_threads(path: str) -> None:
    """Note each thread that starts."""
    trace = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    thread: Any = threading.Thread
    run = thread.run

    def traced(self: Any) -> None:
        os.write(trace, f"{threading.get_native_id()} {self.name}\n".encode())
        run(self)

    thread.run = traced


def trace_requests(path: str) -> None:
    """Trace requests. Between the two times, only the API server and the network work.

    urllib3 sends the first request of a connection and the starts of watches.
    """
    trace = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    connection: Any = HTTPConnection
    putrequest, getresponse, receive = connection.putrequest, connection.getresponse, http.receive

    def put(self: Any, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        self.traced = f"{method} {url}"
        return putrequest(self, method, url, *arguments, **options)

    def get(self: Any) -> Any:
        return traced(self.traced, lambda: getresponse(self))

    def received(pool: Any, connection: Any, request: http.Request) -> http.AnyResponse:
        return traced(f"{request.method} {request.target}", lambda: receive(pool, connection, request))

    def traced(request: str, wait: Callable[[], Answer]) -> Answer:
        sent = time.monotonic()
        response = wait()
        thread = threading.current_thread().name.replace(" ", "-")
        os.write(trace, f"{sent} {time.monotonic()} {thread} {request} {response.status}\n".encode())
        return response

    connection.putrequest, connection.getresponse, http.receive = put, get, received


def trace_calls(path: str) -> None:
    """Trace the CPU of calls, without what a thread spends in the API's client."""
    trace = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    client = threading.local()

    def without_client(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*arguments: Any) -> Any:
            client.seconds, began = 0.0, time.thread_time()
            try:
                return act(*arguments)
            finally:
                os.write(trace, f"{time.monotonic()} {time.thread_time() - began - client.seconds}\n".encode())

        return acted

    def counted(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return act(*arguments, **options)
            finally:
                client.seconds = getattr(client, "seconds", 0.0) + time.thread_time() - began

        return acted

    for owner, name, wrapped in (
        (service.CallService, "_serve", without_client),
        (concurrency.Work, "help", without_client),
        (apiserver.ApiServer, "_retried", counted),
    ):
        setattr(owner, name, wrapped(getattr(owner, name)))


class Profiled:
    """Profiles calls, one at a time. A call is not profiled while another one is."""

    def __init__(self, path: str) -> None:
        self._wanted = Path(f"{path}.profiling")
        self._path = Path(f"{path}.profile")
        self._one = threading.Lock()
        self._sum: pstats.Stats | None = None

    def install(self) -> None:
        plain = service.CallService._serve

        def served(*arguments: Any) -> Response:
            if not self._wanted.exists() or not self._one.acquire(blocking=False):
                return plain(*arguments)
            try:
                profile = cProfile.Profile()
                response: Response = profile.runcall(plain, *arguments)
                self._sum = self._sum.add(profile) if self._sum else pstats.Stats(profile)
                return response
            finally:
                self._one.release()

        setattr(service.CallService, "_serve", served)  # noqa: B010  # mypy rejects an assignment to a method

    def write(self) -> None:
        if self._sum is not None:
            self._sum.dump_stats(self._path)


def main() -> None:
    path = sys.argv[sys.argv.index("--config") + 1]
    trace_threads(f"{path}.threads")
    trace_requests(f"{path}.requests")
    trace_calls(f"{path}.calls")
    profiled = Profiled(path)
    profiled.install()
    chosen = read_settings(sys.argv[1:], os.environ)
    logs.configure(chosen.log_format, chosen.log_level)
    status = agent.Agent(chosen).run()
    profiled.write()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
