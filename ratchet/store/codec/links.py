"""Links as ConfigMaps: the records.

A record is flat so that `kubectl get configmap -o yaml` reads like a form: the declaration of each end, what each end's
node has recorded, the derived state, and its history.

In schema 1 the keys of an end begin with its role, `primary.` or `pair.`, and `stands` is what the end is ready for. In
schema 2 they begin with `a.` or `b.`, in the order of the endpoints in the record's name. `primary` is the letter of
the primary, `ready` is what the end is ready for. `minReader` is the least schema that a reader must know.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import DEFAULT_ENCAPSULATION, SIDES, Encapsulation, Link, Side, State, Transition
from ratchet.core.naming import (
    KIND_LABEL,
    MANAGED_BY,
    NODE_LABEL,
    SCHEMA_LABEL,
    STATE_LABEL,
    VNI_LABEL,
    in_order,
    node_label,
    pod_label,
)
from ratchet.core.schemas import EARLIER_SCHEMA, PANEL_SCHEMA, READ_SCHEMA
from ratchet.core.shared import shared_text
from ratchet.core.state_machine import derive
from ratchet.errors import MalformedRecordError, NewerRecordError
from ratchet.store.codec import (
    MANAGER,
    NUMBER,
    Json,
    decode_moment,
    decode_number,
    decode_time,
    encode_moment,
    merge_changes,
)
from ratchet.store.codec.ends import LEFT_KEYS, decode_end, encode_end, fields_of_ends
from ratchet.store.codec.operations import decode_recorded, encode_recorded

_GENERATIONS = range(1, 10**18)
_VNIS = range(1, 1 << 24)
_PORTS = range(1, 1 << 16)
_SCHEMAS = range(EARLIER_SCHEMA, 1 << 16)
_REFUSED = "refused_vnis"
_TUNNEL, _PORT, _WIRING = "kind_wanted", "vxlan_port", "wiring"
_SCHEMA, _MIN_READER, _PRIMARY = "schema", "minReader", "primary"
_LETTERS = ("a", "b")
_WIRINGS = {str(one): one for one in Wiring}
UNREAD_KEPT = 12  # lines


def encode_link(link: Link) -> Json:
    """The link's ConfigMap, without the fields that the API server sets."""
    state, kind, observed_generation = derive(link), link.kind, link.observed_generation
    data = {"state": str(state), "namespace": link.namespace, "generation": str(link.generation)}
    if observed_generation is not None:
        data["observedGeneration"] = str(observed_generation)
    if kind:
        data["kind"] = str(kind)
    if link.vni is not None:
        data["vni"] = str(link.vni)
    if link.refused_vnis:
        data[_REFUSED] = ",".join(map(str, link.refused_vnis))
    if link.encapsulation.tunnel:
        data[_TUNNEL] = str(Kind.VXLAN)
    if link.wiring is not Wiring.DIRECT:
        data[_WIRING] = str(link.wiring)
    if link.encapsulation.vxlan_port is not None:
        data[_PORT] = str(link.encapsulation.vxlan_port)
    if link.operation is not None and link.schema != EARLIER_SCHEMA:
        data |= encode_recorded(link.operation)
    prefixes = _prefixes(link)
    if link.schema != EARLIER_SCHEMA:
        # The values of a newer version stay: a patch has only the differences between two encodings.
        readers = str(PANEL_SCHEMA if link.wiring is Wiring.PANEL else min(link.schema, READ_SCHEMA))
        data |= {_SCHEMA: str(link.schema), _MIN_READER: readers, _PRIMARY: prefixes[Side.PRIMARY]}
    for side in SIDES:
        data |= encode_end(prefixes[side], link.end(side), link.schema)
    if lines := [*link.unread, *map(_encode_transition, link.history)]:
        data["history"] = "\n".join(lines)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": link.name, "labels": _labels(link, state, kind)},
        "data": data,
    }


