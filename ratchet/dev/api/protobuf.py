"""Decode the protobuf bodies that kubectl sends for configmaps, namespaces, service accounts.

Framing and field numbers follow k8s.io/apimachinery/pkg/runtime/serializer/protobuf and the generated.proto files
of k8s.io/api/core/v1 and k8s.io/apimachinery/pkg/apis/meta/v1. Answers are JSON, which those clients accept too.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ratchet.dev.api.kinds import JsonObject
from ratchet.dev.api.status import bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"
_Reader = Callable[[Any], Any]
_Message = Mapping[int, tuple[str, _Reader]]


def _text(value: Any) -> str:
    return str(_bytes(value), "utf-8")


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a length-delimited field has another wire type")
    return value


def _base64(value: Any) -> str:
    return base64.b64encode(_bytes(value)).decode()


def _integer(value: Any) -> int:
    number = int(value)
    return number - (1 << 64) if number >> 63 else number


def _boolean(value: Any) -> bool:
    return bool(int(value))


def _message(fields: _Message) -> _Reader:
    return lambda value: _decode(_bytes(value), fields)


class _List:
    """A repeated field."""

    def __init__(self, item: _Reader) -> None:
        self.item = item

    def __call__(self, value: Any) -> Any:
        return self.item(value)


class _Map(_List):
    """A map field with string keys: repeated entries of key (1) and value (2)."""

    def entry(self, value: Any) -> tuple[str, Any]:
        found = dict(_fields(_bytes(value)))
        return _text(found.get(1, b"")), self.item(found.get(2, b""))


_TYPE_META: _Message = {1: ("apiVersion", _text), 2: ("kind", _text)}
_ENVELOPE: _Message = {1: ("typeMeta", _message(_TYPE_META)), 2: ("raw", _bytes)}
_OWNER: _Message = {
    1: ("kind", _text),
    3: ("name", _text),
    4: ("uid", _text),
    5: ("apiVersion", _text),
    6: ("controller", _boolean),
    7: ("blockOwnerDeletion", _boolean),
}
_META: _Message = {
    1: ("name", _text),
    2: ("generateName", _text),
    3: ("namespace", _text),
    5: ("uid", _text),
    6: ("resourceVersion", _text),
    11: ("labels", _Map(_text)),
    12: ("annotations", _Map(_text)),
    13: ("ownerReferences", _List(_message(_OWNER))),
    14: ("finalizers", _List(_text)),
}
_REFERENCE: _Message = {1: ("name", _text)}
_SECRET_REFERENCE: _Message = {1: ("kind", _text), 2: ("namespace", _text), 3: ("name", _text)}
_PRECONDITIONS: _Message = {1: ("uid", _text), 2: ("resourceVersion", _text)}
_KINDS: Mapping[str, _Message] = {
    "ConfigMap": {
        1: ("metadata", _message(_META)),
        2: ("data", _Map(_text)),
        3: ("binaryData", _Map(_base64)),
        4: ("immutable", _boolean),
    },
    "Namespace": {1: ("metadata", _message(_META))},
    "ServiceAccount": {
        1: ("metadata", _message(_META)),
        2: ("secrets", _List(_message(_SECRET_REFERENCE))),
        3: ("imagePullSecrets", _List(_message(_REFERENCE))),
        4: ("automountServiceAccountToken", _boolean),
    },
    "DeleteOptions": {
        1: ("gracePeriodSeconds", _integer),
        2: ("preconditions", _message(_PRECONDITIONS)),
        3: ("orphanDependents", _boolean),
        4: ("propagationPolicy", _text),
        5: ("dryRun", _List(_text)),
    },
}


def decode_protobuf(body: bytes) -> JsonObject:
    """The object in a protobuf body, in its JSON form.

    Raises:
        ApiError: 400 when the body is malformed or holds a kind that is only understood as JSON.
    """
    if not body.startswith(_MAGIC):
        raise bad_request("the protobuf body does not start with the expected prefix")
    try:
        envelope = _decode(body[len(_MAGIC) :], _ENVELOPE)
        types = envelope.get("typeMeta", {})
        fields = _KINDS.get(types.get("kind", ""))
        if fields is None:
            raise bad_request(f"no protobuf decoding for {types.get('kind', '')!r}: send application/json")
        return {**types, **_decode(envelope.get("raw", b""), fields)}
    except (ValueError, TypeError, IndexError) as cause:
        raise bad_request(f"the protobuf body cannot be decoded: {cause}") from cause


def _decode(data: bytes, fields: _Message) -> JsonObject:
    result: JsonObject = {}
    for number, value in _fields(data):
        name, read = fields.get(number, ("", _bytes))
        if not name:
            continue
        if isinstance(read, _Map):
            key, item = read.entry(value)
            result.setdefault(name, {})[key] = item
        elif isinstance(read, _List):
            result.setdefault(name, []).append(read(value))
        elif (decoded := read(value)) != "":
            result[name] = decoded
    return result


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and raw values of one message (protobuf encoding: wire types 0, 1, 2 and 5)."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + size > len(data):
            raise ValueError("truncated field")
        yield tag >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("varint too long")
