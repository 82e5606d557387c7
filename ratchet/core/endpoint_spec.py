"""Declared settings of an end's interface besides its name, and their text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from ratchet.core.packed import Packed

Address = IPv4Interface | IPv6Interface

IFNAME = "IFNAME"  # the interface's name in a sysctl's name

# A setting of an interface and its value: net.ipv4.conf.IFNAME.rp_filter, 2.
Sysctl = tuple[str, int]

RATE_UNITS = {"gbit": 10**9, "mbit": 10**6, "kbit": 10**3, "bit": 1}  # tc(8), "RATES"
KERNELS_METRIC = {4: 0, 6: 1024}  # of a route without a declared metric, by IP version


@dataclass(frozen=True, slots=True)
class Route:
    """A route through an end's interface. `via` is the next hop; None: the network is on the link.

    `metric` None: the kernel's default (KERNELS_METRIC).
    """

    to: IPv4Network | IPv6Network
    via: IPv4Address | IPv6Address | None = None
    metric: int | None = None

    def __str__(self) -> str:
        via = f" via {self.via}" if self.via is not None else ""
        return f"{self.to}{via}{f' metric {self.metric}' if self.metric is not None else ''}"

    @classmethod
    def parse(cls, text: str) -> Route:
        """The route that `str` has written. Raises ValueError, also for a metric that is not a number."""
        match text.split(" "):
            case [to]:
                return cls(ip_network(to))
            case [to, "via", via]:
                return cls(ip_network(to), ip_address(via))
            case [to, "metric", metric]:
                return cls(ip_network(to), None, int(metric))
            case [to, "via", via, "metric", metric]:
                return cls(ip_network(to), ip_address(via), int(metric))
        raise ValueError("not '<network> via <address> metric <number>'")


class PackedAddresses(Packed[Address]):
    """Addresses of an end. One of each family, as most ends have, are kept as they are."""

    __slots__ = ()
    LEAST = 3

    @staticmethod
    def to_text(item: Address) -> str:
        return str(item)

    @staticmethod
    def from_text(text: str) -> Address:
        return ip_interface(text)


class PackedRoutes(Packed[Route]):
    """Routes of an end."""

    __slots__ = ()

    @staticmethod
    def to_text(item: Route) -> str:
        return str(item)

    @staticmethod
    def from_text(text: str) -> Route:
        return Route.parse(text)


class PackedSysctls(Packed[Sysctl]):
    """Sysctls of an end."""

    __slots__ = ()

    @staticmethod
    def to_text(item: Sysctl) -> str:
        return f"{item[0]}={item[1]}"

    @staticmethod
    def from_text(text: str) -> Sysctl:
        name, _, value = text.partition("=")
        return name, int(value)


class EndState(StrEnum):
    """What the link does with what the pod of an end sends.

    UP: it carries it. CUT: it drops it, and both ends keep their carrier, as with one broken fibre. DOWN: neither end
    has carrier. A link is down at both ends.
    """

    UP = "up"
    CUT = "cut"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """The declared settings of an end's interface. The default of each leaves it to Ratchet or the kernel.

    `mtu` is in bytes, `mac` as in 02:00:00:00:00:01, `txqlen` in packets. The names of `sysctls` have IFNAME for the
    interface's name. `offloads` False: the kernel passes each packet whole and with its checksum. `rate` limits what
    the pod sends, in bits per second. `state` other than UP needs panel wiring.
    """

    mtu: int | None = None
    mac: str | None = None
    txqlen: int | None = None
    routes: Sequence[Route] = ()
    sysctls: Sequence[Sysctl] = ()
    offloads: bool = True
    rate: int | None = None
    state: EndState = EndState.UP

    def __post_init__(self) -> None:
        object.__setattr__(self, "routes", PackedRoutes.of(self.routes))
        object.__setattr__(self, "sysctls", PackedSysctls.of(self.sysctls))


UNSET = EndpointSpec()
# The settings, besides sysctls, that an interface keeps when a declaration does not set them any more.
LASTING = ("mac", "txqlen", "offloads")


def resets(before: EndpointSpec, after: EndpointSpec, earlier: Iterable[str] = ()) -> tuple[str, ...]:
    """What an interface made for `before` keeps although `after` does not set it: LASTING, and names of sysctls.

    The MAC address is named if it was declared or is declared otherwise. `earlier` are the resets that were not done
    when `before` was declared.
    """
    found = {*earlier, *(name for name, _ in before.sysctls)}
    found |= {field for field in LASTING if getattr(before, field) != getattr(after, field)}
    found -= {name for name, _ in after.sysctls}
    if after.txqlen is not None:
        found.discard("txqlen")
    if not after.offloads:
        found.discard("offloads")
    return tuple(sorted(found))


def rate_text(rate: int) -> str:
    """A rate in bits per second, in the largest unit of which it is a whole number."""
    unit, size = next((unit, size) for unit, size in RATE_UNITS.items() if rate % size == 0)
    return f"{rate // size}{unit}"
