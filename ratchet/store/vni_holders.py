"""The VNIs that a process knows to be in use: by number, by holder and by namespace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ratchet.core.free_numbers import FreeNumbers
from ratchet.core.model import Link
from ratchet.core.shared import shared_text

VNI_MAX = (1 << 24) - 1
# Holders other than a record's UID. NO_HOLDER: the Lease has no holder, its number is in use. RESERVED: a thread is
# trying to claim the number.
NO_HOLDER, RESERVED = "no holder", ""


class VniHolders:
    """The holders of numbers, and the free numbers. Not thread-safe.

    `namespaces` are the namespaces of the numbers' links, as far as they are known. A number without one counts to no
    namespace. They are as in the names of records (`namespace_part`).
    """

    def __init__(self, holders: Mapping[int, str], namespaces: Mapping[int, str]) -> None:
        self.free = FreeNumbers(1, VNI_MAX, holders)
        self._holders: dict[int, str] = {}
        self._numbers: dict[str, tuple[int, ...]] = {}
        self._namespaces: dict[int, str] = {}
        self._counts: Counter[str] = Counter()
        # The numbers that a thread is trying to claim.
        self.reserved: set[int] = set()
        for number, holder in holders.items():
            self.put(number, holder, namespaces.get(number, ""))

    def holder(self, number: int) -> str | None:
        return self._holders.get(number)

    def namespace(self, number: int) -> str:
        """The namespace of a number's link; "" if it is not known."""
        return self._namespaces.get(number, "")

    def number_of(self, link: Link) -> int | None:
        """A number that the record holds and that none of its nodes has refused."""
        return next((one for one in self._numbers.get(link.uid, ()) if one not in link.refused_vnis), None)

    def count_of(self, namespace: str) -> int:
        """How many numbers the links of a namespace have, with those that are reserved for them."""
        return self._counts[namespace]

    def reserve(self, number: int, namespace: str) -> None:
        """Reserve a free number for one thread. A number that has a holder keeps it."""
        if number not in self._holders:
            self.put(number, RESERVED, namespace)

    def put(self, number: int, holder: str, namespace: str = "") -> None:
        """Note the holder of a number, and the namespace of its link if that is known."""
        self.remove(number)
        self._holders[number] = holder
        self.free.take(number)
        if namespace:
            self._namespaces[number] = namespace = shared_text(namespace)
            self._counts[namespace] += 1
        if holder == RESERVED:
            self.reserved.add(number)
        elif holder != NO_HOLDER:  # many numbers under one key would make a change linear
            self._numbers[holder] = (*self._numbers.get(holder, ()), number)

    def remove(self, number: int) -> None:
        """Note that a number is free."""
        holder = self._holders.pop(number, None)
        if holder is None:
            return
        self.free.give(number)
        self.reserved.discard(number)
        if namespace := self._namespaces.pop(number, ""):
            self._counts[namespace] -= 1
            if not self._counts[namespace]:
                del self._counts[namespace]
        if numbers := tuple(one for one in self._numbers.pop(holder, ()) if one != number):
            self._numbers[holder] = numbers
