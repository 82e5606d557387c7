"""Nodes as network namespaces on a switch. The machine's own network is not changed.

All namespaces are created with `ip`, have names with one prefix, and are removed with the context.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ratchet.errors import RatchetError

NETNS_DIR = Path("/run/netns")
SWITCH_ADDRESS = "192.168.1.1"


@dataclass(frozen=True, slots=True)
class Host:
    """A node: its name in the API, its network namespace, and its addresses on `eth0`.

    The first address is the VTEP.
    """

    name: str
    netns: str
    addresses: tuple[str, ...]

    @property
    def address(self) -> str:
        return self.addresses[0].partition("/")[0]

    @property
    def panel(self) -> str:
        """The name of the namespace that is this node's patch panel."""
        return f"{self.netns}-panel"

    def command(self, *argv: str) -> list[str]:
        """The command line that runs a command in this node's namespace."""
        return command_in(self.netns, *argv)


@dataclass(slots=True)
class Hosts:
    """A switch, its nodes and the namespaces of their pods.

    A context manager that removes them at its end.
    """

    prefix: str = field(default_factory=lambda: f"rt{secrets.token_hex(3)}-")
    made: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        try:
            self.add_namespace(
                "switch",
                "link add br0 type bridge",
                f"addr add {SWITCH_ADDRESS}/24 dev br0 nodad",
                "addr add fd00:1::1/64 dev br0 nodad",
                "link set br0 up",
            )
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    @property
    def switch(self) -> str:
        """The namespace of the switch, which every node reaches. The API server listens there."""
        return f"{self.prefix}switch"

    def add_node(self, name: str, *addresses: str, mtu: int = 1500) -> Host:
        """Create a node with `eth0` on the switch. Addresses have prefix lengths."""
        port = f"p{len(self.made) + 1}"
        netns = self.add_namespace(
            name,
            f"link add eth0 mtu {mtu} type veth peer name {port} netns {self.switch} mtu {mtu}",
            *(f"addr add {address} dev eth0 nodad" for address in addresses),
            "link set eth0 up",
            f"route add default via {SWITCH_ADDRESS}",
        )
        ip("-n", self.switch, "link", "set", port, "master", "br0", "up")
        return Host(name, netns, addresses)

    def add_namespace(self, name: str, *commands: str) -> str:
        """Create a namespace with loopback up, run commands of `ip` in it, and return its full name."""
        full = f"{self.prefix}{name}"
        ip("netns", "add", full)
        self.made.append(full)
        _output(["ip", "-n", full, "-batch", "-"], "\n".join(("link set lo up", *commands)))
        return full

    def adopt_namespace(self, full: str) -> str:
        """Count a namespace that another program creates among these. Returns its path."""
        if full not in self.made:
            self.made.append(full)
        return netns_path(full)

    def remove_namespace(self, full: str) -> None:
        """Remove a namespace if it exists."""
        remove_namespace(full)
        if full in self.made:
            self.made.remove(full)

    def remove(self) -> None:
        """Remove all namespaces, the pods first, so that no tunnel outlives its node."""
        for full in reversed(self.made.copy()):
            self.remove_namespace(full)


def namespaces_under(prefix: str) -> list[str]:
    """The names of all namespaces with a prefix."""
    return sorted(path.name for path in NETNS_DIR.glob(f"{prefix}*"))


def remove_namespace(full: str) -> None:
    """Remove a namespace if it exists."""
    subprocess.run(["ip", "netns", "del", full], check=False, capture_output=True)


def netns_path(full: str) -> str:
    return str(NETNS_DIR / full)


def command_in(netns: str, *argv: str) -> list[str]:
    """The command line that runs a command in a namespace. Not `ip netns exec`, which remounts /sys."""
    return ["nsenter", f"--net={netns_path(netns)}", "--", *argv]


def run_in(netns: str, *argv: str) -> str:
    """Run a command in a namespace and return its stdout. Raises RatchetError with its stderr."""
    return _output(command_in(netns, *argv))


def ip(*argv: str) -> str:
    """Run `ip` and return its stdout. Raises RatchetError with its stderr."""
    return _output(["ip", *argv])


def _output(command: Sequence[str], stdin: str | None = None) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, input=stdin)
    except FileNotFoundError as missing:
        raise RatchetError(f"cannot run {command[0]}: it is not installed (iproute2, util-linux)") from missing
    if done.returncode != 0:
        complaint = (done.stderr or done.stdout).strip()
        raise RatchetError(f"cannot run {' '.join(command)}: {complaint or f'exit status {done.returncode}'}")
    return done.stdout
