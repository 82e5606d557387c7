"""Links as ConfigMaps and VNIs as Leases, and back: plain JSON objects of the Kubernetes API.

A record is flat so that `kubectl get configmap -o yaml` reads like a form: what is wanted of each end, what each end's
node has noted, the state that this amounts to, and how it got there.

In schema 1 the keys of an end begin with its role, `primary.` or `pair.`, and `stands` is what it is made toward. In
schema 2 they begin with `a.` or `b.`, in the order of the endpoints in the record's name. `primary` says which of the
two is the primary, `ready` for which peer an end is made. `minReader` is the least schema that a reader must know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ratchet.core.endpoint_spec import UNSET, EndpointSpec
from ratchet.core.garbage import VniLease
from ratchet.core.heartbeat import NodeLease
from ratchet.core.intent import TOPOLOGY_KEY
from ratchet.core.intent.pods import ENABLED
from ratchet.core.model import (
    CURRENT_SCHEMA,
    DEFAULT_ENCAPSULATION,
    EARLIER_SCHEMA,
    MIRROR_ANNOTATION,
    SIDES,
    Address,
    Encapsulation,
    End,
    Kind,
    Link,
    Pod,
    PodRef,
    ReadyFor,
    Sandbox,
    Side,
    State,
    Topology,
    Transition,
)
from ratchet.core.naming import (
    KIND_LABEL,
    LEASE_LABEL,
    MANAGED_BY,
    NODE_LABEL,
    SCHEMA_LABEL,
    STATE_LABEL,
    VNI_LABEL,
    in_order,
    node_label,
    node_lease_name,
    pod_label,
    vni_lease_name,
    vni_of_lease,
)
from ratchet.core.shared import shared_address, shared_text
from ratchet.core.state_machine import derive
from ratchet.errors import MalformedRecordError, NewerRecordError
from ratchet.store.endpoint_spec import END_PROPERTIES, decode_properties, encode_properties

Json = dict[str, Any]

MANAGER = "ratchet"
LINK_ANNOTATION = "ratchet.link"
VTEP_ANNOTATION = "ratchet.vtep"
# Of a node's Lease: the newest format of records that its agent reads, and the renewal that says so. An earlier agent
# that renews the Lease after a rollback leaves the annotation as it is.
SCHEMA_ANNOTATION = "ratchet.schema"
# Likewise the format in which the agent writes new records.
WRITTEN_SCHEMA_ANNOTATION = "ratchet.written-schema"
_MIRROR_MAX = 128  # characters; the kubelet's own are 32 or 36
_NUMBER = re.compile(r"[0-9]{1,18}")
_GENERATIONS = range(1, 10**18)
_VNIS = range(1, 1 << 24)
_PORTS = range(1, 1 << 16)
_REFUSED = "refused_vnis"
_TUNNEL, _PORT = "kind_wanted", "vxlan_port"
_SCHEMA, _MIN_READER, _PRIMARY = "schema", "minReader", "primary"
_LETTERS = ("a", "b")
_SETTINGS_START = f"{ENABLED}."
_NO_TEXTS: Mapping[str, str] = {}  # of all that have none
_SCHEMAS = range(EARLIER_SCHEMA, 1 << 16)
_COOKIES = range(1 << 63)
UNREAD_KEPT = 12  # lines
_SANDBOX_KEYS = {"pod", "uid", "mirror", "node", "vtep", "sandbox", "netns", "cookie", "stands", "ready"}
# Written in schema 2 only: agents that write schema 1 take keys that they do not know for notes, and keep them.
_UNDERLAY_KEYS = {"underlay_mtu", "vteps"}
_LEFT_KEYS = _SANDBOX_KEYS | _UNDERLAY_KEYS
_UNDERLAY_MTUS = range(1, 1 << 31)
_END_KEYS = END_PROPERTIES | {"name", "ifname", "addresses"} | _SANDBOX_KEYS | _UNDERLAY_KEYS


def encode_link(link: Link) -> Json:
    """The link's ConfigMap, without what the API server fills in (but for the versions it was read at)."""
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
    if link.encapsulation.vxlan_port is not None:
        data[_PORT] = str(link.encapsulation.vxlan_port)
    prefixes = _prefixes(link)
    if link.schema != EARLIER_SCHEMA:
        # What a newer version has written here stays: a patch has only what differs between two encodings.
        readers = str(min(link.schema, CURRENT_SCHEMA))
        data |= {_SCHEMA: str(link.schema), _MIN_READER: readers, _PRIMARY: prefixes[Side.PRIMARY]}
    for side in SIDES:
        data |= _encode_end(prefixes[side], link.end(side), link.schema)
    if lines := [*link.unread, *map(_encode_transition, link.history)]:
        data["history"] = "\n".join(lines)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": link.name, "labels": _labels(link, state, kind)},
        "data": data,
    }


