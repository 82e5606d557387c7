"""A node's memory for declarations, which all followed namespaces share.

Limits on a namespace do not bound the sum over namespaces. A namespace that needs more than its fair share
(`core/fair_share`) withholds its youngest declarations, as over a limit of its own. Others are not affected.
"""

from __future__ import annotations

import threading
from typing import Protocol

from ratchet.core.declared_memory import UNLIMITED
from ratchet.core.fair_share import fair_share

# The part of its former share that a member's share may fall to without consequences: shares change all the time.
_TOLERATED = 0.9
# Sets of reserved interface names for which the declarations of a namespace are kept as read.
INDEXES_MOST = 8


class Member(Protocol):
    """A cache of declarations that uses the budget."""

    def readmit(self) -> None:
        """Withhold what is over the share now. Called by any thread that holds no lock of a member."""


class DeclarationBudget:
    """The memory that each member needs, and the share of each; safe between threads."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._lock = threading.Lock()
        self._needs: dict[Member, int] = {}
        # The share by which each member has admitted its declarations.
        self._applied: dict[Member, int] = {}
        self._share = total

    @property
    def share(self) -> int:
        """The most memory that one member may use."""
        return self._share

    def claim(self, member: Member, need: int) -> int:
        """Note what a member needs, with what it withholds. Returns its share. Call `settle` afterwards."""
        with self._lock:
            if self._needs.get(member) != need:
                self._needs[member] = need
                self._share = fair_share(self._needs.values(), self._total)
            self._applied[member] = self._share
            return self._share

    def release(self, member: Member) -> None:
        """Forget a member that is no longer used."""
        with self._lock:
            self._needs.pop(member, None)
            self._applied.pop(member, None)
            self._share = fair_share(self._needs.values(), self._total)

    def settle(self) -> None:
        """Have members withhold what is over a share that has become smaller. Call it without a lock of a member."""
        while (member := self._oversized()) is not None:
            member.readmit()

    def _oversized(self) -> Member | None:
        with self._lock:
            for member, need in self._needs.items():
                if need > self._share < self._applied[member] * _TOLERATED:
                    self._applied[member] = self._share
                    return member
        return None


class BudgetShare:
    """The share of one member in a budget (None: it is unlimited). An index reads all declarations of the member."""

    def __init__(self, budget: DeclarationBudget | None, member: Member) -> None:
        self._budget = DeclarationBudget(UNLIMITED) if budget is None else budget
        self._member = member
        self._closed = False

    def of_each(self, indexes: int) -> int:
        """The share for each of so many indexes."""
        return self._budget.share // max(1, indexes)

    def indexes(self, need: int, wanted: int) -> int:
        """Claim the memory for indexes that need so much each: `wanted` of them, or fewer if they do not fit.

        Returns their number, which is at least 1.
        """
        count = min(wanted, INDEXES_MOST)
        while not self._closed and self._budget.claim(self._member, need * count) < need * count and count > 1:
            count -= 1
        return count

    def settle(self) -> None:
        """As by `DeclarationBudget.settle`."""
        self._budget.settle()

    def close(self) -> None:
        self._closed = True
        self._budget.release(self._member)
