"""The replacement of the shim (shim/ratchet.c) in Python: it passes a call to the agent.

It is used if no shim was built for the machine. It has the shim's frames and answers and makes the patch panel, with
two differences. Each call starts Python, so there are few imports; those of failures are deferred. There is no spool:
if no agent takes a DEL, the daemonless plugin beside it does, or the DEL fails and the runtime retries.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from typing import NoReturn

from ratchet.agent.frame import (
    SOCKET,
    SPOOL,
    STDIN_MAX,
    VARIABLE_MAX,
    VARIABLES,
    FrameError,
    Reply,
    Request,
    encode_request,
    read_answer,
)
from ratchet.cni.budget import SHIM_SECONDS
from ratchet.cni.command import Command, read_command
from ratchet.errors import InvalidEnvironmentError, RatchetError, TryAgainError, UnavailableError, UndecodableError
from ratchet.node.process import process_began

DAEMONLESS = "ratchet-daemonless"  # the shim looks for this name in its own directory
# Seconds since the start of the process, as in the shim.
CONNECT_SECONDS = 5.0
RETRY_SECONDS = 0.005
_NEED_PANEL = (Command.ADD, Command.DEL, Command.STATUS)
HOW_TO_LOOK = "kubectl -n ratchet get pods -o wide; on the node: ss -xl | grep ratchet"


def run() -> NoReturn:
    """Serve the call in the environment and on stdin, and end the process."""
    _open_standard_descriptors()
    answer = _serve(process_began())
    os._exit(answer.status if _print(answer.stdout) else 1)


def _serve(began: float) -> Reply:
    try:
        command = read_command(os.environ)
        request = Request(_variables(), _stdin(), began)
    except RatchetError as error:
        return _failure(error)
    path = os.environ.get("RATCHET_AGENT_SOCKET") or SOCKET
    if command in _NEED_PANEL:
        _ensure_panel(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        try:
            _connect(agent, path, began + CONNECT_SECONDS)
        except OSError as error:
            why = f"cannot reach the node agent at {path}: {error.strerror or error}"
            return _without_agent(command, why + _become_daemonless(request.stdin))
        try:
            return _exchange(agent, encode_request(request), began + SHIM_SECONDS[command])
        except TimeoutError:
            cause = f"it did not come within {SHIM_SECONDS[command]} s"
        except (OSError, FrameError) as error:
            cause = str(error)
    # The agent has accepted the call, so the daemonless plugin must not serve it too.
    return _without_agent(command, f"cannot get an answer from the node agent at {path}: {cause}")


def _ensure_panel(agent: str) -> None:
    """Make sure that the patch panel has its name. A fault is printed, and the call goes on."""
    path = os.environ.get("RATCHET_PANEL")
    if path is None:
        from ratchet.core.panel import PANEL_PATH

        path = PANEL_PATH
    if not path or _is_namespace(path):
        return
    from ratchet.agent.client_panel import make_panel

    try:
        make_panel(path, agent, os.environ.get("RATCHET_AGENT_SPOOL") or SPOOL)
    except RatchetError as error:
        with suppress(OSError):
            os.write(2, f"ratchet: {error}\n".encode(errors="surrogateescape"))


def _is_namespace(path: str) -> bool:
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev  # noqa: PTH116
    except OSError:
        return False


def _variables() -> dict[str, str]:
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    for name, value in variables.items():
        if len(f"{name}={value}".encode(errors="surrogateescape")) > VARIABLE_MAX:
            raise InvalidEnvironmentError(f"cannot read {name}: it is longer than {VARIABLE_MAX} bytes")
    return variables


def _stdin() -> bytes:
    if os.isatty(0):
        return b""
    try:
        os.set_blocking(0, True)
        with os.fdopen(0, "rb", closefd=False) as file:
            stdin = file.read(STDIN_MAX + 1)
    except OSError as cause:
        raise RatchetError(f"cannot read the network configuration: {cause.strerror}") from cause
    if len(stdin) > STDIN_MAX:
        raise UndecodableError(f"cannot read the network configuration: it is longer than {STDIN_MAX} bytes")
    return stdin


def _connect(agent: socket.socket, path: str, until: float) -> None:
    agent.setblocking(False)
    while True:
        try:
            agent.connect(path)
        except BlockingIOError as full:  # the backlog is full
            if _since_boot() > until:
                raise OSError("too many calls wait for it already") from full
            time.sleep(RETRY_SECONDS)
        else:
            return


def _exchange(agent: socket.socket, frame: bytes, until: float) -> Reply:
    """Send a frame and read the answer.

    Raises FrameError, and OSError if there is no answer at `until`, in seconds since boot.
    """

    def read(most: int) -> bytes:
        agent.settimeout(max(until - _since_boot(), RETRY_SECONDS))
        with suppress(ConnectionResetError):
            if piece := agent.recv(most):
                return piece
        raise OSError("it went away before it had answered")

    agent.settimeout(max(until - _since_boot(), RETRY_SECONDS))
    # An agent that rejects the request early has answered nevertheless. Otherwise reading raises the cause.
    with suppress(BrokenPipeError, ConnectionResetError):
        agent.sendall(frame)
    return read_answer(read)


def _without_agent(command: Command, why: str) -> Reply:
    if command is Command.VERSION:
        from ratchet.cni.answer import version_json
        from ratchet.cni.versions import LATEST

        return _answer(0, version_json(LATEST))
    if command is Command.STATUS:
        return _failure(UnavailableError(why, details=HOW_TO_LOOK))
    if command is Command.DEL:
        why += "; the DEL is not kept for it, which needs the shim"
    return _failure(TryAgainError(why, details=HOW_TO_LOOK))


def _failure(error: RatchetError) -> Reply:
    from ratchet.cni.answer import error_json
    from ratchet.cni.versions import LATEST

    return _answer(1, error_json(error, LATEST))


def _answer(status: int, said: object) -> Reply:
    import json

    return Reply(status, json.dumps(said).encode() + b"\n")


def _become_daemonless(stdin: bytes) -> str:
    """Replace this process by the daemonless plugin beside it.

    Returns why it could not be started, or "" if there is none.
    """
    import signal
    from pathlib import Path

    path = Path(sys.argv[0]).resolve().with_name(DAEMONLESS)
    if not path.is_file() or not os.access(path, os.X_OK):
        return ""
    try:
        replay = os.memfd_create("stdin")
        with os.fdopen(replay, "wb", closefd=False) as file:
            file.write(stdin)
        os.lseek(replay, 0, os.SEEK_SET)
        os.dup2(replay, 0)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these signals, and an exec keeps that
            signal.signal(ignored, signal.SIG_DFL)
        os.execv(path, [str(path)])
    except OSError as cause:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        return f"; cannot run {path}: {cause.strerror}"


def _print(stdout: bytes) -> bool:
    """Write the answer to stdout, and return whether that succeeded."""
    try:
        os.set_blocking(1, True)
        with os.fdopen(1, "wb", closefd=False) as file:
            file.write(stdout)
    except OSError as cause:
        with suppress(OSError):
            os.write(2, f"ratchet: cannot write the answer: {cause.strerror}\n".encode())
        return False
    return True


def _open_standard_descriptors() -> None:
    """Open closed standard descriptors. Otherwise the socket could become stdout and get the answer."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
