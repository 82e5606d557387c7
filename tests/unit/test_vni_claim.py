"""The claim of a VNI: it ends with the VNI in its record, or with the VNI free."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ratchet.core.model import Link
from ratchet.core.record_updates import with_vni
from ratchet.node.vni_claim import VniClaim
from tests.support.links import vxlan

RECORD = replace(vxlan(), uid="uid-1", resource_version="1")
VNI, ANOTHER = 11, 12


class Store:
    """An in-memory store of one record and of VNI holders. `events` lists writes, releases and removed devices."""

    def __init__(self, record: Link | None) -> None:
        self.record = record
        self.leases = dict[int, str]()
        self.events: list[str] = []
        self.links = self.vnis = self

    def allocate(self, link: Link) -> Link:
        self.leases[VNI] = link.uid
        return with_vni(link, VNI)

    def get(self, _: str) -> Link | None:
        return self.record

    def update(self, before: Link, after: Link) -> Link:
        assert before is self.record
        self.record = after
        self.events.append(f"write {after.vni}")
        return after

    def release(self, vni: int, holder: str) -> None:
        if self.leases.get(vni) == holder:
            del self.leases[vni]
        self.events.append(f"release {vni}")

    def remove_tunnel(self, record: Link) -> None:
        self.events.append(f"remove tunnel {record.vni}")


def claimed(record: Link | None) -> tuple[Store, VniClaim, Any]:
    """A store, a claim of VNI for RECORD, and the device that may have the VNI. The store has `record` by now."""
    store = Store(RECORD)
    given: Any = store
    claim = VniClaim(given)
    assert claim.allocate(RECORD).vni == VNI
    store.record = record
    return store, claim, given


def test_a_written_claim_is_not_freed() -> None:
    store, claim, device = claimed(with_vni(RECORD, VNI))
    claim.written(with_vni(RECORD, VNI), device)
    claim.free(device)
    claim.account_for(device)
    assert store.leases == {VNI: RECORD.uid}
    assert store.events == []


def test_a_vni_that_the_record_does_not_get_is_released_after_its_device_is_removed() -> None:
    store, claim, device = claimed(with_vni(RECORD, ANOTHER))
    claim.written(with_vni(RECORD, ANOTHER), device)
    assert store.events == [f"remove tunnel {VNI}", f"release {VNI}"]
    assert store.leases == {}


@pytest.mark.parametrize("record", [RECORD, with_vni(RECORD, VNI)], ids=["may take it", "has it"])
def test_a_vni_that_its_record_has_or_may_take_is_not_freed(record: Link) -> None:
    store, claim, device = claimed(record)
    claim.free(device)
    assert store.events == []


@pytest.mark.parametrize(
    "record",
    [None, replace(RECORD, uid="uid-2"), with_vni(RECORD, ANOTHER)],
    ids=["deleted", "created again", "another VNI"],
)
@pytest.mark.parametrize("built", [True, False])
def test_a_vni_that_its_record_cannot_take_is_released_after_a_failure(record: Link | None, built: bool) -> None:
    for end in (VniClaim.free, VniClaim.account_for):
        store, claim, device = claimed(record)
        end(claim, device if built else None)
        assert store.events == [f"remove tunnel {VNI}", f"release {VNI}"][not built :]


def test_a_vni_is_written_to_a_record_without_one_after_a_failure() -> None:
    store, claim, device = claimed(RECORD)
    claim.account_for(device)
    assert store.events == [f"write {VNI}"]
    assert store.leases == {VNI: RECORD.uid}


def test_nothing_happens_without_a_claim() -> None:
    store = Store(None)
    given: Any = store
    claim = VniClaim(given)
    claim.free(given)
    claim.account_for(given)
    claim.written(RECORD, given)
    assert store.events == []
