"""Operations on links: their text, and what they make of a link at one time."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core.endpoint_spec import EndpointSpec, EndState
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link, Side
from ratchet.core.operations import (
    ENTRIES_MOST,
    MOST_SECONDS,
    SIZE_MOST,
    TIMES_MOST,
    Operation,
    Operations,
    Verb,
    parse_operation,
    parse_operations,
)
from ratchet.core.overrides import AS_DECLARED, Override, Phase, key_of, phase_of, sender_side
from ratchet.store.codec.links import decode_link, encode_link
from tests.support.links import veth, wanted

UP, DOWN, CUT = EndState.UP, EndState.DOWN, EndState.CUT
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def link_with(primary: EndState = UP, pair: EndState = UP) -> Link:
    link = replace(wanted(), wiring=Wiring.PANEL)
    for side, state in zip(Side, (primary, pair), strict=True):
        link = link.with_end(side, replace(link.end(side), properties=EndpointSpec(state=state)))
    return link


def states_of(link: Link) -> tuple[EndState, EndState]:
    return link.primary.properties.state, link.pair.properties.state


@pytest.mark.parametrize(
    ("fields", "words", "seconds"),
    [
        ({"operation": "down"}, "down", None),
        ({"operation": "up", "for": "1m30s"}, "up", 90.0),
        ({"operation": "cut"}, "cut", None),
        ({"operation": "cut", "from": "r1:eth1", "for": "200ms"}, "cut from r1:eth1", 0.2),
        ({"operation": "flap"}, "flap 5 times, 1s down and 1s up", 9.0),
        (
            {"operation": "flap", "times": 2, "down": "200ms", "up": "2s"},
            "flap 2 times, 200ms down and 2s up",
            2.4,
        ),
        ({"operation": "flap", "for": "3s"}, "flap 5 times, 1s down and 1s up", 3.0),
        ({"operation": "flap", "times": TIMES_MOST, "up": "720h"}, None, MOST_SECONDS),
    ],
)
def test_an_operation_is_read_from_its_fields(fields: dict[str, Any], words: str | None, seconds: float | None) -> None:
    operation = parse_operation(json.dumps(fields | {"by": "alice", "at": "2026-01-31T12:00:00Z"}))

    assert (operation.by, operation.at) == ("alice", NOON)
    assert operation.total_seconds == pytest.approx(seconds) if seconds is not None else operation.seconds is None
    assert words is None or operation.words == words
    until = None if seconds is None else NOON + timedelta(seconds=seconds)
    assert operation.recorded(NOON).until == until


@given(
    verb=st.sampled_from(Verb),
    seconds=st.none() | st.integers(50, 10**9).map(lambda ms: ms / 1000),
    times=st.integers(1, TIMES_MOST),
    by=st.text(max_size=20),
)
def test_an_operation_is_what_its_text_says(verb: Verb, seconds: float | None, times: int, by: str) -> None:
    sender = ("r1", "eth1") if verb is Verb.CUT else None
    operation = Operation("", verb, seconds, sender, by=by, at=NOON)
    if verb is Verb.FLAP:
        operation = replace(operation, times=times, down_seconds=0.2)

    read = parse_operation(operation.as_text())

    assert read.total_seconds == pytest.approx(operation.total_seconds)
    assert (read.as_text(), read.recorded(NOON).words) == (operation.as_text(), operation.words)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "expected JSON such as"),
        ("[" * 100_000, "expected JSON such as"),
        ('"down"', "expected a JSON object"),
        ("{}", "operation: it is missing"),
        ('{"operation": "reboot"}', 'operation: invalid operation "reboot": expected up, down, cut, flap'),
        ('{"operation": ["down"]}', "operation: invalid operation"),
        ('{"operation": "down", "fro": "r1:eth1"}', 'unknown field "fro"'),
        ('{"operation": "down", "from": "r1:eth1"}', 'from: an operation "down" has no such field'),
        ('{"operation": "cut", "times": 3}', 'times: an operation "cut" has no such field'),
        ('{"operation": "cut", "from": "r1"}', 'from: invalid endpoint "r1"'),
        ('{"operation": "cut", "from": "r1:a\\u001bb"}', 'from: invalid endpoint "r1:a\\x1bb"'),
        ('{"operation": "down", "for": 30}', 'for: invalid value "30": expected text'),
        ('{"operation": "down", "for": "-3s"}', 'for: invalid duration "-3s"'),
        ('{"operation": "down", "for": "0s"}', 'for: invalid duration "0s": expected 50ms to 720h'),
        ('{"operation": "down", "for": "721h"}', 'for: invalid duration "721h": expected 50ms to 720h'),
        ('{"operation": "flap", "times": 0}', 'times: invalid number "0"'),
        ('{"operation": "flap", "times": true}', 'times: invalid number "True"'),
        ('{"operation": "flap", "down": "1us"}', 'down: invalid duration "1us"'),
        ('{"operation": "down", "at": "noon"}', 'at: invalid time "noon"'),
        ('{"operation": "down", "at": "2026-01-31T12:00:00"}', "at: invalid time"),
        ('{"operation": "down", "at": "0001-01-01T00:00:00+14:00"}', "at: invalid time"),
        ('{"operation": "down", "by": 7}', 'by: invalid value "7": expected text'),
    ],
)
def test_an_invalid_operation_is_rejected_with_its_field(text: str, cause: str) -> None:
    with pytest.raises(ValueError) as rejected:
        parse_operation(text)

    assert cause in str(rejected.value)


def test_an_invalid_operation_leaves_the_others() -> None:
    operations = parse_operations({"one": '{"operation": "down"}', "other": "down"})

    assert ([*operations.valid], [*operations.invalid]) == (["one"], ["other"])
    assert operations.fault == ""


@pytest.mark.parametrize(
    "data",
    [{str(number): "{}" for number in range(ENTRIES_MOST + 1)}, {"one": "x" * SIZE_MOST}],
    ids=["entries", "bytes"],
)
def test_too_many_operations_are_not_read(data: dict[str, str]) -> None:
    operations = parse_operations(data)

    assert not operations.valid
    assert not operations.invalid
    assert operations.fault


@pytest.mark.parametrize(
    ("override", "declared", "states"),
    [
        (AS_DECLARED, (UP, CUT), (UP, CUT)),
        (Override(Verb.DOWN), (UP, CUT), (DOWN, DOWN)),
        (Override(Verb.UP), (DOWN, DOWN), (UP, UP)),
        (Override(Verb.UP), (CUT, UP), (UP, UP)),
        (Override(Verb.CUT), (UP, UP), (CUT, CUT)),
        (Override(Verb.CUT, Side.PAIR), (UP, UP), (UP, CUT)),
        (Override(Verb.CUT, Side.PAIR), (CUT, UP), (CUT, CUT)),
        # A cut raises no link that is declared down.
        (Override(Verb.CUT), (DOWN, DOWN), (DOWN, DOWN)),
    ],
)
def test_an_override_replaces_the_declared_states(
    override: Override, declared: tuple[EndState, EndState], states: tuple[EndState, EndState]
) -> None:
    assert states_of(override.applied_to(link_with(*declared))) == states


FLAP = Operation("1", Verb.FLAP, times=2, down_seconds=0.5, up_seconds=2.0)
DOWN_NOW = Override(Verb.DOWN)


@pytest.mark.parametrize(
    ("operation", "elapsed", "phase"),
    [
        (Operation("1", Verb.DOWN), 1e6, Phase(DOWN_NOW)),
        (Operation("1", Verb.DOWN, 30.0), 10.0, Phase(DOWN_NOW, 20.0)),
        (Operation("1", Verb.DOWN, 30.0), 30.0, Phase(AS_DECLARED, ended=True)),
        # A clock that lags behind the recorded start makes an operation no longer than its duration plus the lag.
        (Operation("1", Verb.DOWN, 30.0), -1.0, Phase(DOWN_NOW, 31.0)),
        (FLAP, 0.0, Phase(DOWN_NOW, 0.5)),
        (FLAP, 0.5, Phase(AS_DECLARED, 2.0)),
        (FLAP, 2.5, Phase(DOWN_NOW, 0.5)),
        (FLAP, 3.0, Phase(AS_DECLARED, ended=True)),
        (replace(FLAP, seconds=0.25), 0.125, Phase(DOWN_NOW, 0.125)),
        (replace(FLAP, seconds=0.2), 0.2, Phase(AS_DECLARED, ended=True)),
    ],
)
def test_an_operation_acts_for_its_time(operation: Operation, elapsed: float, phase: Phase) -> None:
    assert phase_of(operation, elapsed) == phase


def test_the_sender_is_found_by_any_name_of_its_pod() -> None:
    record = veth()
    end, sandbox = record.pair, record.pair.sandbox
    assert sandbox is not None

    for name in (end.name, sandbox.pod.name):
        assert sender_side(Operation("1", Verb.CUT, sender=(name, end.ifname)), record) is Side.PAIR
    with pytest.raises(ValueError, match="from: the link has no endpoint r9:eth1"):
        sender_side(Operation("1", Verb.CUT, sender=("r9", "eth1")), record)


def test_the_key_of_an_operation_is_any_name_of_the_record() -> None:
    record, operation = wanted(), Operation("1", Verb.DOWN)

    for operations in (
        Operations({record.name: operation}, {}),
        Operations({}, {record.name: "invalid"}),
    ):
        assert key_of(operations, record) == record.name
        alias = record.with_end(Side.PAIR, replace(record.pair, name="alias"))
        assert key_of(operations, replace(alias, name="lab.other")) is None
    assert key_of(Operations({}, {}), record) is None


def test_a_record_keeps_its_operation() -> None:
    recorded = Operation("1", Verb.DOWN, 30.0, by="alice").recorded(NOON)
    link = replace(wanted(), operation=recorded)
    encoded = encode_link(link)

    assert decode_link(encoded).operation == recorded
    assert encoded["data"]["operation"] == "down"
    encoded["data"]["operation.since"] = "noon"
    assert decode_link(encoded).operation is None
