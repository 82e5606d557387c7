"""Serialization of dataclasses to plain JSON values, field by field."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_interface

from ratchet.core.endpoint_spec import EndpointSpec
from ratchet.core.kinds import Kind
from ratchet.core.serialize import plain


@dataclass(frozen=True, slots=True)
class Inner:
    to: object
    metric: int | None = None


@dataclass(frozen=True, slots=True)
class Outer:
    inner: tuple[Inner, ...]
    pairs: tuple[tuple[str, int], ...]
    kind: Kind
    on: bool
    named: dict[str, object]


def test_every_field_is_serialized_to_a_json_type() -> None:
    value = Outer(
        inner=(Inner(ip_interface("10.0.0.1/8")), Inner(None, 5)),
        pairs=(("a", 1), ("b", 2)),
        kind=Kind.VETH,
        on=True,
        named={"x": ip_interface("fd00::1/64")},
    )
    serialized = plain(value)
    assert serialized == {
        "inner": [{"to": "10.0.0.1/8", "metric": None}, {"to": None, "metric": 5}],
        "pairs": [["a", 1], ["b", 2]],
        "kind": "veth",
        "on": True,
        "named": {"x": "fd00::1/64"},
    }
    assert json.loads(json.dumps(serialized)) == serialized


def test_an_unset_property_of_an_end_is_serialized_as_null() -> None:
    serialized = plain(EndpointSpec(mtu=1400))
    assert (serialized["mtu"], serialized["mac"]) == (1400, None)
