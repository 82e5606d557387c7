"""Values as plain JSON, field by field, whatever fields there are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_interface

from ratchet.core.endpoint_spec import EndpointSpec
from ratchet.core.model import Kind
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


def test_every_field_is_there_in_what_json_has() -> None:
    value = Outer(
        inner=(Inner(ip_interface("10.0.0.1/8")), Inner(None, 5)),
        pairs=(("a", 1), ("b", 2)),
        kind=Kind.VETH,
        on=True,
        named={"x": ip_interface("fd00::1/64")},
    )
    shown = plain(value)
    assert shown == {
        "inner": [{"to": "10.0.0.1/8", "metric": None}, {"to": None, "metric": 5}],
        "pairs": [["a", 1], ["b", 2]],
        "kind": "veth",
        "on": True,
        "named": {"x": "fd00::1/64"},
    }
    assert json.loads(json.dumps(shown)) == shown


def test_the_properties_of_an_end() -> None:
    shown = plain(EndpointSpec(mtu=1400))
    assert (shown["mtu"], shown["mac"]) == (1400, None)
