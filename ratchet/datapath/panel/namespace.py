"""The namespace of the patch panel: create it, open it, give it its name back.

The mark of ownership is the alias of its `lo`. It is set before the namespace gets its name, `ip link` shows it, and it
lasts as long as the namespace, because `lo` cannot be deleted.

The name is a bind mount, as ip-netns(8) makes it. Only a process that sees the node's mounts can make it: in a
container, the mount would be the container's own. A process that is killed between creating the file and the mount
leaves an empty file, over which the next one mounts.

IPv6 and IPv4 forwarding are disabled before the namespace has its name. Otherwise panel ends would send multicast
listener reports into pods.

The agent cannot make the name: the shim does (shim/ratchet.c), which has the same steps in C. The agent keeps its panel
open (`hold_panel`), so the panel outlives its name, and no other one can take its place unnoticed.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ratchet.core.panel import PANEL_MARK, PANEL_PATH
from ratchet.datapath import messages, sysctl
from ratchet.datapath.message_classes import ifinfmsg
from ratchet.datapath.netns import CLONE_NEWNET, OWN, Netns, open_netns, refuse_host
from ratchet.datapath.nlattr import HEADER, IFINFOMSG, Reading
from ratchet.datapath.rtnetlink import Channel
from ratchet.errors import DatapathError, ForeignNamespaceError, NamespaceGoneError

LOOPBACK_INDEX = 1
MS_BIND = 0x1000

# The panels that this process holds, by path. The lock is for changes.
_held: dict[str, Panel] = {}
_holding = threading.Lock()
# Idle channels in the held panels, by cookie. A new one for each call costs a setns and a socket.
_idle: dict[int, list[Channel]] = {}
IDLE_CHANNELS = 16

_ALIAS = Reading(ifinfmsg, "IFLA_IFALIAS")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Panel:
    """An open patch panel and context manager that closes it. `cookie` is its identity within one boot."""

    netns: Netns
    cookie: int

    def close(self) -> None:
        self.netns.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def hold_panel(path: str) -> Panel | None:
    """The panel at `path` that this process holds. If it holds none, open the panel and hold it from now on.

    None if there is no panel yet. Do not close the result. Raises as `ensure_panel`.
    """
    with _holding:
        if path not in _held and (panel := _opened(path)) is not None:
            _held[path] = panel
            if panel.cookie:  # without it (before Linux 5.14) panels are not told apart
                _idle[panel.cookie] = []
        return _held.get(path)


def release_panel(path: str) -> None:
    """Close the panel that this process holds for `path`."""
    with _holding:
        if panel := _held.pop(path, None):
            panel.close()
            for channel in _idle.pop(panel.cookie, []):
                channel.close()


@contextmanager
def panel_channel(panel: Panel) -> Iterator[Channel]:
    """A channel in an open panel for a block. If this process holds the panel, it is kept open for later calls.

    One whose block fails is closed: replies to it may be under way.
    """
    idle = _idle.get(panel.cookie)
    if idle is None:
        with Channel(panel.netns) as channel:
            yield channel
        return
    try:
        channel = idle.pop()
    except IndexError:
        channel = Channel(panel.netns)
    try:
        yield channel
    except BaseException:
        channel.close()
        raise
    with _holding:
        if _idle.get(panel.cookie) is idle and len(idle) < IDLE_CHANNELS:
            idle.append(channel)
        else:
            channel.close()


def has_name(held: Panel) -> bool:
    """Whether a panel that this process holds still has its path. False if nothing has it.

    Raises as `ensure_panel` if something else has it.
    """
    path = held.netns.path
    with suppress(NamespaceGoneError), open_netns(path) as netns:
        if netns.is_same_as(held.netns):
            return True
    found = _opened(path)
    if found is None:
        return False
    found.close()
    raise _another_panel(path)


def open_panel(path: str = PANEL_PATH, cookie: int = 0) -> Panel:
    """Open the panel at `path`; with `cookie`, only the panel that has this cookie.

    If this process holds a panel of this path, it is the only one that can be opened, also while nothing has the path.

    Raises NamespaceGoneError if there is no namespace or another panel, ForeignNamespaceError if the namespace is not
    Ratchet's or not the held panel, HostNamespaceError if it is the node's own.
    """
    held = _held.get(path)
    panel = _open_at(path) if held is None else _open_held(held)
    if cookie and panel.cookie != cookie:
        panel.close()
        raise NamespaceGoneError(f"cannot use patch panel {path}: another panel has this path now", path=path)
    return panel


def _open_held(held: Panel) -> Panel:
    """Another descriptor of a held panel. Raises ForeignNamespaceError if another namespace has its path."""
    path = held.netns.path
    try:
        netns = open_netns(path)
    except NamespaceGoneError:
        return Panel(Netns(path, os.dup(held.netns.fd)), held.cookie)
    if netns.is_same_as(held.netns):
        return Panel(netns, held.cookie)
    netns.close()
    raise _another_panel(path)


def _open_at(path: str) -> Panel:
    """Open the panel at `path`, of which this process holds none."""
    netns = open_netns(path)
    try:
        refuse_host(netns)
        with Channel(netns) as channel:
            if not _is_marked(channel):
                raise ForeignNamespaceError(
                    f"cannot use network namespace {path}: it is not Ratchet's",
                    path=path,
                    details="Delete or rename the namespace (ip netns del). Ratchet needs this name for its own.",
                )
            return Panel(netns, channel.cookie())
    except BaseException:
        netns.close()
        raise


def _another_panel(path: str) -> ForeignNamespaceError:
    return ForeignNamespaceError(
        f"cannot use patch panel {path}: it is not the one that this process has open",
        path=path,
        details="Both panels have cables. Delete the one at this path (ip netns del) to get the other one back.",
    )


def ensure_panel(lock: str, path: str = PANEL_PATH, held: Panel | None = None) -> Panel:
    """Open the panel at `path`. If there is none, give its name to the panel `held`, or create one.

    `lock` is an existing folder that only root can open: a flock(2) on it excludes other processes and threads.
    `held` is a panel that the caller has open: if only its name is gone, nothing in it changes.

    Raises ForeignNamespaceError if something else has the path, or another panel than `held`; HostNamespaceError if it
    is the node's own namespace; DatapathError with the kernel's reason.
    """
    panel = _opened(path)
    if panel is None:
        with _locked(lock):
            panel = _opened(path)
            if panel is None:
                _name(path, held)
                panel = _open_at(path)
    if held is not None and panel.cookie != held.cookie:
        panel.close()
        raise _another_panel(path)
    return panel


def _opened(path: str) -> Panel | None:
    """The panel at `path`; None if there is nothing, or the empty file of a process that was killed."""
    try:
        return _open_at(path)
    except NamespaceGoneError as error:
        try:
            status = os.lstat(path)
            is_mounted = status.st_dev != Path(path).parent.stat().st_dev
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise DatapathError(f"cannot look at {path}: {fault.strerror}") from error
        if stat.S_ISREG(status.st_mode) and status.st_size == 0 and not is_mounted:
            return None
        raise ForeignNamespaceError(
            f"cannot make patch panel {path}: it exists and is not a network namespace",
            path=path,
            details="Remove it. Ratchet needs this name for its own.",
        ) from error


def _name(path: str, held: Panel | None) -> None:
    """Give `path` to the panel `held`, or to a new one."""
    try:
        Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o444))
        try:
            if held is not None:
                _bind(f"/proc/self/fd/{held.netns.fd}", path)
            else:
                _in_own_thread(lambda: _create(path))
        except BaseException:
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108  # under the lock, so it is the file from above
            raise
    except OSError as error:
        raise DatapathError(f"cannot make patch panel {path}: {error.strerror}") from error


def _create(path: str) -> None:
    """Create the namespace, in a thread that ends with this call: it never leaves the namespace."""
    _checked(_libc.unshare(CLONE_NEWNET))
    sysctl.disable_ipv6_and_forwarding()
    with Channel() as channel:
        channel.do(messages.brought_up(LOOPBACK_INDEX, PANEL_MARK.partition("/")[2]))
    _bind(OWN, path)


def _in_own_thread(do: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as helper:
        helper.submit(do).result()


def _bind(source: str, path: str) -> None:
    _checked(_libc.mount(source.encode(), path.encode(), None, ctypes.c_ulong(MS_BIND), None))


def _checked(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DatapathError(f"cannot lock {folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_marked(channel: Channel) -> bool:
    (answer,) = channel.do(messages.link_named("lo"))
    return _ALIAS.read(answer.messages[0], HEADER.size + IFINFOMSG.size).get("IFLA_IFALIAS") == PANEL_MARK
