"""Sysctls of an interface under /proc/sys/net, in the calling thread's network namespace."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ratchet.core.endpoint_spec import IFNAME, Sysctl

# In a container /proc/sys is read-only, so the host's is mounted too. Both show the opening thread's namespace.
_DEFAULT = "default"  # the settings of new interfaces, in the place of an interface's name
MOUNTED = "/host/proc/sys/net"
_SETTINGS = "/host/proc/sys" if Path(MOUNTED).is_dir() else "/proc/sys"


def ignore_router_advertisements(ifname: str) -> None:
    """Ignore router advertisements on an interface. Raises OSError, FileNotFoundError if it has no IPv6."""
    _write(f"net.ipv6.conf.{IFNAME}.accept_ra", ifname, "0")


def disable_ipv6_and_forwarding() -> None:
    """Disable IPv6 and the forwarding of IPv4 in the whole namespace. Raises OSError."""
    for name in ("net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6"):
        with suppress(FileNotFoundError):  # the kernel has no IPv6
            _write(name, "", "1")
    _write("net.ipv4.ip_forward", "", "0")


def write_sysctl(ifname: str, sysctl: Sysctl) -> None:
    """Set a sysctl of an interface. Raises OSError, FileNotFoundError if the kernel does not have it."""
    name, value = sysctl
    _write(name, ifname, str(value))


def reset_sysctl(ifname: str, name: str) -> None:
    """Give a sysctl of an interface the value of a new interface. Raises OSError."""
    _write(name, ifname, Path(_path(name, _DEFAULT)).read_text())


def stale_sysctls(ifname: str, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the named sysctls that have another value than a new interface. Raises OSError."""
    names = tuple(names)
    new = dict(read_sysctls(_DEFAULT, names))
    return tuple(name for name, value in read_sysctls(ifname, names) if new.get(name, value) != value)


def read_sysctls(ifname: str, names: Iterable[str]) -> tuple[Sysctl, ...]:
    """The named sysctls that the kernel has, with their current values."""
    found = []
    for name in names:
        try:
            found.append((name, int(Path(_path(name, ifname)).read_text())))
        except FileNotFoundError:
            continue
    return tuple(found)


def _path(name: str, ifname: str) -> str:
    # The interface name itself may contain dots.
    return "/".join((_SETTINGS, *(ifname if part == IFNAME else part for part in name.split("."))))


def _write(name: str, ifname: str, value: str) -> None:
    fd = os.open(_path(name, ifname), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
