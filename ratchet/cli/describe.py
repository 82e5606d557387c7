"""The text of `ratchet inspect`, in the format of `kubectl describe`.

Every property of an interface in the record or in the agent's response has a row, also one that this version does not
know: the record and the agent may be of another version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from ratchet.cli.link_table import age, table
from ratchet.cli.operation_state import acting, moment, operation_text
from ratchet.core.drift import Edits
from ratchet.core.endpoint_spec import EndpointSpec
from ratchet.core.escape import escape_unprintable
from ratchet.core.fragments import outer_packets
from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import Encapsulation, End, Link, Side
from ratchet.core.serialize import plain
from ratchet.core.state_machine import derive

Json = Mapping[str, Any]
Fields = list[tuple[str, str]]

# Properties of an interface that are of no use to people, or are listed as differences if they are wrong.
_LEFT_OUT = frozenset(
    {
        *("index", "ours", "wired", "given", "parent_index", "carrier_fixed", "entries", "options", "brought_up"),
        *("far_up", "complete", "stale_sysctls"),
    }
)
_NOTHING = "-"
NO_EDITS = Edits()


def describe_link(link: Link, observations: Mapping[Side, Json], now: datetime, edits: Edits = NO_EDITS) -> str:
    """The description of a link.

    `observations`: from the agents of its ends (JSON of `core.observation.Observation`). `edits`: the differences
    between the record and the declaration as it is now.
    """
    lines = list(_aligned([*_head(link, now), *_edited(link, edits)]))
    for side in Side:
        lines += [f"{side.capitalize()}:", *_indented(_end(link, side, observations.get(side)))]
    lines.append("History:")
    steps = [(moment(step.at), step.source.value, step.target.value, step.reason) for step in link.history]
    lines += _indented(table([("WHEN", "FROM", "TO", "WHY"), *steps]).splitlines() if steps else ["none"])
    return "\n".join(map(escape_unprintable, lines))


def _head(link: Link, now: datetime) -> Fields:
    encapsulation = [(f"{key} (asked for)", _text(value)) for key, value in _declared(link.encapsulation).items()]
    since = f", for {age(link.history[-1].at, now)}" if link.history else ""
    return [
        ("Name", link.name),
        ("Namespace", link.namespace),
        ("State", f"{derive(link)}{since}"),
        *_operation(link, now),
        ("Kind", link.kind.value if link.kind else _NOTHING),
        *([("Wiring", link.wiring.value)] if link.wiring is not Wiring.DIRECT else []),
        ("VNI", str(link.vni) if link.vni is not None else _NOTHING),
        *encapsulation,
        ("Generation", f"{link.generation}{_observed_generation(link)}"),
        ("Created", f"{moment(link.created)}, {age(link.created, now)} ago" if link.created else _NOTHING),
    ]


def _operation(link: Link, now: datetime) -> Fields:
    operation = acting(link, now)
    return [("Operation", operation_text(operation, now))] if operation is not None else []


def _observed_generation(link: Link) -> str:
    made = link.observed_generation
    return f", and it is still made as of {made}" if made not in (None, link.generation) else ""


def _edited(link: Link, edits: Edits) -> Fields:
    if not edits or link.primary.sandbox is None:
        return []
    first, *others = edits.words
    if edits.live:
        return [
            ("Edited", f"the agent of node {link.primary.sandbox.node} applies {first}"),
            *(("", one) for one in others),
        ]
    return [("Wants a restart", f"of pod {link.primary.sandbox.pod}: {first}"), *(("", one) for one in others)]


def _end(link: Link, side: Side, observation: Json | None) -> Iterator[str]:
    end, sandbox = link.end(side), link.sandbox(side)
    fields: Fields = [("Name", end.name)]
    if sandbox is None:
        fields.append(("Pod", "none has joined"))
    else:
        fields += [
            ("Pod", f"{sandbox.pod.name}, UID {sandbox.pod.uid}"),
            ("Node", sandbox.node),
            ("VTEPs", ", ".join(sandbox.vteps or (sandbox.vtep,))),
            ("Underlay MTU", str(sandbox.underlay_mtu or _NOTHING)),
            ("Sandbox", f"{sandbox.container_id}, {sandbox.netns}"),
            ("Stands", "yes" if link.is_ready(side) else "no"),
        ]
    if end.error is not None:
        fields.append(("Last error", f"{end.error.text} (since {moment(end.error.at)})"))
    fields += [("Note", f"{key}: {value}") for key, value in sorted(end.notes.items())]
    fields += _fragments(link, side, observation or {})
    if observation is not None:
        fields += _observation_fields(observation)
    yield from _aligned(fields)
    yield "Interface:"
    yield from _indented(table(_interface(end, observation)).splitlines())
    if observation is not None and observation.get("live"):
        yield "Counters:"
        yield from _indented(table(_counters(observation["live"])).splitlines())


def _fragments(link: Link, side: Side, observation: Json) -> Fields:
    """The outer packets of a full-size packet, if this end's node fragments it."""
    sandbox, mtu = link.sandbox(side), (observation.get("device") or {}).get("mtu") or link.end(side).properties.mtu
    addresses = link.tunnel_addresses(side)
    if link.wiring is not Wiring.PANEL or link.kind is not Kind.VXLAN or sandbox is None or addresses is None:
        return []
    if not mtu or not sandbox.underlay_mtu or ":" in addresses[0]:
        return []
    packets = outer_packets(mtu, sandbox.underlay_mtu)
    return [("Fragmented", f"a packet of {mtu} bytes takes {packets} outer packets")] if packets > 1 else []


