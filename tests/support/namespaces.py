"""Network namespaces for tests and benchmarks, with names of their own, removed at the end of a block.

The machine's own namespace is not changed, except that ip-netns(8) adds and deletes these namespaces.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

CAP_SYS_ADMIN = 21
CLONE_NEWNET = 0x40000000

_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def may_make_namespaces() -> bool:
    """Whether this process is root with CAP_SYS_ADMIN (capabilities(7))."""
    status = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return os.geteuid() == 0 and bool(effective >> CAP_SYS_ADMIN & 1)


class Bed:
    """Namespaces with short names ("pod-a", "node-1"). A context manager that removes them at its end."""

    def __init__(self) -> None:
        self._prefix = f"rt{os.getpid():x}n{next(_numbers)}-"
        self._names: list[str] = []

    def add(self, *names: str) -> None:
        """Add namespaces with `lo` up, as a container runtime does."""
        self._create(*names)
        for name in names:
            self.ip(name, "link", "set", "lo", "up")

    def attach(self, name: str, pid: int) -> None:
        """Add the network namespace of a process, with `lo` up."""
        _call("ip", "netns", "attach", self.name(name), str(pid))
        self._names.append(name)
        self.ip(name, "link", "set", "lo", "up")

    def adopt(self, name: str) -> None:
        """Count a namespace that the code under test has made at `path(name)` among these."""
        if name not in self._names:
            self._names.append(name)

    def delete(self, name: str) -> None:
        self._names.remove(name)
        _call("ip", "netns", "del", self.name(name))

    def name(self, name: str) -> str:
        return self._prefix + name

    def path(self, name: str) -> str:
        return f"/run/netns/{self.name(name)}"

    def ip(self, name: str, *arguments: str) -> str:
        """Run ip(8) in a namespace and return its stdout."""
        return _call("ip", "-n", self.name(name), *arguments)

    def show(self, name: str, ifname: str) -> dict[str, Any]:
        """An interface as in `ip -d -j addr show`; empty if it does not exist."""
        shown = json.loads(self.ip(name, "-d", "-j", "addr", "show"))
        found: list[dict[str, Any]] = [one for one in shown if one["ifname"] == ifname]
        return found[0] if found else {}

    def interfaces(self, name: str) -> list[str]:
        """The names of all interfaces except `lo`."""
        return [one["ifname"] for one in json.loads(self.ip(name, "-j", "link", "show")) if one["ifname"] != "lo"]

    def run(self, name: str, *command: str) -> str:
        """Run a command in a namespace and return its stdout. Raises AssertionError if it fails."""
        return _call("ip", "netns", "exec", self.name(name), *command)

    def pings(self, name: str, address: str) -> bool:
        """Whether an address answers one ping within three seconds.

        The kernel may join an IPv6 address's multicast group late. It then repeats the neighbour solicitation after a
        second.
        """
        command = ("ip", "netns", "exec", self.name(name), "ping", "-n", "-c", "1", "-W", "3", address)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Move the calling thread into a namespace for a block, so that code takes it for the node's own."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
            yield
        finally:
            _setns(home)
            os.close(there)
            os.close(home)

    def fabric(self, **nodes: str) -> None:
        """Add nodes on one Ethernet: each has `eth0` with its address ("10.9.0.1/24"). `fabric` is the switch."""
        self._create("fabric", *nodes)
        self._batch("fabric", "link set lo up", "link add br0 up type bridge")
        for number, (node, address) in enumerate(nodes.items()):
            self._batch(
                node,
                "link set lo up",
                f"link add eth0 type veth peer name port{number} netns {self.name('fabric')}",
                f"addr add {address} dev eth0 {'nodad' if ':' in address else ''}",
                "link set eth0 up",
            )
        self._batch("fabric", *(f"link set port{number} master br0 up" for number in range(len(nodes))))

    def _create(self, *names: str) -> None:
        _call("ip", "-batch", "-", stdin="\n".join(f"netns add {self.name(name)}" for name in names))
        self._names += names

    def _batch(self, name: str, *commands: str) -> None:
        """Run commands of ip(8) in a namespace."""
        _call("ip", "-n", self.name(name), "-batch", "-", stdin="\n".join(commands))

    def close(self) -> None:
        names, self._names = self._names, []
        _call("ip", "-batch", "-", stdin="\n".join(f"netns del {self.name(name)}" for name in names))
        left = [one.name for one in Path("/run/netns").glob(f"{self._prefix}*")]
        if left:
            raise AssertionError(f"namespaces left behind: {left}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _call(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, input=stdin)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
