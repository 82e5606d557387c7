"""Rounds: each key is due once per round, and the rate limits the keys that are due at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ratchet.agent.rounds import CATCH_UP_SECONDS, Rounds


def test_few_keys_are_all_due_at_once_in_each_round() -> None:
    rounds = Rounds[str](30, 10, began=100)
    due = {now: rounds.due(lambda: ["a", "b"], now) for now in (100, 129, 130, 131, 159, 160, 190)}
    assert due == {100: [], 129: [], 130: ["a", "b"], 131: [], 159: [], 160: ["a", "b"], 190: ["a", "b"]}


def test_many_keys_lengthen_a_round_and_cause_no_burst() -> None:
    rounds, due = Rounds[int](30, 10, began=0), list[int]()
    for now in range(2, 128, 2):
        found = rounds.due(lambda: range(1000), now)
        assert len(found) <= 21
        due += found
    assert due == list(range(len(due)))
    assert 950 <= len(due) < 1000


def test_a_stall_causes_no_burst() -> None:
    rounds = Rounds[int](30, 10, began=0)
    assert len(rounds.due(lambda: range(10000), 3600)) <= CATCH_UP_SECONDS * 10 + 1


def test_a_new_round_has_the_current_keys() -> None:
    rounds = Rounds[str](30, 10, began=0)
    assert rounds.due(lambda: ["a"], 30) == ["a"]
    assert rounds.due(lambda: ["b", "c"], 60) == ["b", "c"]


@given(st.integers(1, 300), st.lists(st.floats(0.1, 20), min_size=300, max_size=300))
def test_each_key_is_due_once_per_round(keys: int, pauses: list[float]) -> None:
    rounds, now, due = Rounds[int](30, 10, began=0.0), 0.0, list[int]()
    for pause in pauses:
        now += pause
        due += rounds.due(lambda: range(keys), now)
    assert due == [number % keys for number in range(len(due))]
    assert due, "no key was ever due"
