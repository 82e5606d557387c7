"""The agent's log: one line for each event, to stderr, with what it is about.

What it is about is set where it is known, once, and holds for all that is logged within, by this thread alone:

    with about(command="ADD", pod=ref, sandbox=container_id):
        log.info("ADD succeeded")
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

from ratchet.core.model import PodRef
from ratchet.node.logs import OneLine

_KEYS = ("command", "pod", "sandbox", "link")
_SANDBOX_SHOWN = 13
_NOTHING: Mapping[str, str] = MappingProxyType({})

_subject: ContextVar[Mapping[str, str]] = ContextVar("subject", default=_NOTHING)


@contextmanager
def about(
    *,
    pod: PodRef | str | None = None,
    sandbox: str | None = None,
    link: str | None = None,
    command: str | None = None,
) -> Iterator[None]:
    """Have what is logged within say what it is about; what is not given stays as it is outside.

    A thread begins with nothing: who hands work to another thread says there again what it is about.
    """
    given = dict(zip(_KEYS, (command, str(pod) if pod else None, sandbox, link), strict=True))
    token = _subject.set({**_subject.get(), **{key: value for key, value in given.items() if value}})
    try:
        yield
    finally:
        _subject.reset(token)


def from_here_about(pod: PodRef) -> None:
    """Have what is logged from here on, until the end of the block that `about` has begun, say which pod it is about:
    what it ends with is logged outside of whoever finds out."""
    _subject.set({**_subject.get(), "pod": str(pod)})


def configure(format: str, level: str) -> None:  # noqa: A002  # as the setting is called
    """Log at `level` (debug, info, warning or error) to stderr, as "text" or as "json".

    "json" is an object a line: time (RFC 3339, UTC), level, message, and where they are known command, pod, sandbox,
    link and traceback. What other libraries have to say, from warnings on, goes the same way.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    ours = logging.getLogger("ratchet")
    ours.handlers = []
    ours.propagate = True
    ours.setLevel(level.upper())


class _Text(OneLine):
    """As the daemonless plugin writes it, with what is known of the subject in the place of the call's."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s ratchet[%(process)d] %(levelname)s%(subject)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        subject = _subject.get()
        record.subject = "".join(f" {_shown(key, subject[key])}" for key in _KEYS if key in subject)
        return super().format(record)


class _Json(logging.Formatter):
    """One object a line: whatever is not printable ASCII is an escape of JSON's."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_subject.get(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _shown(key: str, value: str) -> str:
    if key == "command":
        return value
    return f"{key}={value[:_SANDBOX_SHOWN] if key == 'sandbox' else value}"
