"""VNIs: one Lease for each, whose name is the number and the lock."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from ratchet.core.model import Link
from ratchet.core.naming import vni_lease_name
from ratchet.core.orphans import VniLease
from ratchet.errors import VniExhaustedError
from ratchet.store.apiserver import AlreadyExistsError, ApiServer, NotFoundError
from ratchet.store.codec import decode_vni_lease, encode_vni_lease

NUMBERS_SECONDS = 60.0
CROWD_MAX = 64
NOBODY = "nobody that it names"  # who holds a Lease without a holder: it is taken all the same


class Leases(Protocol):
    """Where the Leases are, and between which numbers (both included) a VNI may be."""

    api: ApiServer
    leases_path: str
    vni_range: tuple[int, int]

    def vni_leases(self) -> list[VniLease]: ...


class Numbers:
    """Which VNIs are taken, as far as is known; safe between threads.

    One that is kept claims without listing all Leases each time; what others free it learns within NUMBERS_SECONDS.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[int, str] = {}
        self._listed = float("-inf")
        self._crowd = 1

    def freed(self, vni: int) -> None:
        with self._lock:
            self._holders.pop(vni, None)

    def claim(self, leases: Leases, link: Link) -> int:
        """A number that is this record's and no other's from now on. Raises VniExhaustedError."""
        if time.monotonic() - self._listed > NUMBERS_SECONDS:
            self._list(leases)
        while True:
            vni, held = self._proposed(leases, link)
            if held or self._created(leases, link, vni):
                return vni

    def _proposed(self, leases: Leases, link: Link) -> tuple[int, bool]:
        """A number to try, taken in memory at once so that no other thread tries it; or True and the record's own."""
        for _ in range(2):
            with self._lock:
                own = next((vni for vni, holder in self._holders.items() if holder == link.uid), None)
                vni = own or _free_number(self._holders, *leases.vni_range, self._crowd)
                if vni is not None:
                    self._holders.setdefault(vni, "")
                    return vni, own is not None
            self._list(leases)
        raise _exhausted(link, leases.vni_range)

    def _created(self, leases: Leases, link: Link, vni: int) -> bool:
        """Whether the number's Lease is this record's; another's, it is known as such from now on."""
        holder, crowd = "", min(self._crowd * 2, CROWD_MAX)  # others are taking the lowest too: spread out
        try:
            leases.api.create(leases.leases_path, encode_vni_lease(vni, link))
            holder, crowd = link.uid, max(1, self._crowd // 2)
        except AlreadyExistsError:
            with suppress(NotFoundError):
                lease = decode_vni_lease(leases.api.get(f"{leases.leases_path}/{vni_lease_name(vni)}"))
                holder = (lease and lease.holder) or NOBODY
        finally:
            with self._lock:
                self._crowd = crowd
                if holder:
                    self._holders[vni] = holder
                else:
                    self._holders.pop(vni, None)
        return holder == link.uid

    def _list(self, leases: Leases) -> None:
        listed = leases.vni_leases()
        with self._lock:
            being_tried = {vni: holder for vni, holder in self._holders.items() if not holder}
            self._holders = being_tried | {lease.vni: lease.holder for lease in listed}
            self._listed = time.monotonic()


def _exhausted(link: Link, vni_range: tuple[int, int]) -> VniExhaustedError:
    low, high = vni_range
    return VniExhaustedError(
        f"cannot give the link {link.name} a VNI: all {high - low + 1} of [{low}, {high}] are in use",
        details="widen vni_range in the network configuration, or run `ratchet gc` to free what leaked",
    )


def _free_number(held: Mapping[int, str], low: int, high: int, crowd: int) -> int | None:
    """One of the `crowd` lowest free numbers, at random; None where there is none."""
    free = []
    for vni in range(low, high + 1):
        if vni not in held:
            free.append(vni)
            if len(free) == crowd:
                break
    return random.choice(free) if free else None  # noqa: S311  # not a secret, only a way out of a crowd
