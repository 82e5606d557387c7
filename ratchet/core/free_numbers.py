"""Free numbers of a range, kept as sorted runs: the lowest are found without a scan."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class FreeNumbers:
    """The numbers from `low` to `high`, both included, that are not in use.

    `take` and `give` cost a binary search and one insertion into a list.
    """

    def __init__(self, low: int, high: int, in_use: Iterable[int] = ()) -> None:
        self._low, self._high = low, high
        # Run number n is starts[n] to ends[n], both included. Runs are sorted, disjoint and never adjacent.
        self._starts: list[int] = []
        self._ends: list[int] = []
        start = low
        for number in (*sorted(one for one in set(in_use) if low <= one <= high), high + 1):
            if start < number:
                self._starts.append(start)
                self._ends.append(number - 1)
            start = number + 1

    def __contains__(self, number: int) -> bool:
        run = self._run(number)
        return run >= 0 and number <= self._ends[run]

    def ascending(self, low: int, high: int) -> Iterator[int]:
        """The free numbers from `low` to `high`, the lowest first. No number may be taken or given meanwhile."""
        for run in range(max(0, self._run(low)), len(self._starts)):
            if self._starts[run] > high:
                return
            yield from range(max(low, self._starts[run]), min(high, self._ends[run]) + 1)

    def take(self, number: int) -> None:
        """Mark a number as in use. A number that is in use, or outside the range, stays as it is."""
        if number not in self:
            return
        run = self._run(number)
        start, end = self._starts[run], self._ends[run]
        left = [(start, number - 1)] if start < number else []
        right = [(number + 1, end)] if number < end else []
        self._replace(run, run + 1, left + right)

    def give(self, number: int) -> None:
        """Mark a number as free. A number that is free, or outside the range, stays as it is."""
        if number in self or not self._low <= number <= self._high:
            return
        before = self._run(number)
        after = before + 1
        joins_before = before >= 0 and self._ends[before] == number - 1
        joins_after = after < len(self._starts) and self._starts[after] == number + 1
        start = self._starts[before] if joins_before else number
        end = self._ends[after] if joins_after else number
        self._replace(before if joins_before else after, after + joins_after, [(start, end)])

    def _run(self, number: int) -> int:
        """The last run that starts at or before a number; -1 if there is none."""
        return bisect_right(self._starts, number) - 1

    def _replace(self, first: int, end: int, runs: list[tuple[int, int]]) -> None:
        self._starts[first:end] = [start for start, _ in runs]
        self._ends[first:end] = [last for _, last in runs]
