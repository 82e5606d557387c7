"""What may be wanted of an end's interface besides its name and its addresses, and how that is written for people."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IFNAME = "IFNAME"  # in a sysctl's name, for the interface's

# A setting of an interface and its value: net.ipv4.conf.IFNAME.rp_filter, 2.
Sysctl = tuple[str, int]

RATE_UNITS = {"gbit": 10**9, "mbit": 10**6, "kbit": 10**3, "bit": 1}  # tc(8), "RATES"
KERNELS_METRIC = {4: 0, 6: 1024}  # of a route for which nobody says one, by IP version


@dataclass(frozen=True, slots=True)
class Route:
    """A route by way of an end: `via` is the next hop, None for what is on the link itself.

    `metric` None: the kernel's own, which is 0 for IPv4 and 1024 for IPv6.
    """

    to: IPv4Network | IPv6Network
    via: IPv4Address | IPv6Address | None = None
    metric: int | None = None

    def __str__(self) -> str:
        via = f" via {self.via}" if self.via is not None else ""
        return f"{self.to}{via}{f' metric {self.metric}' if self.metric is not None else ''}"


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What an end's interface is to be like; None, nothing or True where that is left to Ratchet or the kernel.

    `mtu` in bytes; `mac` as in 02:00:00:00:00:01; `txqlen` in packets; `sysctls` with IFNAME in their names for the
    interface's; `offloads` False: the kernel is to hand over every packet whole, with its checksum; `rate` in bits per
    second, of what the pod sends.
    """

    mtu: int | None = None
    mac: str | None = None
    txqlen: int | None = None
    routes: tuple[Route, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    offloads: bool = True
    rate: int | None = None


UNSET = EndpointSpec()


def rate_text(rate: int) -> str:
    """A rate of bits per second, in the largest unit that it is a whole number of."""
    unit, size = next((unit, size) for unit, size in RATE_UNITS.items() if rate % size == 0)
    return f"{rate // size}{unit}"
