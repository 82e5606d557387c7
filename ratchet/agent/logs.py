"""The agent's log on stderr: one line per event, with the command, pod, sandbox and link.

A block sets its subject, and all lines that the thread logs within have it:

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

from ratchet.core.pod import PodRef
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
    """Set the subject of the log lines of a block. Arguments that are not given keep their outer values.

    Another thread starts without a subject.
    """
    given = dict(zip(_KEYS, (command, str(pod) if pod else None, sandbox, link), strict=True))
    token = _subject.set({**_subject.get(), **{key: value for key, value in given.items() if value}})
    try:
        yield
    finally:
        _subject.reset(token)


def from_here_about(pod: PodRef) -> None:
    """Set the pod of the log lines from here to the end of the enclosing `about` block."""
    _subject.set({**_subject.get(), "pod": str(pod)})


def configure(format: str, level: str) -> None:  # noqa: A002  # the name of the setting
    """Log at `level` (debug, info, warning or error) to stderr, in the format "text" or "json".

    "json" is an object per line: time (RFC 3339, UTC), level, message, and command, pod, sandbox, link and traceback
    if they are known. Warnings and errors of libraries are logged in the same format.
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
    """The format of the daemonless plugin, with the subject."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s ratchet[%(process)d] %(levelname)s%(subject)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        subject = _subject.get()
        record.subject = "".join(f" {_shown(key, subject[key])}" for key in _KEYS if key in subject)
        return super().format(record)


class _Json(logging.Formatter):
    """One JSON object per line, in which all but printable ASCII is escaped."""

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
