"""Validation of tenants' values: each function parses one text, or raises ValueError with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from ipaddress import IPv4Interface, ip_address, ip_interface, ip_network
from typing import TypeVar

from ratchet.core.endpoint_spec import KERNELS_METRIC, RATE_UNITS, Address, Route, Sysctl
from ratchet.core.escape import excerpt
from ratchet.core.kinds import Wiring
from ratchet.core.sysctls import why_not

Parsed = TypeVar("Parsed")

ADDRESSES_MAX = 16
MTU_LEAST, MTU_MOST = 68, 65535  # RFC 791, section 3.2; what a vEth takes at most (drivers/net/veth.c)
MTU_LEAST_IPV6 = 1280  # RFC 8200, section 5
TXQLEN_MOST = 1_000_000  # packets
ROUTES_MAX = SYSCTLS_MAX = 64  # of an end
METRIC_MOST = (1 << 32) - 1
RATE_LEAST, RATE_MOST = 8_000, 10**12  # bits per second
PORT_MOST = 65535
_DEFAULT_PREFIX = {4: 24, 6: 64}
_IFNAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?")
_NUMBER = re.compile(r"[0-9]{1,9}")
_SETTING = re.compile(r"-?[0-9]{1,9}")
_RATE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([kmg]?bit)", re.IGNORECASE)
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def pod_name(value: str) -> str:
    """The name of a pod in a declaration."""
    if not _NAME.fullmatch(value):
        raise ValueError(f'invalid name "{excerpt(value)}"')
    return value


def interface_name(value: str, reserved: Collection[str]) -> str:
    """The name of a link's interface; none of `reserved`."""
    if not _IFNAME.fullmatch(value):
        raise ValueError(
            f'invalid interface name "{excerpt(value)}": expected A-Z a-z, then up to 14 of these, 0-9 _ . -'
        )
    if value in reserved:
        raise ValueError(f"interface name {value} is reserved for the runtime")
    if value in ("all", "default"):
        raise ValueError(f"interface name {value} is reserved by the kernel")
    return value


def addresses(words: Sequence[str], prefix: int | None = None) -> tuple[Address, ...]:
    """The addresses of an end. `prefix` is for addresses without one; None: 24, for IPv6 64."""
    if len(words) > ADDRESSES_MAX:
        raise ValueError(f"too many addresses: {len(words)}, at most {ADDRESSES_MAX}")
    found = tuple(_address(word, prefix) for word in words)
    if len({address.ip for address in found}) < len(found):
        raise ValueError("duplicate address")
    return found


