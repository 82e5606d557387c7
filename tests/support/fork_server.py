"""A process that has imported the plugin and the agent, and forks for each start: `python -I fork_server.py FD`.

FD is a Unix socket of type SOCK_SEQPACKET. A request is a JSON object, `{"script", "arguments", "netns", "environ"}`,
with four file descriptors: the process's stdin, stdout and stderr, and a pipe. The server writes the process's pid to
the pipe, and later its exit status, a line each. It ends when the socket is closed.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ratchet.datapath.netns import CLONE_NEWNET, _libc

PACKAGES = ("ratchet.core", "ratchet.cni", "ratchet.store", "ratchet.datapath", "ratchet.node", "ratchet.agent")
COMMAND = ("ratchet.cli.main", "ratchet.cli.agent")
DESCRIPTORS = 4
MESSAGE_MAX = 1 << 17


def serve(channel: socket.socket) -> None:
    """Fork a process for each request until the channel is closed."""
    import_programs()
    pipes: dict[int, int] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if woken in ready:
                os.read(woken, 4096)
                report_ended(pipes)
            if channel in ready:
                message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_MAX, DESCRIPTORS)
                if not message:
                    return
                fork(json.loads(message), descriptors, pipes)


def import_programs() -> None:
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(module.name)
    for name in COMMAND:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector of a process must not copy the pages of these objects


def fork(request: dict[str, Any], descriptors: list[int], pipes: dict[int, int]) -> None:
    *streams, pipe = descriptors
    pid = os.fork()
    if pid == 0:
        run(request, streams)
    for descriptor in streams:
        os.close(descriptor)
    pipes[pid] = pipe
    os.write(pipe, f"{pid}\n".encode())


def run(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """Run the script in the forked process, as the kernel would start it."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if request["netns"] is not None:
            enter(request["netns"])
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        os.closerange(len(streams), os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(request["environ"])
        script = Path(request["script"])
        sys.argv = [str(script), *request["arguments"]]
        exec(compile(script.read_text(), script, "exec"), {"__name__": "__main__"})
    except BaseException:  # noqa: BLE001  # the process ends here
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)  # the plugin and the agent end their processes themselves


def enter(netns: str) -> None:
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(f"cannot enter {netns}")
    os.close(descriptor)


def report_ended(pipes: dict[int, int]) -> None:
    while pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = pipes.pop(pid)
        with suppress(BrokenPipeError):  # nobody waits for it
            os.write(pipe, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os.close(pipe)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
