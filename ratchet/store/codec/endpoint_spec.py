"""An endpoint's spec as keys of a record, and back. Properties that are not set have no key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from ratchet.core.endpoint_spec import (
    LASTING,
    RATE_UNITS,
    EndpointSpec,
    EndState,
    PackedRoutes,
    PackedSysctls,
    Route,
    Sysctl,
    rate_text,
)
from ratchet.core.packed import texts_of
from ratchet.core.sysctls import why_not

Value = TypeVar("Value")

END_PROPERTIES = frozenset({"mtu", "mac", "txqlen", "routes", "sysctls", "offloads", "rate", "state"})
_NUMBER = re.compile(r"[0-9]{1,18}")
_SETTING = re.compile(r"-?[0-9]{1,10}")
_RATE = re.compile(r"([0-9]{1,15})([kmg]?bit)")
_MTUS, _TXQLENS, _METRICS = range(1, 1 << 16), range(1 << 31), range(1 << 32)
_OFF = "off"


def encode_properties(properties: EndpointSpec) -> dict[str, str]:
    """The properties that are set, by key."""
    texts = {
        "mtu": properties.mtu,
        "mac": properties.mac,
        "txqlen": properties.txqlen,
        "routes": ", ".join(texts_of(properties.routes, PackedRoutes)) or None,
        "sysctls": ", ".join(texts_of(properties.sysctls, PackedSysctls)) or None,
        "offloads": None if properties.offloads else _OFF,
        "rate": None if properties.rate is None else rate_text(properties.rate),
        "state": None if properties.state is EndState.UP else str(properties.state),
    }
    return {key: str(value) for key, value in texts.items() if value is not None}


def decode_properties(fields: Mapping[str, str]) -> EndpointSpec:
    """The spec in the keys of an end.

    Other keys are ignored. Raises ValueError, whose text begins with the key.
    """
    return EndpointSpec(
        mtu=_read(fields, "mtu", lambda text: _number(text, _MTUS)),
        mac=fields.get("mac"),
        txqlen=_read(fields, "txqlen", lambda text: _number(text, _TXQLENS)),
        routes=_read(fields, "routes", _routes) or (),
        sysctls=_read(fields, "sysctls", _sysctls) or (),
        offloads=fields.get("offloads") != _OFF,
        rate=_read(fields, "rate", _rate),
        state=_read(fields, "state", EndState) or EndState.UP,
    )


def decode_resets(text: str) -> tuple[str, ...]:
    """The settings to reset (`core.endpoint_spec.resets`). Raises ValueError, whose text begins with the key."""
    names = tuple(filter(None, text.split(", ")))
    for name in names:
        if name not in LASTING and (refusal := why_not(name)) is not None:
            raise ValueError(f"resets is {text!r:.80}, of which {name!r:.80} cannot be: {refusal}")
    return names


def _read(fields: Mapping[str, str], key: str, read: Callable[[str], Value]) -> Value | None:
    text = fields.get(key)
    if not text:
        return None
    try:
        return read(text)
    except ValueError as cause:
        raise ValueError(f"{key} is {text!r:.80}, {cause}") from cause


def _number(text: str, valid: range) -> int:
    number = int(text) if _NUMBER.fullmatch(text) else -1
    if number not in valid:
        raise ValueError(f"not a number from {valid[0]} to {valid[-1]}")
    return number


@lru_cache(maxsize=16)  # a record is decoded after each of its changes
def _routes(text: str) -> Sequence[Route]:
    return PackedRoutes.of(tuple(map(_route, text.split(", "))))


def _route(text: str) -> Route:
    _, _, metric = text.partition(" metric ")
    if metric:
        _number(metric, _METRICS)
    return Route.parse(text)


@lru_cache(maxsize=16)
def _sysctls(text: str) -> Sequence[Sysctl]:
    return PackedSysctls.of(tuple(map(_sysctl, text.split(", "))))


def _sysctl(text: str) -> Sysctl:
    name, _, value = text.partition("=")
    if not _SETTING.fullmatch(value):
        raise ValueError("not '<name>=<number>'")
    # Write access to records must not allow any sysctl on every node.
    if (refusal := why_not(name)) is not None:
        raise ValueError(f"of which {name!r:.80} cannot be: {refusal}")
    return name, int(value)


def _rate(text: str) -> int:
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError("not a number of bit, kbit, mbit or gbit")
    return int(found[1]) * RATE_UNITS[found[2]]
