"""What may be said, word by word: from a tenant's text to a value, or a ValueError that says what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from ipaddress import IPv4Interface, ip_address, ip_interface, ip_network
from typing import TypeVar

from ratchet.core.endpoint_spec import KERNELS_METRIC, RATE_UNITS, Route, Sysctl
from ratchet.core.escape import excerpt
from ratchet.core.intent.sysctls import why_not
from ratchet.core.model import Address

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
_IFNAME = re.compile(r"[a-z][a-z0-9_.-]{0,14}")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?")
_NUMBER = re.compile(r"[0-9]{1,9}")
_SETTING = re.compile(r"-?[0-9]{1,9}")
_RATE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([kmg]?bit)", re.IGNORECASE)
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def pod_name(value: str) -> str:
    """A name by which pods are meant."""
    if not _NAME.fullmatch(value):
        raise ValueError(f'"{excerpt(value)}" is not a name')
    return value


def interface_name(value: str, reserved: Collection[str]) -> str:
    """A name that an interface of a link may have; not one of `reserved`."""
    if not _IFNAME.fullmatch(value):
        raise ValueError(f'"{excerpt(value)}" is no interface name (a-z, then up to 14 of a-z 0-9 _ . -)')
    if value in reserved:
        raise ValueError(f"{value} belongs to the runtime")
    if value in ("all", "default"):
        raise ValueError(f"the kernel keeps the name {value} for itself")
    return value


def addresses(words: Sequence[str], prefix: int | None = None) -> tuple[Address, ...]:
    """The addresses of an end. `prefix` is for those that have none of their own; None: 24, for IPv6 64."""
    if len(words) > ADDRESSES_MAX:
        raise ValueError(f"{len(words)} addresses are more than {ADDRESSES_MAX}")
    found = tuple(_address(word, prefix) for word in words)
    if len({address.ip for address in found}) < len(found):
        raise ValueError("an address is there twice")
    return found


def prefix_length(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", value) or not 1 <= int(value) <= 128:
        raise ValueError(f'"{excerpt(value)}" is no prefix length')
    return int(value)


def mtu(value: str, having: Collection[Address]) -> int:
    """An MTU in bytes for an end that has these addresses."""
    number = int(value) if _NUMBER.fullmatch(value) else 0
    if not MTU_LEAST <= number <= MTU_MOST:
        raise ValueError(f'"{excerpt(value)}" is no MTU: a number of bytes from {MTU_LEAST} to {MTU_MOST}')
    if number < MTU_LEAST_IPV6 and any(address.version == 6 for address in having):
        raise ValueError(f"{number} is too small for IPv6, which needs {MTU_LEAST_IPV6} bytes")
    return number


def mac(value: str) -> str:
    """A MAC address for one interface, in lower case."""
    if not _MAC.fullmatch(value):
        raise ValueError(f'"{excerpt(value)}" is no MAC address (02:00:00:00:00:01)')
    if int(value[:2], 16) & 1 or not int(value.replace(":", ""), 16):
        raise ValueError(f"{value.lower()} is not a MAC address that an interface can have")
    return value.lower()


def txqlen(value: str) -> int:
    """The length of a transmit queue, in packets."""
    if not _NUMBER.fullmatch(value) or int(value) > TXQLEN_MOST:
        raise ValueError(f'"{excerpt(value)}" is no txqlen: a number of packets from 0 to {TXQLEN_MOST}')
    return int(value)


def offloads(value: str) -> bool:
    """Whether the kernel may put off checksums and segmentation."""
    if value.lower() not in ("off", "on", "false", "true"):
        raise ValueError(f'"{excerpt(value)}" is neither off nor on')
    return value.lower() in ("on", "true")


def rate(value: str) -> int:
    """A rate, in bits per second."""
    found = _RATE.fullmatch(value)
    bits = Decimal(found[1]) * RATE_UNITS[found[2].lower()] if found else Decimal(0)
    if not RATE_LEAST <= bits <= RATE_MOST or bits != int(bits):
        raise ValueError(f'"{excerpt(value)}" is no rate, as 100mbit is one: from 8kbit to 1000gbit')
    return int(bits)


def tunnel(value: str) -> bool:
    """Whether a link is a tunnel wherever its ends are."""
    if value not in ("auto", "vxlan"):
        raise ValueError(f'"{excerpt(value)}" is neither auto nor vxlan')
    return value == "vxlan"


def port(value: str) -> int:
    """A UDP port."""
    if not _NUMBER.fullmatch(value) or not 1 <= int(value) <= PORT_MOST:
        raise ValueError(f'"{excerpt(value)}" is no UDP port: a number from 1 to {PORT_MOST}')
    return int(value)


def sysctl(name: str, value: str) -> Sysctl:
    """A setting of the interface and its value."""
    if (refusal := why_not(name)) is not None:
        raise ValueError(f"{excerpt(name)}: {refusal}")
    if not _SETTING.fullmatch(value):
        raise ValueError(f'{name}: "{excerpt(value)}" is no number')
    return name, int(value)


def route(to: str, via: str = "", metric: str = "", *, having: Collection[Address]) -> Route:
    """A route by an end that has these addresses; empty where nothing is said."""
    hop = _parsed("via", via, ip_address) if via else None
    if to == "default":
        if hop is None:
            raise ValueError("to: default needs a via, or is 0.0.0.0/0 or ::/0")
        to = "0.0.0.0/0" if hop.version == 4 else "::/0"
    network = _parsed("to", to, ip_network)
    if network.is_multicast or network.is_loopback:
        raise ValueError(f"to: {network} is no destination of a link")
    if hop is not None:
        if hop.version != network.version:
            raise ValueError(f"via: {hop} and {network} are not of one family")
        if any(address.ip == hop for address in having):
            raise ValueError(f"via: {hop} is the end's own address")
        near = hop.version == 6 and hop.is_link_local
        if not near and not any(hop in address.network for address in having if address.version == hop.version):
            raise ValueError(f"via: {hop} is in no network of the end's addresses")
    if metric and (not metric.isascii() or not metric.isdigit() or int(metric) > METRIC_MOST):
        raise ValueError(f'metric: "{excerpt(metric)}" is no number from 0 to {METRIC_MOST}')
    # Of IPv6 the kernel takes 0 for its own.
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
        raise ValueError(f'"{excerpt(word)}" is no address: {excerpt(str(cause))}') from cause
    bare = address.ip  # an IPv6Interface is asked about its whole network where its address is meant
    if "%" in word or bare.is_unspecified or bare.is_multicast or bare.is_loopback or not address.network.prefixlen:
        raise ValueError(f"{excerpt(word)} is not an address that an interface can have")
    if isinstance(address, IPv4Interface) and address.network.prefixlen < 31:
        edges = (address.network.network_address, address.network.broadcast_address)
        if address.ip in edges:
            raise ValueError(f"{address} is its network's own or broadcast address")
    return address
