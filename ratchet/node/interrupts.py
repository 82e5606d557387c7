"""Interruption of calls: a signal ends what can be undone, and never what undoes it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from ratchet.node.wait_group import WaitGroup

# After the first signal, a call may take this long to undo its work. Then the kernel ends the process.
LIMIT_SECONDS = 60


class InterruptedCallError(BaseException):
    """A signal has interrupted the call.

    Not an Exception: code that continues after the failure of one link must not continue after a signal.
    """


class Interrupts:
    """Counts the calls that must not be interrupted now. Thread-safe.

    An agent does not interrupt calls. At its end it waits for these calls and aborts the others.
    """

    def __init__(self) -> None:
        self._deferring = WaitGroup()

    def deferred(self) -> AbstractContextManager[None]:
        """Defer interruptions of the caller's call for a block, which undoes the call's work or is a DEL."""
        return self._deferring.included()

    def allowed(self) -> AbstractContextManager[None]:
        """Allow them again for a block within `deferred`."""
        return self._deferring.excluded()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the calls that must not be interrupted. Returns whether all have ended."""
        until = time.monotonic() + seconds
        return self._deferring.wait(lambda: until)


class SignalInterrupts(Interrupts):
    """Raises InterruptedCallError in the main thread at SIGTERM or SIGINT, for the only call of a process.

    Only the first signal counts. If it comes while interruptions are deferred, it is raised where they are allowed
    again. Within LIMIT_SECONDS of the first signal the process ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._received: signal.Signals | None = None
        self._raised = False

    def install(self) -> None:
        """Handle the signals from now on."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        with super().allowed():
            self._raise_received()
            yield

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(number)
            signal.alarm(LIMIT_SECONDS)
        if not self._deferring.count:
            self._raise_received()

    def _raise_received(self) -> None:
        if self._received is not None and not self._raised:
            self._raised = True
            raise InterruptedCallError(f"cannot finish the call: the plugin received {self._received.name}")
