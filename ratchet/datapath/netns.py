"""Network namespaces by descriptor: opened once, verified to be one, entered briefly by one thread.

Nothing here forks, and no descriptor outlives the call that opened it. An open socket in a pod's namespace would keep
the namespace and its links alive after the pod is gone.
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

# The calling thread's namespace, not the process's: a thread that has entered a namespace acts there.
OWN = "/proc/thread-self/ns/net"

# Errors of this process that prove nothing about the namespace: it may exist and must not be treated as gone.
_OURS_TO_BLAME = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EINTR})

_libc = ctypes.CDLL(None, use_errno=True)


class Netns:
    """An open network namespace and context manager that closes it.

    `path` is only for messages; all operations use `fd`.
    """

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

    Raises NamespaceGoneError if nothing is there or it is no network namespace. Raises DatapathError if this process
    lacks permission or resources.
    """
    try:
        # O_NONBLOCK: a path that is a FIFO must not block us.
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
    """The calling thread's namespace, which is the node's for the plugin."""
    return Netns(OWN, os.open(OWN, os.O_RDONLY | os.O_CLOEXEC))


def is_host(netns: Netns) -> bool:
    """Whether this is the caller's own namespace."""
    own = os.stat(OWN)  # noqa: PTH116
    return netns.identity == (own.st_dev, own.st_ino)


def refuse_host(netns: Netns) -> None:
    """Raise HostNamespaceError for the caller's own namespace: links exist in pods, never in the node."""
    if is_host(netns):
        raise HostNamespaceError(
            f"cannot act in network namespace {netns.path}: it is the node's own",
            details="A pod with hostNetwork: true cannot have links.",
        )


@contextmanager
def inside(netns: Netns) -> Iterator[None]:
    """Move the calling thread, and no other, into `netns` for the block (setns(2)).

    If the thread cannot return, the process aborts. To continue in a pod's namespace as if it were the node's would do
    more harm.
    """
    with own_netns() as home:
        left = False
        try:
            # Set first, so that an interrupt between the call and the next line still returns the thread.
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
    # The ioctl number may mean something else to other kinds of files, so the file system is checked first.
    if os.fstat(fd).st_dev != _file_system_of_namespaces():
        return False
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


@cache
def _file_system_of_namespaces() -> int:
    """The device number of nsfs, constant while the kernel runs (fs/nsfs.c)."""
    return os.stat(OWN).st_dev  # noqa: PTH116


def _cause(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
