"""Lost nodes, decided from the versions of their Leases and the times of the readings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core.heartbeat import Attendance, Heard

AFTER, GAP = 40.0, 50.0


def read_at(*readings: tuple[float, dict[str, str]]) -> Attendance:
    attendance = Attendance()
    for now, leases in readings:
        attendance = attendance.read(leases, now, GAP)
    return attendance


def test_no_node_is_lost_before_the_first_reading() -> None:
    assert Attendance().lost(AFTER) == frozenset()


def test_a_node_whose_lease_changes_is_never_lost() -> None:
    attendance = read_at(*((20.0 * beat, {"a": str(beat)}) for beat in range(20)))
    assert attendance.lost(AFTER) == frozenset()


def test_a_node_is_lost_once_its_lease_is_unchanged_for_long_enough() -> None:
    readings = [(20.0 * beat, {"a": "1", "b": str(beat)}) for beat in range(3)]
    assert read_at(*readings[:2]).lost(AFTER) == frozenset()
    assert read_at(*readings).lost(AFTER) == {"a"}


def test_a_lost_node_whose_lease_changes_is_back() -> None:
    attendance = read_at((0, {"a": "1"}), (20, {"a": "1"}), (40, {"a": "1"}), (60, {"a": "2"}))
    assert attendance.lost(AFTER) == frozenset()


def test_a_node_whose_lease_is_deleted_is_not_lost() -> None:
    assert read_at((0, {"a": "1"}), (20, {"a": "1"}), (40, {})).lost(AFTER) == frozenset()


def test_a_gap_between_readings_does_not_count() -> None:
    """After an outage of the API server, no node may be lost because of the outage."""
    attendance = read_at((0, {"a": "1"}), (20, {"a": "1"}), (200, {"a": "1"}))
    assert attendance.lost(AFTER) == frozenset()
    assert attendance.nodes["a"] == Heard("1", 200)
    for now in (220.0, 240.0):
        attendance = attendance.read({"a": "1"}, now, GAP)
    assert attendance.lost(AFTER) == {"a"}


@pytest.mark.parametrize(
    ("readings", "renewed"),
    [
        ([], None),
        ([(0, "1")], None),
        ([(0, "1"), (20, "1")], None),
        ([(0, "1"), (20, "2")], 0),  # between the two readings
        ([(0, "1"), (20, "2"), (40, "2"), (60, "3")], 40),
        ([(0, "1"), (20, "2"), (200, "2")], 0),  # a gap is no renewal
        ([(0, "1"), (20, "2"), (200, "3")], 20),
    ],
)
def test_a_lease_was_renewed_after_the_reading_before_its_change(
    readings: list[tuple[float, str]], renewed: float | None
) -> None:
    assert read_at(*((now, {"a": version}) for now, version in readings)).renewed("a") == renewed


@given(st.lists(st.tuples(st.floats(0.1, 30), st.integers(0, 3)), min_size=1, max_size=30))
def test_the_time_counts_from_the_first_reading_of_a_version(steps: list[tuple[float, int]]) -> None:
    attendance, now, since, last = Attendance(), 0.0, 0.0, -1
    for seconds, version in steps:
        now += seconds
        if version != last:
            since, last = now, version
        attendance = attendance.read({"a": str(version)}, now, GAP)
        assert (attendance.lost(AFTER) == {"a"}) is (now - since >= AFTER)
