"""Doing the DELs that came while nobody served: each is done here, and what the API is to know of it follows."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ratchet.agent.frame import FrameError, Reply, Request
from ratchet.agent.spool import Spool
from ratchet.errors import (
    InvalidConfigError,
    InvalidEnvironmentError,
    RatchetError,
    UndecodableError,
    UnsupportedVersionError,
)

log = logging.getLogger(__name__)

AT_ONCE = 8
LOOK_SECONDS = 2.0
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0
# What is wrong with the call itself is so the next time, too.
_FOR_GOOD = frozenset(
    {UnsupportedVersionError.code, InvalidEnvironmentError.code, UndecodableError.code, InvalidConfigError.code}
)


class SpoolReplayer:
    """Serves what waits in the spool. What fails stays for a later time, after a pause that grows; nothing is raised.

    What can be served at no time is set aside (`Spool.set_aside`). `clock` gives monotonic seconds.
    """

    def __init__(
        self, spool: Spool, serve: Callable[[Request], Reply], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._spool = spool
        self._serve = serve
        self._clock = clock
        # By file: the pause after its last failure, and until when it lasts.
        self._pauses: dict[Path, tuple[float, float]] = {}

    def start(self, stopping: threading.Event, seconds: float) -> None:
        """Drain now and again and again, in a thread; wait for the first time to be over, for so many seconds at most.

        A delegate that hangs in a DEL that was kept must not keep the node from being served.
        """
        once = threading.Event()

        def run() -> None:
            while True:
                self.drain()
                once.set()
                if stopping.wait(LOOK_SECONDS):
                    return

        threading.Thread(target=run, name="spool", daemon=True).start()
        if not once.wait(seconds):
            log.warning("DELs that were kept are not done yet: serving meanwhile")

    def drain(self) -> None:
        """Serve once each of those whose pause is over."""
        try:
            waiting = self._spool.waiting()
            self._pauses = {path: pause for path, pause in self._pauses.items() if path in waiting}
            due = [path for path in waiting if self._pauses.get(path, (0.0, 0.0))[1] <= self._clock()]
            if not due:
                return
            log.info("%d DELs came while nobody served", len(due))
            with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="spool") as at_once:
                list(at_once.map(self._do, due))
            self._spool.sweep()
        except RatchetError as error:
            log.error("%s", error)
        except Exception:
            log.exception("a fault in what DELs were kept")

    def _do(self, path: Path) -> None:
        try:
            answer = self._serve(self._spool.read(path))
            if answer.status == 0:
                self._spool.done(path)
            elif (code := _code(answer)) in _FOR_GOOD:
                self._spool.set_aside(path, f"error {code}: {answer.stdout.decode(errors='replace').strip()}")
            else:
                self._pause(path)
                log.error("a DEL that was kept failed, and is tried again: %s", answer.stdout.decode(errors="replace"))
        except FrameError as error:
            self._spool.set_aside(path, str(error))
        except RatchetError as error:
            self._pause(path)
            log.error("%s", error)

    def _pause(self, path: Path) -> None:
        pause = min(LONGEST_PAUSE, self._pauses.get(path, (FIRST_PAUSE / 2, 0.0))[0] * 2)
        self._pauses[path] = (pause, self._clock() + pause)


def _code(answer: Reply) -> int | None:
    """The code of the error that an answer is."""
    try:
        said = json.loads(answer.stdout)
    except ValueError:
        return None
    code = said.get("code") if isinstance(said, dict) else None
    return code if isinstance(code, int) else None
