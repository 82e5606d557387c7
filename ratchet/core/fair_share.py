"""Fair shares of a limited resource: those that want the most get less first (max-min fairness)."""

from __future__ import annotations

from collections.abc import Iterable


def fair_share(demands: Iterable[int], total: int) -> int:
    """The most that each may have, so that all together have at most `total`.

    Demands up to the share are met. It is at least `total` divided by their number, and `total` if all are met.
    """
    left, ordered = total, sorted(demands)
    for index, demand in enumerate(ordered):
        share = left // (len(ordered) - index)
        if demand > share:
            return share
        left -= demand
    return total
