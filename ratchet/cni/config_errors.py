"""The errors of the network configuration."""

from __future__ import annotations

from ratchet.core.escape import quoted
from ratchet.errors import InvalidConfigError


def invalid_key(key: str, wanted: str, value: object) -> InvalidConfigError:
    """The error for a key with an invalid value; `wanted` describes the valid ones."""
    return config_error(f'"{key}" must be {wanted}, not {quoted(value)}')


def config_error(cause: str) -> InvalidConfigError:
    """The error for a network configuration that cannot be read."""
    return InvalidConfigError(f"cannot read the network configuration: {cause}")
