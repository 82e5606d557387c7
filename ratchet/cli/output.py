"""Errors of stdout: a pipe whose reader has ended, as in `ratchet links | head`, or a full disk."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, TextIO, cast

BROKEN_PIPE = 128 + signal.SIGPIPE  # the status of a process that SIGPIPE has ended, as a shell reports it


class OutputError(Exception):
    """Stdout cannot be written. It is no OSError, because it must not count as an error of another file."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror)
        self.is_broken_pipe = isinstance(cause, BrokenPipeError)


def reporting_output_errors(run: Callable[[], int]) -> int:
    """The status that `run` returns; BROKEN_PIPE if the reader of stdout has ended, 1 for other errors of stdout."""
    stdout = sys.stdout
    if stdout is None:  # the caller has closed it
        return run()
    try:
        with redirect_stdout(cast(TextIO, _CheckedStream(stdout))):
            try:
                return run()
            finally:
                sys.stdout.flush()
    except OutputError as error:
        _discard(stdout)
        if error.is_broken_pipe:
            return BROKEN_PIPE
        print(f"ratchet: cannot write to stdout: {error}", file=sys.stderr)
        return 1


class _CheckedStream:
    """A stream of text or bytes whose errors are OutputErrors."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def buffer(self) -> _CheckedStream:
        return _CheckedStream(self._stream.buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, content: str | bytes) -> Any:
        return self._checked(lambda: self._stream.write(content))

    def flush(self) -> None:
        self._checked(self._stream.flush)

    @staticmethod
    def _checked(act: Callable[[], Any]) -> Any:
        try:
            return act()
        except OSError as error:
            raise OutputError(error) from error


def _discard(stream: TextIO) -> None:
    """Let the interpreter's last flush of a stream succeed. Otherwise, it prints a traceback."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
