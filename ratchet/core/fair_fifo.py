"""A first-in, first-out queue for each tenant, and a rotation over the tenants that wait.

A tenant that has queued thousands of keys delays another tenant by one key at a time. It has no lock and no clock: the
owner adds both (`agent/queue`, `node/helpers`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Tenant = TypeVar("Tenant", bound=Hashable)
Key = TypeVar("Key", bound=Hashable)


def share_of_one(threads: int) -> int:
    """How many of `threads` one tenant may occupy. A quarter of them, at least one of several, is for the others."""
    return max(1, threads - max(1, threads // 4))


class FairFifo(Generic[Tenant, Key]):
    """Waiting keys, each of one tenant. A key waits at most once.

    The next key is that of the next tenant in turn, and of that tenant the key that has waited longest. A tenant has at
    most `limit` keys that were taken and not released (None: no limit).
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._keys: dict[Tenant, deque[Key]] = {}
        self._turns: deque[Tenant] = deque()
        self._waiting: set[Key] = set()
        self._taken: Counter[Tenant] = Counter()

    def __len__(self) -> int:
        """The number of waiting keys."""
        return len(self._waiting)

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting

    def push(self, tenant: Tenant, key: Key) -> bool:
        """Append a tenant's key. Returns False if it waits already."""
        if key in self._waiting:
            return False
        self._waiting.add(key)
        if tenant not in self._keys:
            self._keys[tenant] = deque()
            self._turns.append(tenant)
        self._keys[tenant].append(key)
        return True

    def pop(self) -> tuple[Tenant, Key] | None:
        """Take the next key; None if no key waits, or only keys of tenants at their limit.

        The caller returns it with `release`.
        """
        for _ in range(len(self._turns)):
            tenant = self._turns.popleft()
            if self.limit is not None and self._taken[tenant] >= self.limit:
                self._turns.append(tenant)
                continue
            key = self._keys[tenant].popleft()
            if self._keys[tenant]:
                self._turns.append(tenant)
            else:
                del self._keys[tenant]
            self._waiting.discard(key)
            self._taken[tenant] += 1
            return tenant, key
        return None

    def release(self, tenant: Tenant) -> bool:
        """Return one of a tenant's taken keys. Returns whether the tenant was at its limit and has keys that wait."""
        at_limit = self._taken[tenant] == self.limit
        self._taken[tenant] -= 1
        if not self._taken[tenant]:
            del self._taken[tenant]
        return at_limit and tenant in self._keys