def decode_link(config_map: Mapping[str, Any]) -> Link:
    """The link that a ConfigMap holds.

    A record of a newer version is read as one of this version if its `minReader` allows it. Unknown keys, and lines of
    history that cannot be read, are kept. Raises NewerRecordError where `minReader` does not allow it, otherwise
    MalformedRecordError, naming the record and the key.
    """
    metadata = config_map.get("metadata", {})
    name = shared_text(metadata.get("name", "?"))
    data: Mapping[str, str] = config_map.get("data") or {}
    try:
        namespace = shared_text(data["namespace"])
        schema = _decode_number(data, _SCHEMA, _SCHEMAS) if _SCHEMA in data else EARLIER_SCHEMA
        _refuse_newer(name, data, schema)
        history, unread = _decode_history(data.get("history", ""))
        primary, pair = _decode_prefixes(data, schema)
        fields = _fields_of_ends(data, (primary, pair))
        return Link(
            name=name,
            namespace=namespace,
            primary=_decode_end(primary, namespace, fields[primary], schema),
            pair=_decode_end(pair, namespace, fields[pair], schema),
            encapsulation=_decode_means(data),
            generation=_decode_number(data, "generation", _GENERATIONS),
            vni=_decode_number(data, "vni", _VNIS) if "vni" in data else None,
            refused_vnis=tuple(_decode_number({_REFUSED: one}, _REFUSED, _VNIS) for one in _refused(data)),
            history=history,
            schema=schema,
            unread=unread,
            expected_on=_expected_on(metadata.get("labels") or {}, data, (primary, pair)),
            uid=metadata.get("uid", ""),
            resource_version=metadata.get("resourceVersion", ""),
            created=decode_time(metadata.get("creationTimestamp")),
        )
    except NewerRecordError:
        raise
    except KeyError as cause:
        raise MalformedRecordError(f"cannot read the record {name}: it has no {cause.args[0]}", record=name) from cause
    except ValueError as cause:
        raise MalformedRecordError(f"cannot read the record {name}: {cause}", record=name) from cause


def stored_link(link: Link, encoded: Json, answer: Mapping[str, Any]) -> Link:
    """A link that was written, so `encoded`, as the API server answers that it is stored.

    Read only where it is another than was written, which who may change what is written on its way can do.
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
    """The merge patch by which a sandbox leaves a record that this version may not use; None where it is not in it.

    In every schema a sandbox's keys begin with its end's prefix, and `<prefix>.sandbox` is its container id.
    """
    metadata, data = config_map["metadata"], config_map.get("data") or {}
    prefix = next((key.removesuffix("sandbox") for key in data if _is_sandbox(key, data[key], container_id)), None)
    if prefix is None:
        return None
    gone = {key: None for key in data if key.startswith(prefix) and key.removeprefix(prefix) in _LEFT_KEYS}
    return {"metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}, "data": gone}


def _is_sandbox(key: str, value: str, container_id: str) -> bool:
    return key.endswith(".sandbox") and value == container_id


def link_patch(before: Link, new: Json) -> Json:
    """The merge patch (RFC 7386) that makes a record into one so encoded and no more, on the version that was read."""
    old = encode_link(before)
    return {
        "metadata": {
            "uid": before.uid,
            "resourceVersion": before.resource_version,
            "labels": _changes(old["metadata"]["labels"], new["metadata"]["labels"]),
        },
        "data": _changes(old["data"], new["data"]),
    }


def encode_vni_lease(vni: int, link: Link) -> Json:
    """The Lease that claims a VNI for the record with `link.uid`, labelled with the nodes of the link."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": vni_lease_name(vni),
            "labels": {MANAGED_BY: MANAGER} | dict.fromkeys(sorted(node_labels(link)), ""),
            "annotations": {LINK_ANNOTATION: link.name},
        },
        "spec": {"holderIdentity": link.uid},
    }


