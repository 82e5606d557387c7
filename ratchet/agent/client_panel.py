"""The patch panel in the replacement of the shim, which makes it before it hands a call over, as the shim does.

Imported only while the panel has no name.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path

from ratchet.agent.frame import HEADER_BYTES, PANEL_REQUEST, FrameError, read_answer
from ratchet.datapath.netns import Netns
from ratchet.datapath.panel.namespace import Panel, ensure_panel
from ratchet.datapath.rtnetlink import Channel
from ratchet.errors import DatapathError, RatchetError

ANSWER_SECONDS = 2.0
_ANSWER_BYTES = 1 << 16


def make_panel(path: str, agent: str, spool: str) -> None:
    """Give `path` to the panel that the agent has open, or to a new one.

    `agent` is the path of its socket, `spool` a folder in the state directory. Raises RatchetError.
    """
    state_dir = Path(spool).parent
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatapathError(f"cannot make patch panel {path}: cannot lock {state_dir}: {error.strerror}") from error
    with ExitStack() as stack:
        try:
            held = _panel_of(agent, path, stack)
        except (OSError, RatchetError) as error:
            raise DatapathError(
                f"cannot make patch panel {path}: cannot ask the node agent at {agent} for the panel that it has open: "
                f"{getattr(error, 'strerror', None) or error}"
            ) from error
        ensure_panel(str(state_dir), path, held).close()


def _panel_of(agent: str, path: str, stack: ExitStack) -> Panel | None:
    """The panel that the agent has open; None if it has none. Raises OSError and RatchetError if that is unknown."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(ANSWER_SECONDS)
        try:
            asking.connect(agent)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        with suppress(BrokenPipeError, ConnectionResetError):
            asking.sendall(PANEL_REQUEST)
        try:
            answer, descriptors, flags, _ = socket.recv_fds(asking, _ANSWER_BYTES, 1)
        except ConnectionResetError:
            return None
    if len(answer) < HEADER_BYTES:  # the agent has ended, or does not know the request and has no panel
        return None
    opened = [stack.enter_context(Netns(path, descriptor)) for descriptor in descriptors]
    if flags & socket.MSG_CTRUNC:
        raise FrameError("its descriptor could not be received")
    read_answer(BytesIO(answer).read)
    if not opened:
        return None
    with Channel(opened[0]) as channel:
        return Panel(opened[0], channel.cookie())
