"""FreeNumbers: the runs contain the same numbers as a set after any sequence of take and give."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from ratchet.core.free_numbers import FreeNumbers

LOW, HIGH = 3, 14
NUMBERS = st.integers(LOW - 2, HIGH + 2)


@given(st.sets(NUMBERS), st.lists(st.tuples(st.sampled_from(["take", "give"]), NUMBERS)), NUMBERS, NUMBERS)
def test_runs_are_equal_to_a_set(in_use: set[int], steps: list[tuple[str, int]], low: int, high: int) -> None:
    free = FreeNumbers(LOW, HIGH, in_use)
    expected = set(range(LOW, HIGH + 1)) - in_use
    for step, number in steps:
        if step == "take":
            free.take(number)
            expected.discard(number)
        elif LOW <= number <= HIGH:
            free.give(number)
            expected.add(number)
        else:
            free.give(number)
        assert list(free.ascending(LOW - 2, HIGH + 2)) == sorted(expected)
        assert [number in free for number in range(LOW - 2, HIGH + 3)] == [
            number in expected for number in range(LOW - 2, HIGH + 3)
        ]
    assert list(free.ascending(low, high)) == sorted(one for one in expected if low <= one <= high)


def test_the_lowest_of_16_million_free_numbers_are_found() -> None:
    free = FreeNumbers(1, (1 << 24) - 1, range(11, 5011))
    free.give(700)
    assert list(islice(free.ascending(11, (1 << 24) - 1), 3)) == [700, 5011, 5012]
