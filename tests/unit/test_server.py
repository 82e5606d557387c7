"""The agent's socket for CNI calls: its threads come with the calls and go when there are none."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ratchet.agent.frame import Reply, Request, encode_request, read_answer
from ratchet.agent.server import SPARE, Server
from ratchet.dev.testbed import wait_for

CALLS = 5 * SPARE


class Held:
    """Serves each call once `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.threads: set[threading.Thread] = set()

    @contextmanager
    def serve(self, request: Request) -> Iterator[Reply]:
        self.threads.add(threading.current_thread())
        assert self.release.wait(30)
        yield Reply(0, request.stdin)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "agent.sock"


def call(path: Path, text: bytes) -> Reply:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.connect(str(path))
        agent.sendall(
            encode_request(Request({"CNI_COMMAND": "VERSION"}, text, time.clock_gettime(time.CLOCK_BOOTTIME)))
        )
        return read_answer(agent.recv)


def test_surplus_threads_end_when_idle_and_the_spare_ones_serve_on(path: Path) -> None:
    held = Held()
    with Server(str(path), held.serve, idle_seconds=0.05) as server:
        server.start()
        with ThreadPoolExecutor(CALLS) as shims:
            replies = [shims.submit(call, path, str(number).encode()) for number in range(CALLS)]
            wait_for("all calls to run", lambda: server.calls == CALLS)
            held.release.set()
            assert [one.result().stdout for one in replies] == [str(number).encode() for number in range(CALLS)]
        assert len(held.threads) == CALLS
        wait_for("the end of idle threads", lambda: server.threads == SPARE)
        wait_for("their end in the kernel", lambda: sum(one.is_alive() for one in held.threads) <= SPARE)
        assert call(path, b"again").stdout == b"again"
        assert server.threads == SPARE


def test_threads_are_started_again_after_idle_ones_have_ended(path: Path) -> None:
    held = Held()
    with Server(str(path), held.serve, idle_seconds=0.05) as server:
        server.start()
        for _ in range(2):
            held.release.clear()
            with ThreadPoolExecutor(CALLS) as shims:
                replies = [shims.submit(call, path, b"x") for _ in range(CALLS)]
                wait_for("all calls to run", lambda: server.calls == CALLS)
                held.release.set()
                assert {one.result().status for one in replies} == {0}
            wait_for("the end of idle threads", lambda: server.threads == SPARE)
