"""The open connections of an HTTP server: how many there are, of which clients, and for how long."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Generic, TypeVar

Connection = TypeVar("Connection", bound=Hashable)

_SUBNET_BITS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of an HTTP server: connections in all and of one client, and seconds from a connection to its end."""

    in_all: int
    per_client: int
    seconds: float


class OpenConnections(Generic[Connection]):
    """The open connections of a server within its limits. Thread-safe. `clock` returns monotonic seconds."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[Connection, tuple[str, float]] = {}
        self._per_client = Counter[str]()

    def admit(self, connection: Connection, address: str) -> bool:
        """Add a connection from an IP address. False if the server or the client has too many."""
        client = client_of(address)
        with self._lock:
            if len(self._open) >= self._limits.in_all or self._per_client[client] >= self._limits.per_client:
                return False
            self._open[connection] = client, self._clock() + self._limits.seconds
            self._per_client[client] += 1
            return True

    def forget(self, connection: Connection) -> None:
        """Remove a connection, if it was admitted."""
        with self._lock:
            client, _ = self._open.pop(connection, ("", 0.0))
            self._per_client[client] -= 1
            if self._per_client[client] <= 0:
                del self._per_client[client]

    def overdue(self) -> list[Connection]:
        """The connections whose time is over."""
        now = self._clock()
        with self._lock:
            return [connection for connection, (_, until) in self._open.items() if now >= until]


def client_of(address: str) -> str:
    """The client that an IP address stands for: an IPv4 address, or an IPv6 subnet of 64 bits.

    One host may use all addresses of such a subnet (RFC 8981).
    """
    parsed: IPv4Address | IPv6Address = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> _SUBNET_BITS << _SUBNET_BITS))
