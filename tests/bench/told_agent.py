"""The agent as the command starts it, which tells of each request that it sends to the API.

Beside the file of its settings, PATH, it writes PATH.told, a line for each request: when it was sent and when its
answer began (seconds of the monotonic clock), the thread, the method, the path and the status; and PATH.worked, a line
for each call and for each helper of one: when it ended, and the seconds of CPU that it took outside the API's client.
While there is a file PATH.profiling, each call of the runtime is profiled, and when the agent ends the sum of these is
in PATH.profile.
"""

from __future__ import annotations

import cProfile
import http.client
import os
import pstats
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet.agent import agent, logs, service  # noqa: E402
from ratchet.node import concurrency  # noqa: E402
from ratchet.node.response import Response  # noqa: E402
from ratchet.store import apiserver  # noqa: E402
from tests.support.settings import read_settings  # noqa: E402


def tell_of_requests(path: str) -> None:
    """The time between the two is the API's and the network's alone: no work of ours is in it but to wake up."""
    told = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    connection: Any = http.client.HTTPConnection
    putrequest, getresponse = connection.putrequest, connection.getresponse

    def put(self: Any, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        self.asked = f"{method} {url}"
        return putrequest(self, method, url, *arguments, **options)

    def get(self: Any) -> Any:
        sent = time.monotonic()
        response = getresponse(self)
        thread = threading.current_thread().name.replace(" ", "-")
        line = f"{sent} {time.monotonic()} {thread} {self.asked} {response.status}\n"
        os.write(told, line.encode())
        return response

    connection.putrequest, connection.getresponse = put, get


def tell_of_work(path: str) -> None:
    """What a thread does while it asks the API is left out: packing, sending, waiting, reading what came."""
    told = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    asking = threading.local()

    def without_asking(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*arguments: Any) -> Any:
            asking.seconds, began = 0.0, time.thread_time()
            try:
                return act(*arguments)
            finally:
                os.write(told, f"{time.monotonic()} {time.thread_time() - began - asking.seconds}\n".encode())

        return acted

    def counted(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return act(*arguments, **options)
            finally:
                asking.seconds = getattr(asking, "seconds", 0.0) + time.thread_time() - began

        return acted

    for owner, name, wrapped in (
        (service.CallService, "_serve", without_asking),
        (concurrency.Work, "help", without_asking),
        (apiserver.ApiServer, "_retried", counted),
    ):
        setattr(owner, name, wrapped(getattr(owner, name)))


class Profiled:
    """The profiles of calls, which do not overlap: one that comes while another is profiled is not."""

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

        setattr(service.CallService, "_serve", served)  # noqa: B010  # what is patched is not ours to type

    def write(self) -> None:
        if self._sum is not None:
            self._sum.dump_stats(self._path)


def main() -> None:
    path = sys.argv[sys.argv.index("--config") + 1]
    tell_of_requests(f"{path}.told")
    tell_of_work(f"{path}.worked")
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
