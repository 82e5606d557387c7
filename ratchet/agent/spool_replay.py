"""The replay of the spool: serves the DELs that arrived while no agent ran."""

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
REPLAY_SECONDS = 2.0
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0
# Codes of errors in the call itself: a retry fails too.
_FOR_GOOD = frozenset(
    {UnsupportedVersionError.code, InvalidEnvironmentError.code, UndecodableError.code, InvalidConfigError.code}
)


class SpoolReplayer:
    """Serves the calls in the spool. A failed call is retried after a growing delay. Methods do not raise.

    A call that can never succeed is set aside (`Spool.set_aside`). `clock` returns monotonic seconds.
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
        """Replay the spool every REPLAY_SECONDS in a thread. Wait up to `seconds` for the first replay.

        The wait is bounded, because a delegate that hangs in a DEL must not stop the node.
        """
        once = threading.Event()

        def run() -> None:
            while True:
                self.replay()
                once.set()
                if stopping.wait(REPLAY_SECONDS):
                    return

        threading.Thread(target=run, name="spool", daemon=True).start()
        if not once.wait(seconds):
            log.warning("first spool replay continues while calls are served")

    def replay(self) -> None:
        """Serve each call once whose delay is over."""
        try:
            waiting = self._spool.waiting()
            self._pauses = {path: pause for path, pause in self._pauses.items() if path in waiting}
            due = [path for path in waiting if self._pauses.get(path, (0.0, 0.0))[1] <= self._clock()]
            if not due:
                return
            log.info("spool replay started calls=%d", len(due))
            with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="spool") as at_once:
                list(at_once.map(self._do, due))
            self._spool.sweep()
        except RatchetError as error:
            log.error('spool replay failed cause="%s"', error)
        except Exception:
            log.exception("spool replay failed")

    def _do(self, path: Path) -> None:
        try:
            reply = self._serve(self._spool.read(path))
            if reply.status == 0:
                self._spool.done(path)
            elif (code := _code(reply)) in _FOR_GOOD:
                self._spool.set_aside(path, f"error {code}: {reply.stdout.decode(errors='replace').strip()}")
            else:
                output = reply.stdout.decode(errors="replace").strip()
                log.error(
                    "DEL from the spool failed file=%s retry_in=%.0fs error=%s", path.name, self._pause(path), output
                )
        except FrameError as error:
            self._spool.set_aside(path, str(error))
        except RatchetError as error:
            log.error(
                'DEL from the spool failed file=%s retry_in=%.0fs cause="%s"', path.name, self._pause(path), error
            )

    def _pause(self, path: Path) -> float:
        """Delay the next try of a file, and return the delay in seconds."""
        pause = min(LONGEST_PAUSE, self._pauses.get(path, (FIRST_PAUSE / 2, 0.0))[0] * 2)
        self._pauses[path] = (pause, self._clock() + pause)
        return pause


def _code(reply: Reply) -> int | None:
    """The error code in a reply; None if there is none."""
    try:
        result = json.loads(reply.stdout)
    except ValueError:
        return None
    code = result.get("code") if isinstance(result, dict) else None
    return code if isinstance(code, int) else None
