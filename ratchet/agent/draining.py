"""Doing the DELs that came while nobody served: each is done here, and what the API is to know of it follows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from ratchet.agent.frame import Answer, FrameError, Request
from ratchet.agent.spool import Spool
from ratchet.errors import RatchetError

log = logging.getLogger(__name__)

AT_ONCE = 8


def drain(spool: Spool, serve: Callable[[Request], Answer]) -> None:
    """Serve what waits in the spool. What fails, or cannot be read now, stays for the next time; nothing is raised."""
    try:
        waiting = spool.waiting()
        if not waiting:
            return
        log.info("%d DELs came while nobody served", len(waiting))
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="spool") as at_once:
            list(at_once.map(partial(_do, spool, serve), waiting))
        spool.sweep()
    except RatchetError as error:
        log.error("%s", error)


def _do(spool: Spool, serve: Callable[[Request], Answer], path: Path) -> None:
    try:
        answer = serve(spool.read(path))
        if answer.status == 0:
            spool.done(path)
        else:
            log.error("a DEL that was kept failed, and is tried again: %s", answer.stdout.decode(errors="replace"))
    except FrameError as error:
        spool.set_aside(path, str(error))
    except RatchetError as error:
        log.error("%s", error)
