"""Find another plugin's binary in CNI_PATH and run it: without a shell, in bounded time and memory."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import IO

from ratchet.core.escape import excerpt
from ratchet.errors import DelegateError

STDOUT_LIMIT = 1 << 20
STDERR_LIMIT = 4096
_READ_SIZE = 1 << 16
# Polling intervals for a plugin's output, in seconds: by default, if it writes much, and if the kernel has no
# pidfd_open(2). To wake up on each write would take CPU time from the plugin.
_LOOK_EVERY, _LOOK_SOON, _LOOK_WITHOUT = 0.05, 0.001, 0.005
_MUCH = 1 << 15


@dataclass(frozen=True, slots=True)
class CompletedPlugin:
    """How a plugin ended.

    `status` is its exit status, negative for a signal. `stdout` has at most STDOUT_LIMIT + 1 bytes, so that an overrun
    is visible; `stderr` has the last STDERR_LIMIT bytes. `timed_out`: it was killed after its timeout.
    """

    status: int
    stdout: bytes
    stderr: bytes
    timed_out: bool = False

    def ending(self) -> str:
        """How it ended, in words."""
        if self.timed_out:
            return "it did not end in time and was killed"
        return f"killed by signal {-self.status}" if self.status < 0 else f"exit status {self.status}"


def find_plugin(plugin_type: str, directories: Iterable[str], root: str = "") -> str:
    """The first executable file of that name in the directories of CNI_PATH (SPEC.md, section 4).

    The directories are below `root`, the returned path is not. Raises DelegateError that names the directories.
    """
    searched = list(directories)
    for directory in searched:
        # Not pathlib: its import would slow down each pod start.
        candidate = os.path.join(directory, plugin_type)  # noqa: PTH118
        if os.path.isfile(root + candidate) and os.access(root + candidate, os.X_OK):  # noqa: PTH113
            return candidate
    where = ", ".join(excerpt(directory, 300) for directory in searched) or "CNI_PATH, which is empty"
    raise DelegateError(
        f"cannot find the plugin {excerpt(plugin_type)}: there is no executable of that name in {where}",
        details=f"install {excerpt(plugin_type)} there, or correct the type in the network configuration",
    )


def run_plugin(
    binary: str, stdin: bytes, variables: Mapping[str, str], timeout: float, root: str = ""
) -> CompletedPlugin:
    """Run a plugin until it ends. After `timeout` seconds it and its children are killed.

    The given `CNI_*` variables are the only ones of that kind in its environment. With `root` the plugin runs in a
    chroot, because a container's file system is not the node's.

    Only the plugin is waited for, not a process that it leaves behind with its stdout. Raises DelegateError if the
    system cannot start the plugin.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CNI_")}
    with _as_file(stdin) as config:
        try:
            child = subprocess.Popen(
                ["chroot", root, binary] if root else [binary],
                stdin=config,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**inherited, **variables},
                # A process group of its own, so that its children can be killed with it. Not a session: the kernel
                # would schedule it as an autogroup (sched(7), "The autogroup feature"), which takes longer.
                process_group=0,
            )
        except OSError as error:
            raise DelegateError(f"cannot run {excerpt(binary, 300)}: {error.strerror}") from error
    try:
        return _until_end(child, monotonic() + timeout)
    finally:
        if child.returncode is None:
            _kill(child)
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def _as_file(content: bytes) -> Iterator[int]:
    # A file, not a pipe: a plugin that never reads its stdin cannot block us.
    descriptor = os.memfd_create("network-configuration")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _until_end(child: subprocess.Popen[bytes], deadline: float) -> CompletedPlugin:
    assert child.stdout is not None  # noqa: S101
    assert child.stderr is not None  # noqa: S101
    stdout, stderr = bytearray(), bytearray()
    streams = ((child.stdout, stdout), (child.stderr, stderr))
    for stream, _ in streams:
        os.set_blocking(stream.fileno(), False)
    with _end_of(child) as end:
        pause = _LOOK_EVERY
        while not _has_ended(child, end, min(pause, deadline - monotonic())) and monotonic() < deadline:
            much = [_read(stream, buffer) >= _MUCH for stream, buffer in streams]
            pause = _LOOK_SOON if any(much) else _LOOK_EVERY
            del stdout[STDOUT_LIMIT + 1 :]
            del stderr[:-STDERR_LIMIT]
    # All that the child wrote before it ended can be read now. What other processes write later is not needed.
    for stream, buffer in streams:
        _read(stream, buffer)
    del stderr[:-STDERR_LIMIT]
    timed_out = not _ends_by(child, deadline)
    return CompletedPlugin(child.returncode, bytes(stdout[: STDOUT_LIMIT + 1]), bytes(stderr), timed_out)


@contextmanager
def _end_of(child: subprocess.Popen[bytes]) -> Iterator[int | None]:
    """A descriptor that becomes readable when a child ends (pidfd_open(2)).

    None before Linux 5.3, which has no pidfd_open; the caller then polls the child.
    """
    try:
        descriptor = os.pidfd_open(child.pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _has_ended(child: subprocess.Popen[bytes], end: int | None, seconds: float) -> bool:
    """Whether a child has ended or ends within `seconds`."""
    seconds = max(0.0, seconds)
    if end is None:
        sleep(min(seconds, _LOOK_WITHOUT))
    else:
        waiting = select.poll()
        waiting.register(end, select.POLLIN)
        waiting.poll(seconds * 1000)
    return child.poll() is not None


def _read(stream: IO[bytes], buffer: bytearray) -> int:
    """Append the available bytes to `buffer` and return their number."""
    before = len(buffer)
    while len(buffer) - before <= STDOUT_LIMIT:
        try:
            piece = os.read(stream.fileno(), _READ_SIZE)
        except BlockingIOError:
            break
        if not piece:
            break
        buffer += piece
    return len(buffer) - before


def _ends_by(child: subprocess.Popen[bytes], deadline: float) -> bool:
    try:
        child.wait(max(0.0, deadline - monotonic()))
    except subprocess.TimeoutExpired:
        _kill(child)
        return False
    return True


def _kill(child: subprocess.Popen[bytes]) -> None:
    # The child is not reaped yet, so no other process can have its ID, which is also its group's.
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
