"""VNIs are claimed from what is known of the Leases: each once, whoever else claims, and never tried for ever."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest

from ratchet.core.model import End, Link
from ratchet.core.orphans import VniLease
from ratchet.errors import VniExhaustedError
from ratchet.store.apiserver import AlreadyExistsError, ApiServer, NotFoundError
from ratchet.store.codec import decode_vni_lease
from ratchet.store.numbers import Numbers


def link(uid: str) -> Link:
    return Link(f"link-{uid}", "ns", End("a", "in1"), End("b", "in2"), uid=uid)


class Leases:
    """An API server's Leases, by their names; `listings` counts how often all were asked for."""

    leases_path = "/leases"

    def __init__(self, low: int = 11, high: int = 14) -> None:
        self.vni_range = (low, high)
        self.stored: dict[str, dict[str, Any]] = {}
        self.recorded: dict[int, str] = {}
        self.listings = 0
        self.api = cast(ApiServer, self)

    def hold(self, vni: int, holder: str | None) -> None:
        self.stored[f"vni-{vni}"] = {"metadata": {"name": f"vni-{vni}"}, "spec": {"holderIdentity": holder}}

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        if self.stored.setdefault(name, body) is not body:
            raise AlreadyExistsError(f"cannot create {path}/{name}")
        return body

    def get(self, path: str) -> dict[str, Any]:
        try:
            return self.stored[path.rpartition("/")[2]]
        except KeyError as cause:
            raise NotFoundError(path) from cause

    def record_vnis(self) -> dict[int, str]:
        return self.recorded

    def vni_leases(self) -> list[VniLease]:
        self.listings += 1
        return [lease for one in self.stored.values() if (lease := decode_vni_lease(one)) is not None]


@pytest.fixture
def leases() -> Leases:
    return Leases()


def test_the_lowest_free_number_is_claimed_and_all_are_listed_once(leases: Leases) -> None:
    leases.hold(12, "another")
    numbers = Numbers()
    assert [numbers.claim(leases, link(uid)) for uid in ("a", "b")] == [11, 13]
    assert leases.listings == 1


def test_a_number_that_the_record_has_already_is_taken_again(leases: Leases) -> None:
    leases.hold(13, "a")
    assert Numbers().claim(leases, link("a")) == 13
    assert len(leases.stored) == 1


@pytest.mark.parametrize("holder", ["another", "", None])
def test_a_number_that_was_taken_meanwhile_is_passed_by_whoever_holds_it(leases: Leases, holder: str | None) -> None:
    numbers = Numbers()
    assert numbers.claim(leases, link("a")) == 11
    leases.hold(12, holder)
    assert numbers.claim(leases, link("b")) in (13, 14)


def test_a_claim_whose_answer_was_lost_is_known_for_ones_own(leases: Leases) -> None:
    numbers = Numbers()
    assert numbers.claim(leases, link("a")) == 11
    leases.hold(12, "b")
    assert numbers.claim(leases, link("b")) == 12


def test_where_all_seem_taken_they_are_listed_anew_before_it_is_said(leases: Leases) -> None:
    numbers = Numbers()
    for uid in "abcd":
        numbers.claim(leases, link(uid))
    del leases.stored["vni-12"]
    assert numbers.claim(leases, link("e")) == 12
    with pytest.raises(VniExhaustedError, match=r"all 4 of \[11, 14\] are in use"):
        numbers.claim(leases, link("f"))


def test_a_number_that_was_freed_is_claimed_again_without_listing(leases: Leases) -> None:
    numbers = Numbers()
    numbers.claim(leases, link("a"))
    del leases.stored["vni-11"]
    numbers.freed(11)
    assert numbers.claim(leases, link("b")) == 11
    assert leases.listings == 1


def test_threads_never_claim_one_number_twice() -> None:
    leases, numbers = Leases(high=200), Numbers()
    with ThreadPoolExecutor(16) as at_once:
        claimed = list(at_once.map(lambda number: numbers.claim(leases, link(str(number))), range(100)))
    assert len(set(claimed)) == 100


def test_a_number_that_is_being_tried_is_not_tried_by_another_who_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ends of a pod are made at once, in a process that has not listed before."""
    leases, numbers, claimed = Leases(), Numbers(), list[int]()
    tried: list[str] = []

    def create(path: str, body: dict[str, Any]) -> dict[str, Any]:
        tried.append(body["metadata"]["name"])
        if len(tried) == 1:
            monkeypatch.setattr(numbers, "_listed", float("-inf"))
            claimed.append(numbers.claim(leases, link("b")))
        return Leases.create(leases, path, body)

    monkeypatch.setattr(leases, "create", create)
    claimed.append(numbers.claim(leases, link("a")))
    assert sorted(claimed) == [11, 12]
    assert tried == ["vni-11", "vni-12"]


def test_a_number_that_a_record_has_is_not_claimed_whatever_has_become_of_its_lease(leases: Leases) -> None:
    leases.recorded = {11: "another", 12: "b"}
    assert Numbers().claim(leases, link("a")) == 13


def test_a_number_that_a_node_has_refused_is_not_claimed_again(leases: Leases) -> None:
    leases.hold(12, "a")
    refusing = replace(link("a"), refused_vnis=(11, 12))
    assert Numbers().claim(leases, refusing) == 13


def test_another_number_is_neither_the_present_one_nor_one_that_the_record_holds(leases: Leases) -> None:
    """Whoever lost the race for a number of this record may be about to free its Lease."""
    leases.hold(12, "a")
    numbered = replace(link("a"), vni=11)
    assert Numbers().claim(leases, numbered, another=True) == 13


def test_a_number_of_ones_own_is_taken_again_only_while_its_lease_is_there(leases: Leases) -> None:
    numbers = Numbers()
    assert numbers.claim(leases, link("a")) == 11
    leases.hold(11, "another")
    vni = numbers.claim(leases, link("a"))
    assert vni != 11
    del leases.stored[f"vni-{vni}"]
    assert numbers.claim(leases, link("a")) == vni
    assert f"vni-{vni}" in leases.stored
