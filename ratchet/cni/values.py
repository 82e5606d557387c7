"""Readers for the values of configurations: the keys of the network configuration and the agent's settings.

A reader converts a decoded value (JSON or YAML). For an invalid value it raises ValueError, whose text describes the
valid ones, such as "an absolute path".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ratchet.cni.arguments import ifname_fault, is_dns_label, is_dns_subdomain
from ratchet.core.kinds import Wiring
from ratchet.core.ports import PORT_MOST

Value = TypeVar("Value")
Reader = Callable[[object], Value]

FIRST_VNI, LAST_VNI = 1, (1 << 24) - 1  # VNIs have 24 bits (RFC 7348, section 5)
LINKS_MOST = LAST_VNI  # of a pod or a namespace: each tunnel needs a VNI


def text(wanted: str, is_valid: Callable[[str], object]) -> Reader[str]:
    """A reader of strings for which `is_valid` is true; `wanted` describes them."""

    def read(value: object) -> str:
        if isinstance(value, str) and is_valid(value):
            return value
        raise ValueError(wanted)

    return read


def one_of(*choices: str) -> Reader[str]:
    """A reader of one of several words."""
    return text(f"one of {', '.join(choices)}", lambda word: word in choices)


def seconds(low: float = 0.0, high: float = float("inf")) -> Reader[float]:
    """A reader of a number of seconds from `low` to `high`."""
    limits = f" from {low:g} to {high:g}" if high != float("inf") else ""

    def read(value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            try:
                return float(value)
            except OverflowError:
                pass
        raise ValueError(f"a number of seconds{limits}")

    return read


def whole_number(low: int, high: int) -> Reader[int]:
    """A reader of a whole number from `low` to `high`."""

    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise ValueError(f"a whole number from {low} to {high}")

    return read


def number_range(notation: str, least: int, most: int) -> Reader[tuple[int, int]]:
    """A reader of a list of the first and the last number of a range; `notation` is how the user writes it."""

    def read(value: object) -> tuple[int, int]:
        match value:
            case [int(low), int(high)] if least <= low <= high <= most and bool not in (type(low), type(high)):
                return low, high
        raise ValueError(f"{notation} within {least} to {most}")

    return read


def vni_range(notation: str) -> Reader[tuple[int, int]]:
    """A reader of a range of VNIs."""
    return number_range(notation, FIRST_VNI, LAST_VNI)


def port_range(notation: str) -> Reader[tuple[int, int]]:
    """A reader of a range of UDP ports."""
    return number_range(notation, 1, PORT_MOST)


def boolean(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004  # as all readers
    return value


def mapping(value: object) -> Mapping[str, Any]:
    """Read an object."""
    if not isinstance(value, dict):
        raise ValueError("an object")  # noqa: TRY004  # as all readers
    return value


_one_wiring = one_of(*Wiring)


def wiring(value: object) -> Wiring:
    """Read the wiring of links."""
    return Wiring(_one_wiring(value))


def is_absolute_path(path: str) -> bool:
    """Whether this is an absolute path without control characters. The working directory is up to the runtime."""
    return path.startswith("/") and path.isprintable()


def _is_interface_address(address: str) -> bool:
    """Whether this is the address of one interface, without a prefix length or a scope."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return "%" not in address and not parsed.is_unspecified and not parsed.is_multicast


string = text("a string", lambda _: True)
path = text("an absolute path", is_absolute_path)
interface = text("the name of an interface", lambda name: not ifname_fault(name))
ip_address = text("an IP address of one interface", _is_interface_address)
namespace = text("the name of a Kubernetes namespace", is_dns_label)
node_name = text("the name of a node", is_dns_subdomain)