def _proof_fields(proof: Json | None) -> Fields:
    """What OAM frames prove of a tunnel in the patch panel."""
    if not proof:
        return []
    if (silent := proof.get("silent")) is not None:
        return [("Silent", f"for {silent:.0f} s: no frame of the peer's panel arrives over the tunnel")]
    verified = proof.get("verified")
    return [("Verified", "not yet" if verified is None else f"{verified:.0f} s ago, by a frame of the peer's panel")]


def _observation_fields(observation: Json) -> Fields:
    fields: Fields = []
    if observation.get("at"):
        fields.append(("Observed", f"{moment(datetime.fromisoformat(observation['at']))}, by the agent of its node"))
    if observation.get("fault"):
        return [*fields, ("Not observed", observation["fault"])]
    device = observation.get("device") or {}
    if device.get("brought_up") and not device.get("up"):
        fields.append(("Shut", f"by its pod: ip link set {device['ifname']} up, in the pod, ends it"))
    if device.get("far_up") is False:
        fields.append(("Peer shut", "by its pod on the other node. Until it is up, this end has no carrier"))
    fields += _proof_fields(observation.get("proof"))
    found = observation.get("differences") or ["none"]
    return [*fields, *(("Differences" if index == 0 else "", text) for index, text in enumerate(found))]


def _interface(end: End, observation: Json | None) -> list[tuple[str, ...]]:
    named = {"ifname": end.ifname, "addresses": plain(end.addresses)}
    wanted = {**named, **_declared(end.properties)}
    device = (observation or {}).get("device") or {}
    observed = {key: value for key, value in device.items() if key not in _LEFT_OUT}
    if observed and observation and observation.get("live"):
        observed["carrier"] = observation["live"]["carrier"]
    rows: list[tuple[str, ...]] = [("", "WANTED", "OBSERVED")]
    for key in {**named, **plain(end.properties), **observed}:
        cells = _cells(wanted.get(key)), _cells(observed.get(key))
        for number in range(max(map(len, cells))):
            texts = (column[number] if number < len(column) else "" for column in cells)
            rows.append((key if number == 0 else "", *texts))
    return rows


def _declared(what: EndpointSpec | Encapsulation) -> Json:
    """The declared properties. The others are left to Ratchet or the kernel."""
    defaults = plain(type(what)())
    return {key: value for key, value in plain(what).items() if value != defaults[key]}


def _counters(live: Json) -> list[tuple[str, ...]]:
    kinds = list(live["rx"])
    ways = [(way, *(str(live[way].get(kind, _NOTHING)) for kind in kinds)) for way in ("rx", "tx")]
    return [("", *map(str.upper, kinds)), *ways]


def _cells(value: object) -> list[str]:
    """The lines of a value; none for None."""
    if isinstance(value, list):
        return [_text(one) for one in value]
    return [] if value is None else [_text(value)]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items() if one is not None)
    if isinstance(value, list):
        return " = ".join(map(_text, value))
    return str(value)


def _aligned(fields: Fields) -> Iterator[str]:
    width = max(len(name) for name, _ in fields) + 1
    for name, value in fields:
        yield f"{f'{name}:' if name else '':<{width}}  {value}"


def _indented(lines: list[str] | Iterator[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)
