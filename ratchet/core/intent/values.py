"""What may be said, word by word: from a tenant's text to a value, or a ValueError that says what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from ipaddress import IPv4Interface, ip_address, ip_interface

from ratchet.core.model import Address

ADDRESSES_MAX = 16
MTU_LEAST, MTU_MOST = 68, 65535  # RFC 791, section 3.2; what a vEth takes at most (drivers/net/veth.c)
MTU_LEAST_IPV6 = 1280  # RFC 8200, section 5
_DEFAULT_PREFIX = {4: 24, 6: 64}
_IFNAME = re.compile(r"[a-z][a-z0-9_.-]{0,14}")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?")
_NUMBER = re.compile(r"[0-9]{1,9}")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def shown(value: str) -> str:
    """Tenants' text made fit to print: escaped where it is not printable ASCII, and not long."""
    escaped = value.encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= 80 else f"{escaped[:77]}..."


def pod_name(value: str) -> str:
    """A name by which pods are meant."""
    if not _NAME.fullmatch(value):
        raise ValueError(f'"{shown(value)}" is not a name')
    return value


def interface_name(value: str, reserved: Collection[str]) -> str:
    """A name that an interface of a link may have; not one of `reserved`."""
    if not _IFNAME.fullmatch(value):
        raise ValueError(f'"{shown(value)}" is no interface name (a-z, then up to 14 of a-z 0-9 _ . -)')
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
        raise ValueError(f'"{shown(value)}" is no prefix length')
    return int(value)


def mtu(value: str, having: Collection[Address]) -> int:
    """An MTU in bytes for an end that has these addresses."""
    number = int(value) if _NUMBER.fullmatch(value) else 0
    if not MTU_LEAST <= number <= MTU_MOST:
        raise ValueError(f'"{shown(value)}" is no MTU: a number of bytes from {MTU_LEAST} to {MTU_MOST}')
    if number < MTU_LEAST_IPV6 and any(address.version == 6 for address in having):
        raise ValueError(f"{number} is too small for IPv6, which needs {MTU_LEAST_IPV6} bytes")
    return number


def mac(value: str) -> str:
    """A MAC address for one interface, in lower case."""
    if not _MAC.fullmatch(value):
        raise ValueError(f'"{shown(value)}" is no MAC address (02:00:00:00:00:01)')
    if int(value[:2], 16) & 1 or not int(value.replace(":", ""), 16):
        raise ValueError(f"{value.lower()} is not a MAC address that an interface can have")
    return value.lower()


def _address(word: str, prefix: int | None) -> Address:
    try:
        if "/" in word:
            address = ip_interface(word)
        else:
            plain = ip_address(word)
            address = ip_interface((plain, _DEFAULT_PREFIX[plain.version] if prefix is None else prefix))
    except ValueError as cause:
        raise ValueError(f'"{shown(word)}" is no address: {shown(str(cause))}') from cause
    bare = address.ip  # an IPv6Interface is asked about its whole network where its address is meant
    if "%" in word or bare.is_unspecified or bare.is_multicast or bare.is_loopback or not address.network.prefixlen:
        raise ValueError(f"{shown(word)} is not an address that an interface can have")
    if isinstance(address, IPv4Interface) and address.network.prefixlen < 31:
        edges = (address.network.network_address, address.network.broadcast_address)
        if address.ip in edges:
            raise ValueError(f"{address} is its network's own or broadcast address")
    return address
