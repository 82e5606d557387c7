"""VNIs: one Lease for each, whose name is the number and the lock.

A number is in use if a Lease or a record has it: a Lease may be deleted, or restored with another holder.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection
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
    """The Leases and the records' VNIs, and the range (both ends included) of VNIs."""

    api: ApiServer
    leases_path: str
    vni_range: tuple[int, int]

    def vni_leases(self) -> list[VniLease]: ...

    def record_vnis(self) -> dict[int, str]: ...


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

    def claim(self, leases: Leases, link: Link, *, another: bool = False) -> int:
        """Claim a VNI for a record, and return it.

        A number that the record holds already is claimed again, unless `another` is set: then the Lease is a new one,
        which nobody else can be about to free. Numbers that the record's nodes have refused are not claimed. Raises
        VniExhaustedError.
        """
        if time.monotonic() - self._listed > NUMBERS_SECONDS:
            self._list(leases)
        while True:
            vni = self._proposed(leases, link, another)
            if self._created(leases, link, vni, another):
                return vni

    def _proposed(self, leases: Leases, link: Link, another: bool) -> int:
        """A number to try, reserved in memory so that no other thread tries it."""
        for _ in range(2):
            with self._lock:
                own = None if another else self._own(link)
                used = {*self._holders, *link.refused_vnis, link.vni}
                vni = own or _free_number(used, *leases.vni_range, self._crowd)
                if vni is not None:
                    self._holders.setdefault(vni, "")
                    return vni
            self._list(leases)
        raise _exhausted(link, leases.vni_range)

    def _own(self, link: Link) -> int | None:
        held = (vni for vni, holder in self._holders.items() if holder == link.uid)
        return next((vni for vni in held if vni not in link.refused_vnis), None)

    def _created(self, leases: Leases, link: Link, vni: int, another: bool) -> bool:
        """Whether the number's Lease is this record's; its holder is cached in any case.

        With `another` the Lease must be new.
        """
        created, holder = False, ""
        crowd = min(self._crowd * 2, CROWD_MAX)  # others are taking the lowest too: spread out
        try:
            leases.api.create(leases.leases_path, encode_vni_lease(vni, link))
            created, holder, crowd = True, link.uid, max(1, self._crowd // 2)
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
        return created or (holder == link.uid and not another)

    def _list(self, leases: Leases) -> None:
        listed, recorded = leases.vni_leases(), leases.record_vnis()
        with self._lock:
            being_tried = {vni: holder for vni, holder in self._holders.items() if not holder}
            self._holders = being_tried | recorded | {lease.vni: lease.holder for lease in listed}
            self._listed = time.monotonic()


def _exhausted(link: Link, vni_range: tuple[int, int]) -> VniExhaustedError:
    low, high = vni_range
    return VniExhaustedError(
        f"cannot give the link {link.name} a VNI: all {high - low + 1} of [{low}, {high}] are in use",
        details="widen vni_range in the network configuration, or run `ratchet gc` to free what leaked",
    )


def _free_number(held: Collection[int | None], low: int, high: int, crowd: int) -> int | None:
    """One of the `crowd` lowest free numbers, at random; None where there is none."""
    free = []
    for vni in range(low, high + 1):
        if vni not in held:
            free.append(vni)
            if len(free) == crowd:
                break
    return random.choice(free) if free else None  # noqa: S311  # not a secret, only a way out of a crowd