def node_labels(link: Link) -> frozenset[str]:
    """The keys of the labels that name the nodes of a link's ends."""
    return frozenset(map(node_label, link.nodes))


def lease_labels_patch(lease: VniLease, link: Link) -> Json | None:
    """The merge patch that labels a VNI Lease with the nodes of its link, on the version that was read.

    None if it has these labels and no others of nodes.
    """
    changes = _changes(dict.fromkeys(lease.node_labels, ""), dict.fromkeys(node_labels(link), ""))
    if not changes:
        return None
    return {"metadata": {"uid": lease.uid, "resourceVersion": lease.resource_version, "labels": changes}}


def decode_vni_lease(lease: Mapping[str, Any]) -> VniLease | None:
    """The VNI that a Lease claims; None where the Lease is about something else."""
    metadata = lease.get("metadata", {})
    vni = vni_of_lease(metadata.get("name", ""))
    if vni is None:
        return None
    return VniLease(
        vni=vni,
        holder=(lease.get("spec") or {}).get("holderIdentity") or "",
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
        created=decode_time(metadata.get("creationTimestamp")),
        node_labels=frozenset(key for key in metadata.get("labels") or () if key.startswith(f"{NODE_LABEL}/")),
    )


def record_vni(config_map: Mapping[str, Any]) -> tuple[int, str] | None:
    """The VNI in a record's labels and the record's UID; None where it has none. The data may be left out."""
    metadata = config_map.get("metadata", {})
    text = (metadata.get("labels") or {}).get(VNI_LABEL, "")
    return (int(text), metadata.get("uid", "")) if _NUMBER.fullmatch(text) else None


def encode_node_lease(lease: NodeLease, seconds: float, now: datetime) -> Json:
    """The Lease of a node that is alive, valid for so many seconds from `now`."""
    renewed = now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": node_lease_name(lease.node),
            "labels": {MANAGED_BY: MANAGER, LEASE_LABEL: "node"},
            "annotations": {
                VTEP_ANNOTATION: lease.vtep,
                SCHEMA_ANNOTATION: f"{lease.schema} {renewed}",
                WRITTEN_SCHEMA_ANNOTATION: f"{lease.written_schema} {renewed}",
            },
        },
        "spec": {
            "holderIdentity": lease.node,
            "leaseDurationSeconds": int(seconds),
            "renewTime": renewed,
        },
    }


def decode_node_lease(lease: Mapping[str, Any]) -> NodeLease:
    metadata, spec = lease.get("metadata", {}), lease.get("spec") or {}
    annotations, renewed = metadata.get("annotations") or {}, spec.get("renewTime") or ""
    return NodeLease(
        node=spec.get("holderIdentity") or "",
        vtep=annotations.get(VTEP_ANNOTATION, ""),
        schema=_announced_schema(annotations.get(SCHEMA_ANNOTATION, ""), renewed),
        written_schema=_announced_schema(annotations.get(WRITTEN_SCHEMA_ANNOTATION, ""), renewed),
        version=metadata.get("resourceVersion", ""),
        uid=metadata.get("uid", ""),
        renewed=_renew_time(lease),
    )


def _announced_schema(announced: str, renewed: str) -> int:
    """The schema in an annotation of the agent that last renewed a Lease; the earlier one if that agent wrote none."""
    schema, _, moment = announced.partition(" ")
    return int(schema) if _NUMBER.fullmatch(schema) and moment == renewed else EARLIER_SCHEMA


def _renew_time(lease: Mapping[str, Any]) -> datetime | None:
    """When a Lease was last renewed, by its writer's clock; None if that is missing or malformed."""
    try:
        return decode_time((lease.get("spec") or {}).get("renewTime"))
    except (TypeError, ValueError, OverflowError):
        return None


def decode_pod(pod: Mapping[str, Any]) -> Pod:
    """A pod of the API, as far as Ratchet looks: of its labels and annotations those that are settings of Ratchet's."""
    metadata = pod.get("metadata", {})
    spec = pod.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    return Pod(
        ref=PodRef(
            shared_text(metadata.get("namespace", "")),
            shared_text(metadata.get("name", "")),
            shared_text(metadata.get("uid", "")),
            _mirror(annotations),
        ),
        labels=_settings(metadata.get("labels") or {}),
        annotations=_settings(annotations),
        node=shared_text(spec.get("nodeName") or ""),
        phase=shared_text((pod.get("status") or {}).get("phase") or "Pending"),
        deleting=bool(metadata.get("deletionTimestamp")),
        created=decode_time(metadata.get("creationTimestamp")),
        gates=tuple(gate.get("conditionType") or "" for gate in spec.get("readinessGates") or ()),
    )


