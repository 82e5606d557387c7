"""An end of a link as keys of the link's record, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

from ratchet.core.endpoint_spec import UNSET, Address, EndpointSpec, PackedAddresses
from ratchet.core.model import End, EndError, ReadyFor
from ratchet.core.packed import texts_of
from ratchet.core.pod import PodRef
from ratchet.core.sandbox import Sandbox
from ratchet.core.schemas import EARLIER_SCHEMA
from ratchet.core.shared import shared_address, shared_text
from ratchet.store.codec import NO_TEXTS, NUMBER, decode_moment, decode_number, encode_moment
from ratchet.store.codec.endpoint_spec import END_PROPERTIES, decode_properties, decode_resets, encode_properties

_COOKIES = range(1 << 63)
_UNDERLAY_MTUS = range(1, 1 << 31)
_SANDBOX_KEYS = {"pod", "uid", "mirror", "node", "vtep", "sandbox", "netns", "cookie", "stands", "ready"}
# Written in schema 2 only: agents that write schema 1 take unknown keys for notes, and keep them.
_LATER_KEYS = {"underlay_mtu", "vteps", "error", "resets"}
LEFT_KEYS = _SANDBOX_KEYS | _LATER_KEYS
_END_KEYS = END_PROPERTIES | {"name", "ifname", "addresses"} | _SANDBOX_KEYS | _LATER_KEYS


def encode_end(prefix: str, end: End, schema: int) -> dict[str, str]:
    """The keys of an end and their values."""
    fields = dict(end.notes)
    fields |= {"name": end.name, "ifname": end.ifname, "addresses": _encode_addresses(end.addresses)}
    if end.properties != UNSET:
        fields |= encode_properties(end.properties)
    if sandbox := end.sandbox:
        fields |= {
            "pod": sandbox.pod.name,
            "uid": sandbox.pod.uid,
            "node": sandbox.node,
            "vtep": sandbox.vtep,
            "sandbox": sandbox.container_id,
            "netns": sandbox.netns,
        }
        if sandbox.cookie:
            fields["cookie"] = str(sandbox.cookie)
        if sandbox.pod.mirror:
            fields["mirror"] = sandbox.pod.mirror
        if schema != EARLIER_SCHEMA and sandbox.underlay_mtu:
            fields["underlay_mtu"] = str(sandbox.underlay_mtu)
        if schema != EARLIER_SCHEMA and sandbox.vteps:
            fields["vteps"] = ",".join(sandbox.vteps)
    if end.ready:
        key, word = _ready_words(schema)
        fields[key] = f"{end.ready.sandbox} {word} {end.ready.peer} generation {end.ready.generation}"
    if end.error and schema != EARLIER_SCHEMA:
        fields["error"] = f"{encode_moment(end.error.at)} {end.error.text}"
    if end.resets and schema != EARLIER_SCHEMA:
        fields["resets"] = ", ".join(end.resets)
    return {f"{prefix}.{key}": value for key, value in fields.items()}


def fields_of_ends(data: Mapping[str, str], prefixes: Collection[str]) -> dict[str, dict[str, str]]:
    """The keys of each end, without its prefix, and their values."""
    ends: dict[str, dict[str, str]] = {prefix: {} for prefix in prefixes}
    for key, value in data.items():
        prefix, dot, field = key.partition(".")
        if dot and prefix in ends:
            ends[prefix][field] = value
    return ends


def decode_end(prefix: str, namespace: str, fields: Mapping[str, str], schema: int) -> End:
    """The end in these fields.

    Raises KeyError or ValueError, whose text begins with the key in the record.
    """
    try:
        return _decode_fields(namespace, fields, schema)
    except KeyError as cause:
        raise KeyError(f"{prefix}.{cause.args[0]}") from cause
    except ValueError as cause:
        raise ValueError(f"{prefix}.{cause}") from cause


def _decode_fields(namespace: str, fields: Mapping[str, str], schema: int) -> End:
    """Decode as `decode_end`; errors have the key without its prefix."""
    sandbox = _decode_sandbox(namespace, fields, schema) if "sandbox" in fields else None
    key, word = _ready_words(schema)
    ready, addresses = fields.get(key), fields.get("addresses")
    return End(
        name=shared_text(fields["name"]),
        ifname=shared_text(fields["ifname"]),
        addresses=_decode_addresses(addresses) if addresses else (),
        properties=_decode_properties(fields),
        notes={key: value for key, value in fields.items() if key not in _END_KEYS} or NO_TEXTS,
        sandbox=sandbox,
        ready=_decode_ready(key, word, ready) if ready else None,
        error=_decode_error(fields["error"]) if "error" in fields and schema != EARLIER_SCHEMA else None,
        resets=decode_resets(fields["resets"]) if "resets" in fields and schema != EARLIER_SCHEMA else (),
    )


def _decode_sandbox(namespace: str, fields: Mapping[str, str], schema: int) -> Sandbox:
    return Sandbox(
        container_id=shared_text(fields["sandbox"]),
        pod=PodRef(namespace, shared_text(fields["pod"]), shared_text(fields["uid"]), fields.get("mirror", "")),
        node=shared_text(fields["node"]),
        netns=shared_text(fields["netns"]),
        vtep=shared_text(fields["vtep"]),
        cookie=decode_number(fields, "cookie", _COOKIES) if "cookie" in fields else 0,
        underlay_mtu=decode_number(fields, "underlay_mtu", _UNDERLAY_MTUS) if "underlay_mtu" in fields else 0,
        vteps=_decode_vteps(fields.get("vteps", "")),
    ).in_schema(schema)


def _decode_properties(fields: Mapping[str, str]) -> EndpointSpec:
    if END_PROPERTIES.isdisjoint(fields):
        return UNSET
    properties = decode_properties(fields)
    return UNSET if properties == UNSET else properties


@lru_cache(maxsize=256)  # each is of a node
def _decode_vteps(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _encode_addresses(addresses: Sequence[Address]) -> str:
    return ",".join(texts_of(addresses, PackedAddresses))


def _decode_addresses(text: str) -> Sequence[Address]:
    few = text.count(",") + 1 < PackedAddresses.LEAST
    return tuple(_decode_address(one) for one in text.split(",") if one) if few else _decode_many(text)


@lru_cache(maxsize=16)  # a record is decoded after each of its changes
def _decode_many(text: str) -> Sequence[Address]:
    return PackedAddresses.of(tuple(_decode_address(one) for one in text.split(",") if one))


def _decode_address(text: str) -> Address:
    try:
        return shared_address(text)
    except ValueError as cause:
        raise ValueError(f"addresses has {text!r:.80}, which is no address") from cause


def _ready_words(schema: int) -> tuple[str, str]:
    """The key of an end's readiness, and the word before the peer in its value."""
    return ("stands", "toward") if schema == EARLIER_SCHEMA else ("ready", "peer")


def _decode_error(text: str) -> EndError | None:
    """The error of an end, written as `<time> <text>`; None if it is malformed: it is for people only."""
    moment, _, cause = text.partition(" ")
    at = decode_moment(moment)
    return EndError(at, cause) if at is not None else None


def _decode_ready(key: str, word: str, text: str) -> ReadyFor:
    match text.split(" "):
        case [sandbox, found, peer, "generation", generation] if found == word and NUMBER.fullmatch(generation):
            return ReadyFor(shared_text(sandbox), shared_text(peer), int(generation))
    raise ValueError(f"{key} is {text!r:.80}, not '<sandbox> {word} <peer> generation <number>'")
