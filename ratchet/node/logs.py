"""Logging of the plugin: to stderr, which the runtime keeps, and to the configured `log_file`."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import TextIO

from ratchet.cni.arguments import Arguments
from ratchet.cni.config import NetworkConfig
from ratchet.core.escape import escape_unprintable


class OneLine(logging.Formatter):
    """Formatter that writes one line per event.

    Escapes control characters, which may come from a tenant, and the line breaks of tracebacks.
    """

    def format(self, record: logging.LogRecord) -> str:
        return escape_unprintable(super().format(record))


class _File(logging.StreamHandler[TextIO]):
    """Handler for the log file. A failed write is logged once and does not affect the pod.

    stderr has every line too.
    """

    def __init__(self, path: str) -> None:
        super().__init__(_opened(path))
        self._path = path

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  # as logging has it
        fault = sys.exc_info()[1]
        root = logging.getLogger("ratchet")
        root.removeHandler(self)
        with suppress(OSError):
            self.stream.close()
        root.warning("cannot write log_file %s: %s", self._path, getattr(fault, "strerror", None) or fault)


def configure(network: NetworkConfig, arguments: Arguments) -> None:
    """Log at `log_level` to stderr and to `log_file`, each line with the verb, the pod and the sandbox."""
    pod = f"{arguments.pod_namespace}/{arguments.pod_name}" if arguments.pod_name else "-"
    sandbox = arguments.container_id[:13] or "-"
    # The values become part of the format string, where a % would start a field.
    who = f"{arguments.command} pod={pod} sandbox={sandbox}".replace("%", "%%")
    formatter = OneLine(f"%(asctime)s ratchet[%(process)d] %(levelname)s {who}: %(message)s")
    root = logging.getLogger("ratchet")
    root.setLevel(network.log_level.upper())
    root.propagate = False
    root.handlers = [logging.StreamHandler(sys.stderr)]
    if network.log_file:
        try:
            root.handlers.append(_File(network.log_file))
        except OSError as error:
            root.handlers[0].setFormatter(formatter)
            root.warning("cannot write log_file %s: %s", network.log_file, error.strerror)
    for handler in root.handlers:
        handler.setFormatter(formatter)


def _opened(path: str) -> TextIO:
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")
