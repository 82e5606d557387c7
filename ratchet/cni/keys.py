"""Readers for configuration keys, one for each type of value.

A null value counts as absent. An invalid value raises InvalidConfigError (code 7), whose message names the key.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Any

from ratchet.cni.arguments import ifname_fault
from ratchet.core.escape import quoted
from ratchet.errors import InvalidConfigError


def fault(cause: str) -> InvalidConfigError:
    """The error for an invalid configuration, with a cause."""
    return InvalidConfigError(f"cannot read the network configuration: {cause}")


def wrong(key: str, wanted: str, value: object) -> InvalidConfigError:
    """The error for a key with an invalid value; `wanted` describes the valid ones."""
    return fault(f'"{key}" must be {wanted}, not {quoted(value)}')


def text(raw: Mapping[str, Any], key: str) -> str | None:
    """Read a string."""
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        raise wrong(key, "a string", value)
    return value


def mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """Read an object."""
    value = raw.get(key)
    if value is not None and not isinstance(value, dict):
        raise wrong(key, "an object", value)
    return value


def path(raw: Mapping[str, Any], key: str) -> str | None:
    """Read an absolute path. The plugin's working directory is up to the runtime."""
    value = text(raw, key)
    if value is not None and not (value.startswith("/") and value.isprintable()):
        raise wrong(key, "an absolute path", value)
    return value


def interface(raw: Mapping[str, Any], key: str) -> str | None:
    """Read an interface name that the kernel accepts."""
    value = text(raw, key)
    if value is not None and ifname_fault(value):
        raise wrong(key, "the name of an interface", value)
    return value


def ip_address(raw: Mapping[str, Any], key: str) -> str | None:
    """Read an IPv4 or IPv6 address without a prefix length or a scope."""
    value = text(raw, key)
    if value is None:
        return None
    try:
        address = ipaddress.ip_address(value)
    except ValueError as error:
        raise wrong(key, "an IP address", value) from error
    if "%" in value or address.is_unspecified or address.is_multicast:
        raise wrong(key, "an IP address of one interface", value)
    return value


def one_of(raw: Mapping[str, Any], key: str, choices: Collection[str]) -> str | None:
    """Read one of several words."""
    value = text(raw, key)
    if value is not None and value not in choices:
        raise wrong(key, f"one of {', '.join(choices)}", value)
    return value


def seconds(raw: Mapping[str, Any], key: str) -> float | None:
    """Read a number of seconds, zero or more."""
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise wrong(key, "a number of seconds", value)
    try:
        return float(value)
    except OverflowError as error:
        raise wrong(key, "a number of seconds", value) from error


def whole_number(raw: Mapping[str, Any], key: str, low: int, high: int) -> int | None:
    """Read a whole number from `low` to `high`."""
    value = raw.get(key)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise wrong(key, f"a whole number from {low} to {high}", value)
    return value