def decode_link(config_map: Mapping[str, Any]) -> Link:
    """The link in a ConfigMap.

    A record of a newer version is read as one of this version if its `minReader` allows it. Unknown keys and malformed
    lines of the history are kept.

    Raises NewerRecordError if `minReader` does not allow it. Raises MalformedRecordError, with the record and the key,
    if the record is malformed.
    """
    metadata = config_map.get("metadata", {})
    name = shared_text(metadata.get("name", "?"))
    data: Mapping[str, str] = config_map.get("data") or {}
    try:
        return _decode(name, metadata, data)
    except NewerRecordError:
        raise
    except KeyError as cause:
        raise MalformedRecordError(f"cannot read the record {name}: it has no {cause.args[0]}", record=name) from cause
    except ValueError as cause:
        raise MalformedRecordError(f"cannot read the record {name}: {cause}", record=name) from cause


def _decode(name: str, metadata: Mapping[str, Any], data: Mapping[str, str]) -> Link:
    schema = decode_number(data, _SCHEMA, _SCHEMAS) if _SCHEMA in data else EARLIER_SCHEMA
    _refuse_newer(name, data, schema)  # first: a newer schema may lack any other key
    namespace = shared_text(data["namespace"])
    history, unread = _decode_history(data.get("history", ""))
    primary, pair = _decode_prefixes(data, schema)
    fields = fields_of_ends(data, (primary, pair))
    return Link(
        name=name,
        namespace=namespace,
        primary=decode_end(primary, namespace, fields[primary], schema),
        pair=decode_end(pair, namespace, fields[pair], schema),
        encapsulation=_decode_encapsulation(data),
        wiring=_decode_wiring(data.get(_WIRING, Wiring.DIRECT)),
        generation=decode_number(data, "generation", _GENERATIONS),
        vni=decode_number(data, "vni", _VNIS) if "vni" in data else None,
        refused_vnis=tuple(decode_number({_REFUSED: one}, _REFUSED, _VNIS) for one in _refused(data)),
        history=history,
        schema=schema,
        unread=unread,
        expected_on=_expected_on(metadata.get("labels") or {}, data, (primary, pair)),
        operation=decode_recorded(data),
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
        created=decode_time(metadata.get("creationTimestamp")),
    )


def stored_link(link: Link, encoded: Json, answer: Mapping[str, Any]) -> Link:
    """A link as stored: `link` was written as `encoded`, and the API server returned `answer`.

    The answer is decoded only if its data differs, as after a mutating admission webhook.
    """
    if answer.get("data") != encoded["data"]:
        return decode_link(answer)
    metadata = answer["metadata"]
    return replace(
        link,
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        created=decode_time(metadata.get("creationTimestamp")),
    )


