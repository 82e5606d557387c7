"""Operations on links: the ConfigMap of a namespace, and the keys of a link's record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet.core.operations import (
    BY_MOST,
    OPERATIONS_NAME,
    OPERATIONS_VALUE,
    Operations,
    RecordedOperation,
    parse_operations,
)
from ratchet.core.shared import shared_text
from ratchet.store.codec import Json, decode_moment, encode_moment

_OPERATION = "operation"
_ID, _BY, _SINCE, _UNTIL = (f"{_OPERATION}.{key}" for key in ("id", "by", "since", "until"))


def is_operations(config_map: Mapping[str, Any], label: str) -> bool:
    """Whether a ConfigMap has operations, given the label that tells it from a topology."""
    return (config_map.get("metadata", {}).get("labels") or {}).get(label) == OPERATIONS_VALUE


def decode_operations(config_map: Mapping[str, Any]) -> Operations | None:
    """The operations in a ConfigMap that has the label; None if it has another name, under which there are none."""
    if config_map.get("metadata", {}).get("name") != OPERATIONS_NAME:
        return None
    return parse_operations(config_map.get("data") or {})


def encode_operations(label: str, entries: Mapping[str, str]) -> Json:
    """A new ConfigMap with these operations."""
    metadata = {"name": OPERATIONS_NAME, "labels": {label: OPERATIONS_VALUE}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(entries)}


def encode_recorded(operation: RecordedOperation) -> dict[str, str]:
    """An operation as keys of a record."""
    data = {_OPERATION: operation.words, _ID: operation.id, _SINCE: encode_moment(operation.since)}
    if operation.by:
        data[_BY] = operation.by
    if operation.until is not None:
        data[_UNTIL] = encode_moment(operation.until)
    return data


def decode_recorded(data: Mapping[str, str]) -> RecordedOperation | None:
    """The operation in a record; None if there is none, or if it is malformed: it is only shown to people."""
    words, since = data.get(_OPERATION), decode_moment(data.get(_SINCE, ""))
    if words is None or since is None:
        return None
    until = decode_moment(data[_UNTIL]) if _UNTIL in data else None
    return RecordedOperation(data.get(_ID, ""), shared_text(words), data.get(_BY, "")[:BY_MOST], since, until)
