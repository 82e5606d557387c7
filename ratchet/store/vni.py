"""Allocate VNIs. Each VNI has a Lease: its name is the number, and its creation is the claim.

A number is in use if a Lease or a record has it: a Lease may be deleted, or restored with another holder.

All Leases and records are listed once, before the first claim. After that a claim costs the creation of one Lease:

| change | how the allocator learns of it |
|---|---|
| this process claims or frees a number | at once |
| another node claims a number | the creation of the Lease fails with AlreadyExists |
| another node frees a number | with the next list |
| a record has a number without a Lease | it looks up the records of the next free numbers, at most once a minute |

All are listed again in three cases: the range seems exhausted; TAKEN_BEFORE_LIST tries in a row found a number taken;
as many changes as the last list had numbers, LIST_AFTER at least, have passed. The last case finds freed numbers.

The numbers of each namespace are counted, and a namespace at its limit gets no further number. A Lease names its link,
and the link's name begins with the namespace (`namespace_part`).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import islice
from typing import Protocol

from ratchet.core.garbage import Claim
from ratchet.core.model import Link
from ratchet.core.naming import namespace_part, vni_lease_name
from ratchet.errors import InvalidIntentError, VniExhaustedError
from ratchet.store.api_errors import AlreadyExistsError, NotFoundError
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec.leases import decode_vni_lease, encode_vni_lease
from ratchet.store.vni_holders import NO_HOLDER, RESERVED, VniHolders

# Seconds after a list or a lookup of records during which their numbers are not looked up again.
RECORDS_SECONDS = 60.0
LOOKED_UP_AT_ONCE = 256
TAKEN_BEFORE_LIST = 12
LIST_AFTER = 4096
CROWD_MAX = 4096
# A namespace at its limit is counted again after a list, if the last one is so many seconds old.
LIMIT_SECONDS = 60.0


class Leases(Protocol):
    """The Leases at `path`, the VNIs of records, and the range of VNIs, both ends included.

    `per_namespace` is the greatest number of VNIs of one namespace.
    """

    api: ApiServer
    path: str
    vni_range: tuple[int, int]
    per_namespace: int

    def claims(self) -> Sequence[Claim]: ...

    def record_vnis(self, vnis: Collection[int] | None = None) -> dict[int, str]: ...


class VniAllocator:
    """The VNIs that are known to be in use; safe between threads. A process has one allocator."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listing = threading.Lock()
        self._looking_up = threading.Lock()
        self._known = VniHolders({}, {})
        # The number of lists; the time of the last one, how many numbers it had, and the changes since.
        self._lists = 0
        self._listed = float("-inf")
        self._size = self._changes = 0
        # Numbers that no record had at the last lookup, and the time of that lookup.
        self._unrecorded: frozenset[int] = frozenset()
        self._looked_up = float("-inf")
        self._crowd = 1

    def freed(self, vni: int) -> None:
        """Note that a number's Lease was deleted."""
        with self._lock:
            self._known.remove(vni)

    def note(self, vni: int, holder: str, link: str = "") -> None:
        """Note that a watched record, which is named `link`, has a number, so that no claim tries it."""
        with self._lock:
            if self._known.holder(vni) is None:
                self._known.put(vni, holder, namespace_part(link))

    def claim(self, leases: Leases, link: Link, *, another: bool = False) -> int:
        """Claim a VNI for a record, and return it.

        A number that the record already holds is claimed again. With `another`, the Lease must be new, so that no
        other process is about to free it. Numbers that the record's nodes have refused are not claimed. Raises
        VniExhaustedError. Raises InvalidIntentError if the namespace is at its limit; `another` replaces a number, so
        it is not limited.
        """
        lists = self._lists
        if not lists or self._changes > max(LIST_AFTER, self._size):
            self._list(leases, lists)
        tries = 0
        while True:
            vni = self._proposed(leases, link, another)
            if self._is_recorded(leases, link, vni):
                continue
            if self._created(leases, link, vni, another):
                return vni
            tries += 1
            if tries % TAKEN_BEFORE_LIST == 0:
                self._list(leases, self._lists)

    def _proposed(self, leases: Leases, link: Link, another: bool) -> int:
        """A number to try. It is reserved in memory, so no other thread tries it."""
        namespace = namespace_part(link.name)
        for _ in range(2):
            with self._lock:
                lists, age = self._lists, time.monotonic() - self._listed
                own = None if another else self._known.number_of(link)
                used = 0 if own or another else self._known.count_of(namespace)
                vni = own or self._free_number(leases, link) if used < leases.per_namespace else None
                if vni is not None:
                    self._known.reserve(vni, namespace)
                    return vni
            if used >= leases.per_namespace and age < LIMIT_SECONDS:
                break  # a namespace at its limit must not cause a list for each of its links
            self._list(leases, lists)
        raise _exhausted(link, leases.vni_range) if used < leases.per_namespace else _over_limit(link, used, leases)

    def _free_number(self, leases: Leases, link: Link) -> int | None:
        """One of the `_crowd` lowest free numbers, at random; None if there is none."""
        excluded = {*link.refused_vnis, link.vni}
        free = (vni for vni in self._known.free.ascending(*leases.vni_range) if vni not in excluded)
        lowest = list(islice(free, self._crowd))
        return random.choice(lowest) if lowest else None  # noqa: S311  # no secret: it spreads claims

    def _is_recorded(self, leases: Leases, link: Link, vni: int) -> bool:
        """Whether a record has a number that is reserved here. Its holder is noted then.

        One lookup covers all reserved numbers and the next free ones, because the API server reads all records for
        each lookup. If a list or a lookup was recent, no lookup is made.
        """
        with self._lock:
            if self._was_looked_up(link, vni):
                return False
        with self._looking_up:
            with self._lock:
                if self._known.holder(vni) not in (RESERVED, link.uid):
                    return True  # the lookup of another thread found it
                if self._was_looked_up(link, vni):
                    return False
                now = time.monotonic()
                free = islice(self._known.free.ascending(*leases.vni_range), LOOKED_UP_AT_ONCE)
                numbers = frozenset({vni, *self._known.reserved, *free})
            try:
                recorded = leases.record_vnis(numbers)
            except BaseException:
                with self._lock:
                    self._known.remove(vni)
                raise
            with self._lock:
                self._unrecorded, self._looked_up = numbers - recorded.keys(), now
                for number, holder in recorded.items():
                    if number in self._known.reserved or number in self._known.free:
                        self._known.put(number, holder)
            return vni in recorded

    def _was_looked_up(self, link: Link, vni: int) -> bool:
        """Whether a recent list or lookup shows that no other record has a number. The caller holds the lock."""
        now = time.monotonic()
        if now - self._listed < RECORDS_SECONDS or self._known.holder(vni) == link.uid:
            return True
        return vni in self._unrecorded and now - self._looked_up < RECORDS_SECONDS

    def _created(self, leases: Leases, link: Link, vni: int, another: bool) -> bool:
        """Create the number's Lease. Returns whether it is this record's; its holder is noted in any case.

        With `another`, an existing Lease does not count.
        """
        created, holder, name = False, "", link.name
        crowd = min(self._crowd * 2, CROWD_MAX)  # others claim the lowest numbers too: spread out
        try:
            leases.api.create(leases.path, encode_vni_lease(vni, link))
            created, holder, crowd = True, link.uid, max(1, self._crowd // 2)
        except AlreadyExistsError:
            with suppress(NotFoundError):
                lease = decode_vni_lease(leases.api.get(f"{leases.path}/{vni_lease_name(vni)}"))
                holder, name = (lease and lease.holder) or NO_HOLDER, lease.link if lease else ""
        finally:
            with self._lock:
                self._crowd = crowd
                self._changes += 1
                if holder:
                    self._known.put(vni, holder, namespace_part(name))
                else:
                    self._known.remove(vni)
        return created or (holder == link.uid and not another)

    def _list(self, leases: Leases, lists: int) -> None:
        """List all, unless another thread has done so after the list number `lists`."""
        with self._listing:
            if self._lists != lists:
                return
            listed, recorded = leases.claims(), leases.record_vnis()
            with self._lock:
                reserved = dict.fromkeys(self._known.reserved, RESERVED)
                namespaces = {vni: self._known.namespace(vni) for vni in reserved}
                namespaces |= {claim.vni: claim.namespace for claim in listed}
                held = {claim.vni: claim.holder or NO_HOLDER for claim in listed}
                self._known = VniHolders(reserved | recorded | held, namespaces)
                self._size, self._changes = len(listed), 0
                self._lists, self._listed = lists + 1, time.monotonic()


def _exhausted(link: Link, vni_range: tuple[int, int]) -> VniExhaustedError:
    low, high = vni_range
    return VniExhaustedError(
        f"cannot give the link {link.name} a VNI: all {high - low + 1} of [{low}, {high}] are in use",
        details="enlarge `vni_range` on all nodes, or run `ratchet gc` to free the VNIs of deleted links",
    )


def _over_limit(link: Link, used: int, leases: Leases) -> InvalidIntentError:
    return InvalidIntentError(
        f"cannot give the link {link.name} a VNI: namespace {namespace_part(link.name)} has {used} VNIs, "
        f"and links_per_namespace is {leases.per_namespace}",
        details="delete links of the namespace, or have an administrator raise links_per_namespace on all nodes",
    )