def leave_patch(config_map: Mapping[str, Any], container_id: str) -> Json | None:
    """The merge patch that removes a sandbox from a record of a newer version.

    None if the record does not have the sandbox. In every schema a sandbox's keys have its end's prefix, and
    `<prefix>.sandbox` is its container ID.
    """
    metadata, data = config_map["metadata"], config_map.get("data") or {}
    prefix = next((key.removesuffix("sandbox") for key in data if _is_sandbox(key, data[key], container_id)), None)
    if prefix is None:
        return None
    gone = {key: None for key in data if key.startswith(prefix) and key.removeprefix(prefix) in LEFT_KEYS}
    return {"metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}, "data": gone}


def _is_sandbox(key: str, value: str, container_id: str) -> bool:
    return key.endswith(".sandbox") and value == container_id


def link_patch(before: Link, new: Json) -> Json:
    """The merge patch (RFC 7386) from the record `before` to an encoded one, on the version read."""
    old = encode_link(before)
    return {
        "metadata": {
            "uid": before.uid,
            "resourceVersion": before.resource_version,
            "labels": merge_changes(old["metadata"]["labels"], new["metadata"]["labels"]),
        },
        "data": merge_changes(old["data"], new["data"]),
    }


def record_vni(config_map: Mapping[str, Any]) -> tuple[int, str] | None:
    """The VNI in a record's labels, and the record's UID; None if it has no VNI. The metadata suffices."""
    metadata = config_map.get("metadata", {})
    text = (metadata.get("labels") or {}).get(VNI_LABEL, "")
    return (int(text), metadata.get("uid", "")) if NUMBER.fullmatch(text) else None


def _expected_on(labels: Mapping[str, str], data: Mapping[str, str], prefixes: Collection[str]) -> tuple[str, ...]:
    """The node labels of a record for nodes that have none of its sandboxes."""
    found = {label for label in labels if label.startswith(f"{NODE_LABEL}/")}
    nodes = (data.get(f"{prefix}.node") for prefix in prefixes)
    return tuple(shared_text(label) for label in sorted(found - {node_label(node) for node in nodes if node}))


def _labels(link: Link, state: State, kind: Kind | None) -> dict[str, str]:
    labels = {MANAGED_BY: MANAGER, STATE_LABEL: str(state)}
    if link.schema != EARLIER_SCHEMA:
        labels[SCHEMA_LABEL] = str(link.schema)
    if kind:
        labels[KIND_LABEL] = str(kind)
    if kind is Kind.VXLAN and link.vni is not None:
        labels[VNI_LABEL] = str(link.vni)
    labels |= dict.fromkeys(link.expected_on, "")
    for sandbox in (link.primary.sandbox, link.pair.sandbox):
        if sandbox:
            labels[node_label(sandbox.node)] = ""
            labels[pod_label(sandbox.pod.namespace, sandbox.pod.name)] = ""
    return labels


def _prefixes(link: Link) -> dict[Side, str]:
    """The prefix of each end's keys."""
    if link.schema == EARLIER_SCHEMA:
        return {side: str(side) for side in SIDES}
    primary, pair = ((end.name, end.ifname) for end in (link.primary, link.pair))
    first, second = _LETTERS if in_order(primary, pair) == (primary, pair) else reversed(_LETTERS)
    return {Side.PRIMARY: first, Side.PAIR: second}


def _decode_prefixes(data: Mapping[str, str], schema: int) -> tuple[str, str]:
    """The prefixes of the primary's and the pair's keys. Raises KeyError or ValueError."""
    if schema == EARLIER_SCHEMA:
        return str(Side.PRIMARY), str(Side.PAIR)
    primary = data[_PRIMARY]
    if primary not in _LETTERS:
        raise ValueError(f"{_PRIMARY} is {primary!r:.80}, not one of {', '.join(_LETTERS)}")
    return primary, _LETTERS[1 - _LETTERS.index(primary)]


def _decode_encapsulation(data: Mapping[str, str]) -> Encapsulation:
    tunnel = data.get(_TUNNEL) == Kind.VXLAN
    port = decode_number(data, _PORT, _PORTS) if _PORT in data else None
    return Encapsulation(tunnel, port) if tunnel or port else DEFAULT_ENCAPSULATION


def _decode_wiring(text: str) -> Wiring:
    """Raises ValueError."""
    if text not in _WIRINGS:
        raise ValueError(f"{_WIRING} is {text!r:.80}, not one of {', '.join(_WIRINGS)}")
    return _WIRINGS[text]


def _refused(data: Mapping[str, str]) -> list[str]:
    """The refused VNIs as text."""
    text = data.get(_REFUSED, "")
    return text.split(",") if text else []


def _encode_transition(step: Transition) -> str:
    return f"{encode_moment(step.at)} {step.source} → {step.target}: {step.reason}"


def _refuse_newer(name: str, data: Mapping[str, str], schema: int) -> None:
    """Raise NewerRecordError for a record that this version may not use."""
    least = decode_number(data, _MIN_READER, _SCHEMAS) if _MIN_READER in data else schema
    if least > READ_SCHEMA:
        raise NewerRecordError(
            f"cannot use the record {name}: it needs a version that reads schema {least}, not {READ_SCHEMA}",
            record=name,
            details="upgrade Ratchet on this node",
        )


def _decode_history(text: str) -> tuple[tuple[Transition, ...], tuple[str, ...]]:
    """The transitions of a history, and its malformed lines."""
    steps, unread = list[Transition](), list[str]()
    for line in filter(None, text.split("\n")):
        step = _decode_transition(line)
        if step is not None:
            steps.append(step)
        else:
            unread.append(line)
    return tuple(steps), tuple(unread[-UNREAD_KEPT:])


def _decode_transition(line: str) -> Transition | None:
    """The transition of a line `<time> <state> → <state>: <reason>`; None if the line is malformed."""
    head, _, reason = line.partition(": ")
    match head.split(" "):
        case [moment, source, "→", target]:
            at = decode_moment(moment)
            with suppress(ValueError):
                return Transition(at, State(source), State(target), shared_text(reason)) if at is not None else None
    return None
