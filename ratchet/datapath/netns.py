"""Network namespaces by descriptor: opened once, proven to be one, entered by one thread for a moment.

Nothing here forks, and no descriptor outlives the call that opened it: an open socket in a pod's namespace would keep
the namespace, and the links in it, alive after the pod is gone.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import Self

from ratchet.errors import DatapathError, HostNamespaceError, NamespaceGoneError

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)

# The calling thread's, not the process's: a thread that has entered a namespace acts there.
OWN = "/proc/thread-self/ns/net"

# Failures that say nothing of the namespace itself: it may well be there, and must not be taken for gone.
_OURS_TO_BLAME = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EINTR})

_libc = ctypes.CDLL(None, use_errno=True)


class Netns:
    """An open network namespace; `path` is only for messages, every act uses `fd`. A context manager that closes it."""

    __slots__ = ("fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode, the same for every descriptor of one namespace (namespaces(7))."""
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino

    def is_same_as(self, other: Netns) -> bool:
        return self.identity == other.identity

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_netns(path: str) -> Netns:
    """Open the network namespace at `path`.

    Raises NamespaceGoneError where nothing is there or what is there is no network namespace, DatapathError where
    the process may not or cannot open anything at all now.
    """
    try:
        # O_NONBLOCK: a path that is a FIFO must not hold us.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        message = f"cannot open network namespace {path}: {_cause(error)}"
        if isinstance(error, OSError) and error.errno in _OURS_TO_BLAME:
            raise DatapathError(message) from error
        raise NamespaceGoneError(message, path=path) from error
    if not _is_network_namespace(fd):
        os.close(fd)
        raise NamespaceGoneError(f"cannot open network namespace {path}: not a network namespace", path=path)
    return Netns(path, fd)


def own_netns() -> Netns:
    """The namespace that the calling thread is in: for the plugin, the node's."""
    return Netns(OWN, os.open(OWN, os.O_RDONLY | os.O_CLOEXEC))


def is_host(netns: Netns) -> bool:
    """Whether this is the namespace that the caller itself is in."""
    own = os.stat(OWN)  # noqa: PTH116
    return netns.identity == (own.st_dev, own.st_ino)


def refuse_host(netns: Netns) -> None:
    """Raise HostNamespaceError for the caller's own namespace: links are made in pods, never in the node."""
    if is_host(netns):
        raise HostNamespaceError(
            f"cannot act in network namespace {netns.path}: it is the node's own",
            details="A pod with hostNetwork: true cannot have links.",
        )


@contextmanager
def inside(netns: Netns) -> Iterator[None]:
    """Have the calling thread, and no other, in `netns` for the length of the block (setns(2)).

    Should the way back fail, the process aborts: to go on in a pod's namespace, believing it to be the node's, would
    do more harm than to die.
    """
    with own_netns() as home:
        left = False
        try:
            # Set first: an interrupt that lands between the call and the next line must still lead home.
            left = True
            try:
                _setns(netns.fd)
            except OSError as error:
                left = False
                raise DatapathError(f"cannot enter network namespace {netns.path}: {_cause(error)}") from error
            yield
        finally:
            if left:
                _return_to(home)


def _return_to(home: Netns) -> None:
    try:
        _setns(home.fd)
    except OSError:
        os.abort()


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _is_network_namespace(fd: int) -> bool:
    # The ioctl's number may mean something else to another kind of file, so the file system is asked first.
    if os.fstat(fd).st_dev != _file_system_of_namespaces():
        return False
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


@cache
def _file_system_of_namespaces() -> int:
    """There is one for as long as the kernel runs (fs/nsfs.c)."""
    return os.stat(OWN).st_dev  # noqa: PTH116


def _cause(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