def prefix_length(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", value) or not 1 <= int(value) <= 128:
        raise ValueError(f'invalid prefix length "{excerpt(value)}": expected a number from 1 to 128')
    return int(value)


def mtu(value: str, having: Collection[Address]) -> int:
    """An MTU in bytes for an end that has these addresses."""
    number = int(value) if _NUMBER.fullmatch(value) else 0
    if not MTU_LEAST <= number <= MTU_MOST:
        raise ValueError(f'invalid MTU "{excerpt(value)}": expected bytes from {MTU_LEAST} to {MTU_MOST}')
    if number < MTU_LEAST_IPV6 and any(address.version == 6 for address in having):
        raise ValueError(f"{number} is too small for IPv6, which needs {MTU_LEAST_IPV6} bytes")
    return number


def mac(value: str) -> str:
    """A MAC address for one interface, in lower case."""
    if not _MAC.fullmatch(value):
        raise ValueError(f'invalid MAC address "{excerpt(value)}": expected a form such as 02:00:00:00:00:01')
    if int(value[:2], 16) & 1 or not int(value.replace(":", ""), 16):
        raise ValueError(f"MAC address {value.lower()} is multicast or zero")
    return value.lower()


def txqlen(value: str) -> int:
    """The length of a transmit queue, in packets."""
    if not _NUMBER.fullmatch(value) or int(value) > TXQLEN_MOST:
        raise ValueError(f'invalid txqlen "{excerpt(value)}": expected packets from 0 to {TXQLEN_MOST}')
    return int(value)


def offloads(value: str) -> bool:
    """Whether the kernel may offload checksums and segmentation."""
    if value.lower() not in ("off", "on", "false", "true"):
        raise ValueError(f'invalid value "{excerpt(value)}": expected on or off')
    return value.lower() in ("on", "true")


def rate(value: str) -> int:
    """A rate, in bits per second."""
    found = _RATE.fullmatch(value)
    bits = Decimal(found[1]) * RATE_UNITS[found[2].lower()] if found else Decimal(0)
    if not RATE_LEAST <= bits <= RATE_MOST or bits != int(bits):
        raise ValueError(
            f'invalid rate "{excerpt(value)}": expected a number and a unit, such as 100mbit, from 8kbit to 1000gbit'
        )
    return int(bits)


def tunnel(value: str) -> bool:
    """Whether a link is a tunnel also if both ends are on one node."""
    if value not in ("auto", "vxlan"):
        raise ValueError(f'invalid kind "{excerpt(value)}": expected auto or vxlan')
    return value == "vxlan"


def wiring(value: str) -> Wiring:
    """The wiring of a link."""
    if value not in tuple(Wiring):
        raise ValueError(f'invalid wiring "{excerpt(value)}": expected {" or ".join(Wiring)}')
    return Wiring(value)


def on_edit(value: str) -> bool:
    """Whether running pods follow edits of a link."""
    if value not in ("live", "restart"):
        raise ValueError(f'invalid on_edit "{excerpt(value)}": expected live or restart')
    return value == "live"


def is_up(value: str) -> bool:
    """Whether a link, or a direction of it, is up."""
    if value not in ("up", "down"):
        raise ValueError(f'invalid state "{excerpt(value)}": expected up or down')
    return value == "up"


def port(value: str) -> int:
    """A UDP port."""
    if not _NUMBER.fullmatch(value) or not 1 <= int(value) <= PORT_MOST:
        raise ValueError(f'invalid UDP port "{excerpt(value)}": expected a number from 1 to {PORT_MOST}')
    return int(value)


def sysctl(name: str, value: str) -> Sysctl:
    """A sysctl of the interface and its value."""
    if (refusal := why_not(name)) is not None:
        raise ValueError(f"{excerpt(name)}: {refusal}")
    if not _SETTING.fullmatch(value):
        raise ValueError(f'{name}: invalid value "{excerpt(value)}": expected a number')
    return name, int(value)


def route(to: str, via: str = "", metric: str = "", *, having: Collection[Address]) -> Route:
    """A route through an end that has these addresses. Empty `via` or `metric`: not set."""
    hop = _parsed("via", via, ip_address) if via else None
    if to == "default":
        if hop is None:
            raise ValueError("to: default requires via; without it, write 0.0.0.0/0 or ::/0")
        to = "0.0.0.0/0" if hop.version == 4 else "::/0"
    network = _parsed("to", to, ip_network)
    if network.is_multicast or network.is_loopback:
        raise ValueError(f"to: {network} is multicast or loopback")
    if hop is not None:
        if hop.version != network.version:
            raise ValueError(f"via: {hop} and {network} have different address families")
        if any(address.ip == hop for address in having):
            raise ValueError(f"via: {hop} is the end's own address")
        near = hop.version == 6 and hop.is_link_local
        if not near and not any(hop in address.network for address in having if address.version == hop.version):
            raise ValueError(f"via: {hop} is in no network of the end's addresses")
    if metric and (not metric.isascii() or not metric.isdigit() or int(metric) > METRIC_MOST):
        raise ValueError(f'metric: invalid value "{excerpt(metric)}": expected a number from 0 to {METRIC_MOST}')
    # For IPv6, 0 means the kernel's default metric.
    own = not metric or int(metric) in (0, KERNELS_METRIC[network.version])
    return Route(network, hop, None if own else int(metric))


def _parsed(field: str, value: str, parse: Callable[[str], Parsed]) -> Parsed:
    if "%" in value:
        raise ValueError(f'{field}: "{excerpt(value)}" has a zone')
    try:
        return parse(value)
    except ValueError as cause:
        raise ValueError(f'{field}: "{excerpt(value)}": {excerpt(str(cause))}') from cause


def _address(word: str, prefix: int | None) -> Address:
    try:
        if "/" in word:
            address = ip_interface(word)
        else:
            plain = ip_address(word)
            address = ip_interface((plain, _DEFAULT_PREFIX[plain.version] if prefix is None else prefix))
    except ValueError as cause:
        raise ValueError(f'invalid address "{excerpt(word)}": {excerpt(str(cause))}') from cause
    bare = address.ip  # an IPv6Interface answers these questions for its whole network
    if "%" in word or bare.is_unspecified or bare.is_multicast or bare.is_loopback or not address.network.prefixlen:
        raise ValueError(f"invalid address {excerpt(word)}: expected a unicast address with a prefix length above 0")
    if isinstance(address, IPv4Interface) and address.network.prefixlen < 31:
        edges = (address.network.network_address, address.network.broadcast_address)
        if address.ip in edges:
            raise ValueError(f"{address} is the network or broadcast address of its network")
    return address