def _settings(said: Mapping[str, str]) -> Mapping[str, str]:
    """The labels or annotations that are Ratchet's. What kubectl or an operator adds may be kilobytes for each pod."""
    return {
        shared_text(key): shared_text(value)
        for key, value in said.items()
        if key == ENABLED or key.startswith(_SETTINGS_START)
    } or _NO_TEXTS


def _mirror(annotations: Mapping[str, str]) -> str:
    """The static pod's UID in a mirror pod's annotations. Records hold it, so an oversized value is ignored."""
    uid = annotations.get(MIRROR_ANNOTATION, "")
    return uid if len(uid) <= _MIRROR_MAX else ""


def decode_topology(config_map: Mapping[str, Any]) -> Topology:
    """A ConfigMap of the users' that lists links."""
    metadata = config_map.get("metadata", {})
    text = (config_map.get("data") or {}).get(TOPOLOGY_KEY) or ""
    return Topology(metadata.get("namespace", ""), metadata.get("name", ""), text)


def decode_time(text: str | None) -> datetime | None:
    """A moment as Kubernetes writes it (RFC 3339, UTC)."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def _expected_on(labels: Mapping[str, str], data: Mapping[str, str], prefixes: Collection[str]) -> tuple[str, ...]:
    """The labels of nodes of which the record holds no sandbox."""
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


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str | None]:
    gone: dict[str, str | None] = {key: None for key in old if key not in new}
    return gone | {key: value for key, value in new.items() if old.get(key) != value}


def _prefixes(link: Link) -> dict[Side, str]:
    """What the keys of each end begin with."""
    if link.schema == EARLIER_SCHEMA:
        return {side: str(side) for side in SIDES}
    primary, pair = ((end.name, end.ifname) for end in (link.primary, link.pair))
    first, second = _LETTERS if in_order(primary, pair) == (primary, pair) else reversed(_LETTERS)
    return {Side.PRIMARY: first, Side.PAIR: second}


def _decode_prefixes(data: Mapping[str, str], schema: int) -> tuple[str, str]:
    """What the keys of the primary's and of the pair's end begin with. Raises ValueError."""
    if schema == EARLIER_SCHEMA:
        return str(Side.PRIMARY), str(Side.PAIR)
    primary = data[_PRIMARY]
    if primary not in _LETTERS:
        raise ValueError(f"{_PRIMARY} is {primary!r:.80}, not one of {', '.join(_LETTERS)}")
    return primary, _LETTERS[1 - _LETTERS.index(primary)]


def _encode_end(prefix: str, end: End, schema: int) -> dict[str, str]:
    fields = dict(end.notes)
    fields |= {"name": end.name, "ifname": end.ifname, "addresses": ",".join(map(str, end.addresses))}
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
    return {f"{prefix}.{key}": value for key, value in fields.items()}


def _fields_of_ends(data: Mapping[str, str], prefixes: Collection[str]) -> dict[str, dict[str, str]]:
    """The keys of each end, without its prefix, and their values."""
    ends: dict[str, dict[str, str]] = {prefix: {} for prefix in prefixes}
    for key, value in data.items():
        prefix, dot, field = key.partition(".")
        if dot and prefix in ends:
            ends[prefix][field] = value
    return ends


def _decode_end(prefix: str, namespace: str, fields: Mapping[str, str], schema: int) -> End:
    """The end that these fields describe. Raises KeyError or ValueError, which begins with the key in the record."""
    try:
        return _decode_fields(namespace, fields, schema)
    except KeyError as cause:
        raise KeyError(f"{prefix}.{cause.args[0]}") from cause
    except ValueError as cause:
        raise ValueError(f"{prefix}.{cause}") from cause


def _decode_fields(namespace: str, fields: Mapping[str, str], schema: int) -> End:
    """As `_decode_end`, but errors name the key without its prefix."""
    sandbox = _decode_sandbox(namespace, fields, schema) if "sandbox" in fields else None
    key, word = _ready_words(schema)
    ready, addresses = fields.get(key), fields.get("addresses")
    return End(
        name=shared_text(fields["name"]),
        ifname=shared_text(fields["ifname"]),
        addresses=tuple(_decode_address(text) for text in addresses.split(",") if text) if addresses else (),
        properties=_decode_properties(fields),
        notes={key: value for key, value in fields.items() if key not in _END_KEYS} or _NO_TEXTS,
        sandbox=sandbox,
        ready=_decode_ready(key, word, ready) if ready else None,
    )


def _decode_sandbox(namespace: str, fields: Mapping[str, str], schema: int) -> Sandbox:
    return Sandbox(
        container_id=shared_text(fields["sandbox"]),
        pod=PodRef(namespace, shared_text(fields["pod"]), shared_text(fields["uid"]), fields.get("mirror", "")),
        node=shared_text(fields["node"]),
        netns=shared_text(fields["netns"]),
        vtep=shared_text(fields["vtep"]),
        cookie=_decode_number(fields, "cookie", _COOKIES) if "cookie" in fields else 0,
        underlay_mtu=_decode_number(fields, "underlay_mtu", _UNDERLAY_MTUS) if "underlay_mtu" in fields else 0,
        vteps=_decode_vteps(fields.get("vteps", "")),
    ).in_schema(schema)


def _decode_properties(fields: Mapping[str, str]) -> EndpointSpec:
    if END_PROPERTIES.isdisjoint(fields):
        return UNSET
    properties = decode_properties(fields)
    return UNSET if properties == UNSET else properties


def _decode_means(data: Mapping[str, str]) -> Encapsulation:
    tunnel = data.get(_TUNNEL) == Kind.VXLAN
    port = _decode_number(data, _PORT, _PORTS) if _PORT in data else None
    return Encapsulation(tunnel, port) if tunnel or port else DEFAULT_ENCAPSULATION


@lru_cache(maxsize=256)  # each is of a node
def _decode_vteps(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _refused(data: Mapping[str, str]) -> list[str]:
    """The items of the list of refused VNIs."""
    text = data.get(_REFUSED, "")
    return text.split(",") if text else []


def _decode_number(data: Mapping[str, str], key: str, valid: range) -> int:
    text = data[key]
    number = int(text) if _NUMBER.fullmatch(text) else -1
    if number not in valid:
        raise ValueError(f"{key} is {text!r:.80}, not a number from {valid[0]} to {valid[-1]}")
    return number


def _decode_address(text: str) -> Address:
    try:
        return shared_address(text)
    except ValueError as cause:
        raise ValueError(f"addresses has {text!r:.80}, which is no address") from cause


def _ready_words(schema: int) -> tuple[str, str]:
    """The key of what an end is made for, and the word before the peer in its value."""
    return ("stands", "toward") if schema == EARLIER_SCHEMA else ("ready", "peer")


def _decode_ready(key: str, word: str, text: str) -> ReadyFor:
    match text.split(" "):
        case [sandbox, found, peer, "generation", generation] if found == word and _NUMBER.fullmatch(generation):
            return ReadyFor(shared_text(sandbox), shared_text(peer), int(generation))
    raise ValueError(f"{key} is {text!r:.80}, not '<sandbox> {word} <peer> generation <number>'")


def _encode_transition(step: Transition) -> str:
    moment = step.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{moment} {step.source} → {step.target}: {step.reason}"


def _refuse_newer(name: str, data: Mapping[str, str], schema: int) -> None:
    """Raise NewerRecordError for a record that this version may not use."""
    least = _decode_number(data, _MIN_READER, _SCHEMAS) if _MIN_READER in data else schema
    if least > CURRENT_SCHEMA:
        raise NewerRecordError(
            f"cannot use the record {name}: it needs a version that reads schema {least}, not {CURRENT_SCHEMA}",
            record=name,
            details="upgrade Ratchet on this node",
        )


def _decode_history(text: str) -> tuple[tuple[Transition, ...], tuple[str, ...]]:
    """The steps of a history, and its lines that cannot be read."""
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
            with suppress(ValueError, OverflowError):
                at = datetime.fromisoformat(moment)
                if at.tzinfo is not None:
                    return Transition(at.astimezone(UTC), State(source), State(target), shared_text(reason))
    return None
