"""OAM frames: their bytes, what an end accepts and concludes, and when it sends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core import oam
from ratchet.core.oam import OamFrame, OamSchedule, OamState, decode, encode, record_id, sandbox_id

UID = "3f2b8c1e-0d4a-4a57-9a61-5c0e6f7a8b9c"
RECORD, SANDBOX, NEXT_SANDBOX = record_id(UID), sandbox_id("one"), sandbox_id("two")
FRAME = OamFrame(RECORD, 1, SANDBOX, start=5, sequence=7, pod_up=True)
PAYLOAD = (
    bytes.fromhex("524154 0001 01 01 01 3f2b8c1e0d4a4a579a615c0e6f7a8b9c")
    + SANDBOX
    + bytes([0] * 7 + [5])
    + bytes([0] * 7 + [7])
)
STATE = OamState(RECORD, 0, since=100.0)

u64 = st.integers(0, 2**64 - 1)
frames = st.builds(
    OamFrame,
    record=st.binary(min_size=16, max_size=16),
    end=st.sampled_from((0, 1)),
    sandbox=st.binary(min_size=8, max_size=8),
    start=u64,
    sequence=u64,
    pod_up=st.booleans(),
    asks=st.booleans(),
)


def test_the_bytes_of_a_frame() -> None:
    assert encode(FRAME) == PAYLOAD
    assert decode(PAYLOAD) == FRAME


def test_the_identifiers_are_locally_administered_and_the_destination_is_a_group() -> None:
    assert oam.OUI[0] & 0b11 == 0b10
    assert oam.DESTINATION[0] & 0b11 == 0b11


@given(frames, st.binary(max_size=64))
def test_a_frame_is_read_as_it_was_sent_whatever_follows(frame: OamFrame, tail: bytes) -> None:
    assert decode(encode(frame) + tail) == frame


@given(st.binary(max_size=128) | st.binary(max_size=128).map(lambda tail: PAYLOAD[:6] + tail))
def test_arbitrary_bytes_are_a_frame_or_nothing(payload: bytes) -> None:
    frame = decode(payload)
    if frame is not None:
        assert decode(encode(frame)) == frame


def changed(at: int, value: int) -> bytes:
    return PAYLOAD[:at] + bytes([value]) + PAYLOAD[at + 1 :]


NO_FRAME = {
    "nothing": b"",
    "too short": PAYLOAD[:-1],
    "another OUI": changed(2, 0),
    "another protocol": changed(4, 2),
    "version 0": changed(5, 0),
    "version 2": changed(5, 2),
    "a third end": changed(7, 2),
}


@pytest.mark.parametrize("what", NO_FRAME)
def test_what_is_no_frame(what: str) -> None:
    assert decode(NO_FRAME[what]) is None


def test_flags_of_later_versions_are_ignored() -> None:
    assert decode(changed(6, 0xFF)) == FRAME._replace(asks=True)
    assert decode(changed(6, 0xFC)) == FRAME._replace(pod_up=False)


def test_a_uid_that_is_no_uuid_has_an_identifier_of_its_own() -> None:
    assert record_id(UID).hex() == UID.replace("-", "")
    assert len({record_id(uid) for uid in ("uid-1", "uid-2", "", UID)}) == 4
    assert {len(record_id(uid)) for uid in ("uid-1", "", UID)} == {16}


# What an end that has heard FRAME does with another one: the change, and whether it is accepted.
NEXT: dict[str, tuple[dict[str, Any], bool]] = {
    "the same again": ({}, False),
    "an earlier one": ({"sequence": 6}, False),
    "a later one": ({"sequence": 8}, True),
    "a later one of another link": ({"sequence": 8, "record": record_id("other")}, False),
    "its own": ({"sequence": 8, "end": 0}, False),
    "the first one of a restarted agent": ({"start": 6, "sequence": 0}, True),
    "one of an agent that has been restarted": ({"start": 4, "sequence": 8}, False),
    "one of the peer's next sandbox, on a node with another clock": (
        {"sandbox": NEXT_SANDBOX, "start": 1, "sequence": 0},
        True,
    ),
}


@pytest.mark.parametrize("what", NEXT)
def test_an_end_accepts_newer_frames_of_its_peer(what: str) -> None:
    change, accepted = NEXT[what]
    state = STATE.heard(FRAME, 101.0)
    assert state.verified == 101.0
    frame = FRAME._replace(pod_up=False, **change)
    after = state.heard(frame, 102.0)
    assert after == (replace(state, last=frame, verified=102.0) if accepted else state)


@pytest.mark.parametrize("what", ["a later one of another link", "its own"])
def test_an_end_that_has_heard_nothing_accepts_its_peer_only(what: str) -> None:
    assert STATE.heard(FRAME._replace(**NEXT[what][0]), 101.0) == STATE


# The last frame heard, the far end's sandbox, whether its node's Lease expired -> whether the far pod's end is up
FAR: list[tuple[OamFrame | None, bytes, bool, bool | None]] = [
    (None, SANDBOX, False, None),
    (FRAME, SANDBOX, False, True),
    (FRAME._replace(pod_up=False), SANDBOX, False, False),
    (FRAME._replace(pod_up=False), SANDBOX, True, None),
    (FRAME._replace(pod_up=False), NEXT_SANDBOX, False, None),
]


@pytest.mark.parametrize(("last", "sandbox", "expired", "up"), FAR)
def test_what_an_end_knows_of_the_far_pod(
    last: OamFrame | None, sandbox: bytes, expired: bool, up: bool | None
) -> None:
    state = STATE if last is None else STATE.heard(last, 101.0)
    assert state.far_pod_up(sandbox=sandbox, lease_expired=expired, now=102.0) is up


@pytest.mark.parametrize(
    ("last", "expired", "now", "up"),
    [
        (None, False, 102.9, False),
        (None, False, 103.0, None),
        (None, True, 102.0, None),
        (FRAME, False, 102.0, True),
        (FRAME._replace(pod_up=False), False, 104.0, False),
        (FRAME._replace(sandbox=NEXT_SANDBOX, pod_up=False), False, 102.0, None),
    ],
)
def test_a_far_pod_counts_as_shut_for_a_while_if_the_end_had_no_carrier_at_the_start(
    last: OamFrame | None, expired: bool, now: float, up: bool | None
) -> None:
    state = replace(STATE, lowered_until=103.0)
    state = state if last is None else state.heard(last, 101.0)
    assert state.far_pod_up(sandbox=SANDBOX, lease_expired=expired, now=now) is up


def test_silence_is_measured_from_the_last_frame_and_before_it_from_the_start() -> None:
    assert STATE.silent_since(135.0) is None
    assert STATE.silent_since(135.1) == 100.0
    heard = STATE.heard(FRAME, 130.0)
    assert heard.silent_since(165.0) is None
    assert heard.silent_since(165.1) == 130.0


def test_a_change_is_sent_at_once_and_repeated_soon_and_then_slowly() -> None:
    schedule, sent, now = OamSchedule(), [], 50.0
    for _ in range(7):
        assert schedule.is_due(True, now)
        schedule = schedule.sent(True, now)
        sent.append(round(schedule.due - now, 3))
        assert not schedule.is_due(True, schedule.due - 0.001)
        now = schedule.due
    assert sent == [0.1, 0.4, 1.6, 6.4, 10.0, 10.0, 10.0]
    later = schedule.sent(True, now)
    assert later.is_due(False, now)
    assert later.sent(False, now).due == now + 0.1


def test_an_end_that_was_asked_sends_at_once() -> None:
    schedule = OamSchedule(True, due=60.0, interval=10.0)
    assert not schedule.is_due(True, 51.0)
    assert schedule.asked(51.0).is_due(True, 51.0)
    just_sent = schedule.sent(True, 51.0)
    assert not just_sent.asked(51.01).is_due(True, 51.01)
    assert just_sent.asked(51.01).is_due(True, 51.05)


def test_an_end_that_is_not_patched_tries_again_more_and_more_slowly() -> None:
    schedule = OamSchedule().postponed(50.0)
    waits = []
    for _ in range(5):
        waits.append(round(schedule.due - 50.0, 3))
        schedule = schedule.postponed(50.0)
    assert waits == [0.1, 0.4, 1.6, 6.4, 10.0]


def test_the_jitter_shortens_an_interval() -> None:
    schedule = OamSchedule(True, due=50.0, interval=10.0)
    assert schedule.sent(True, 50.0, jitter=0.75) == OamSchedule(True, 57.5, 10.0, 50.0)


@pytest.mark.parametrize(("jitter", "due"), [(0.75, 57.5), (0.751, 57.75), (1.0, 60.0)])
def test_slow_repetitions_are_due_together(jitter: float, due: float) -> None:
    assert OamSchedule(True, due=50.0, interval=10.0).sent(True, 50.0, jitter).due == due
