"""VNIs are claimed from what is known of the Leases: each once, whoever else claims, and never tried for ever."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from ratchet.core.garbage import VniLease
from ratchet.core.model import End, Link
from ratchet.errors import VniExhaustedError
from ratchet.store import vni as numbers_module
from ratchet.store.api_errors import AlreadyExistsError, ForbiddenError, NotFoundError
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec.leases import decode_vni_lease
from ratchet.store.vni import CROWD_MAX, LOOKED_UP_AT_ONCE, TAKEN_BEFORE_LIST, VNI_MAX, VniAllocator


def failing(*_: object) -> Any:
    raise ForbiddenError("cannot list: forbidden")


def link(uid: str) -> Link:
    return Link(f"link-{uid}", "ns", End("a", "in1"), End("b", "in2"), uid=uid)


class Leases:
    """An API server's Leases, by their names, and how often all were listed and one was created, or tried to be."""

    path = "/leases"

    def __init__(self, low: int = 11, high: int = 14) -> None:
        self.vni_range = (low, high)
        self.stored: dict[str, dict[str, Any]] = {}
        self.recorded: dict[int, str] = {}
        self.listings = self.created = 0
        self.looked_up: list[Collection[int]] = []
        self.api = cast(ApiServer, self)

    def hold(self, vni: int, holder: str | None) -> None:
        self.stored[f"vni-{vni}"] = {"metadata": {"name": f"vni-{vni}"}, "spec": {"holderIdentity": holder}}

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.created += 1
        name = body["metadata"]["name"]
        if self.stored.setdefault(name, body) is not body:
            raise AlreadyExistsError(f"cannot create {path}/{name}")
        return body

    def get(self, path: str) -> dict[str, Any]:
        try:
            return self.stored[path.rpartition("/")[2]]
        except KeyError as cause:
            raise NotFoundError(path) from cause

    def record_vnis(self, vnis: Collection[int] | None = None) -> dict[int, str]:
        if vnis is not None:
            self.looked_up.append(vnis)
        return {vni: uid for vni, uid in self.recorded.items() if vnis is None or vni in vnis}

    def list(self) -> Sequence[VniLease]:
        self.listings += 1
        return [lease for one in self.stored.values() if (lease := decode_vni_lease(one)) is not None]


@pytest.fixture
def leases() -> Leases:
    return Leases()


def test_the_lowest_free_number_is_claimed_and_all_are_listed_once(leases: Leases) -> None:
    leases.hold(12, "another")
    numbers = VniAllocator()
    assert [numbers.claim(leases, link(uid)) for uid in ("a", "b")] == [11, 13]
    assert leases.listings == 1


def test_a_number_that_the_record_has_already_is_taken_again(leases: Leases) -> None:
    leases.hold(13, "a")
    assert VniAllocator().claim(leases, link("a")) == 13
    assert len(leases.stored) == 1


@pytest.mark.parametrize("holder", ["another", "", None])
def test_a_number_that_was_taken_meanwhile_is_passed_by_whoever_holds_it(leases: Leases, holder: str | None) -> None:
    numbers = VniAllocator()
    assert numbers.claim(leases, link("a")) == 11
    leases.hold(12, holder)
    assert numbers.claim(leases, link("b")) in (13, 14)


def test_a_claim_whose_answer_was_lost_is_known_for_ones_own(leases: Leases) -> None:
    numbers = VniAllocator()
    assert numbers.claim(leases, link("a")) == 11
    leases.hold(12, "b")
    assert numbers.claim(leases, link("b")) == 12


def test_where_all_seem_taken_they_are_listed_anew_before_it_is_said(leases: Leases) -> None:
    numbers = VniAllocator()
    for uid in "abcd":
        numbers.claim(leases, link(uid))
    del leases.stored["vni-12"]
    assert numbers.claim(leases, link("e")) == 12
    with pytest.raises(VniExhaustedError, match=r"all 4 of \[11, 14\] are in use"):
        numbers.claim(leases, link("f"))


def test_a_number_that_was_freed_is_claimed_again_without_listing(leases: Leases) -> None:
    numbers = VniAllocator()
    numbers.claim(leases, link("a"))
    del leases.stored["vni-11"]
    numbers.freed(11)
    assert numbers.claim(leases, link("b")) == 11
    assert leases.listings == 1


def test_a_number_that_a_watch_reported_is_not_tried(leases: Leases) -> None:
    numbers = VniAllocator()
    numbers.claim(leases, link("a"))
    leases.hold(12, "another")
    numbers.note(12, "another")
    numbers.note(11, "another")  # late news: it is ours by now
    assert numbers.claim(leases, link("b")) == 13
    assert numbers.claim(leases, link("a")) == 11
    assert leases.created == 3


def test_threads_never_claim_one_number_twice() -> None:
    leases, numbers = Leases(high=200), VniAllocator()
    with ThreadPoolExecutor(16) as at_once:
        claimed = list(at_once.map(lambda number: numbers.claim(leases, link(str(number))), range(100)))
    assert len(set(claimed)) == 100


def test_a_number_that_is_being_tried_is_not_tried_by_another_who_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ends of a pod are made at once, in a process that has not listed before."""
    leases, numbers, claimed = Leases(), VniAllocator(), list[int]()
    tried: list[str] = []

    def create(path: str, body: dict[str, Any]) -> dict[str, Any]:
        tried.append(body["metadata"]["name"])
        if len(tried) == 1:
            monkeypatch.setattr(numbers, "_lists", 0)
            claimed.append(numbers.claim(leases, link("b")))
        return Leases.create(leases, path, body)

    monkeypatch.setattr(leases, "create", create)
    claimed.append(numbers.claim(leases, link("a")))
    assert sorted(claimed) == [11, 12]
    assert tried == ["vni-11", "vni-12"]


def test_a_number_that_a_record_has_is_not_claimed_whatever_has_become_of_its_lease(leases: Leases) -> None:
    leases.recorded = {11: "another", 12: "b"}
    assert VniAllocator().claim(leases, link("a")) == 13


def test_a_number_that_a_node_has_refused_is_not_claimed_again(leases: Leases) -> None:
    leases.hold(12, "a")
    refusing = replace(link("a"), refused_vnis=(11, 12))
    assert VniAllocator().claim(leases, refusing) == 13


def test_another_number_is_neither_the_present_one_nor_one_that_the_record_holds(leases: Leases) -> None:
    """Whoever lost the race for a number of this record may be about to free its Lease."""
    leases.hold(12, "a")
    numbered = replace(link("a"), vni=11)
    assert VniAllocator().claim(leases, numbered, another=True) == 13


def test_a_number_of_ones_own_is_taken_again_only_while_its_lease_is_there(leases: Leases) -> None:
    numbers = VniAllocator()
    assert numbers.claim(leases, link("a")) == 11
    leases.hold(11, "another")
    vni = numbers.claim(leases, link("a"))
    assert vni != 11
    del leases.stored[f"vni-{vni}"]
    assert numbers.claim(leases, link("a")) == vni
    assert f"vni-{vni}" in leases.stored


# What a claim costs


def lines_run(act: Callable[[], object]) -> int:
    """How many lines of Python an act runs."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("another", [False, True])
def test_a_claim_costs_the_same_whatever_the_number_of_leases(another: bool) -> None:
    costs = []
    for held in (50, 5000):
        leases, numbers = Leases(high=VNI_MAX), VniAllocator()
        for vni in range(11, 11 + held):
            leases.hold(vni, f"holder-{vni}")
        numbers.claim(leases, link("first"))
        costs.append(lines_run(partial(numbers.claim, leases, link("second"), another=another)))
    # A binary search takes some steps more.
    assert costs[1] <= costs[0] + 20


def test_claims_list_all_leases_once(leases: Leases) -> None:
    leases.vni_range = (11, VNI_MAX)
    numbers = VniAllocator()
    assert [numbers.claim(leases, link(str(number))) for number in range(500)] == list(range(11, 511))
    assert (leases.listings, leases.created) == (1, 500)
    assert leases.looked_up == []


def test_threads_that_claim_first_list_once() -> None:
    leases, numbers = Leases(high=200), VniAllocator()
    barrier = threading.Barrier(8)

    def claim(number: int) -> int:
        barrier.wait(10)
        return numbers.claim(leases, link(str(number)))

    with ThreadPoolExecutor(8) as at_once:
        assert len(set(at_once.map(claim, range(8)))) == 8
    assert leases.listings == 1


def test_a_list_that_failed_says_nothing(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    leases.hold(11, "another")
    numbers = VniAllocator()
    with monkeypatch.context() as broken:
        broken.setattr(leases, "list", failing)
        with pytest.raises(ForbiddenError):
            numbers.claim(leases, link("a"))
    assert leases.created == 0
    assert numbers.claim(leases, link("a")) == 12


def test_what_others_claimed_is_learnt_by_their_leases_and_listed_after_several_in_a_row(leases: Leases) -> None:
    leases.vni_range = (11, VNI_MAX)
    numbers = VniAllocator()
    numbers.claim(leases, link("a"))
    for vni in range(12, 12 + 2 * CROWD_MAX):
        leases.hold(vni, "another")
    claimed = numbers.claim(leases, link("b"))
    assert leases.stored[f"vni-{claimed}"]["spec"]["holderIdentity"] == "b"
    assert (leases.listings, leases.created) == (2, 1 + TAKEN_BEFORE_LIST + 1)


def test_agents_that_claim_at_once_seldom_try_a_number_of_another() -> None:
    """Twenty agents claim in turn. Each knows of the others' claims only what it has tried."""
    leases = Leases(high=VNI_MAX)
    agents = [VniAllocator() for _ in range(20)]
    claimed = [
        agent.claim(leases, link(f"{number}-{turn}")) for turn in range(25) for number, agent in enumerate(agents)
    ]
    assert len(set(claimed)) == 500
    assert leases.created <= 4 * 500
    assert leases.listings <= 4 * len(agents)


def test_a_small_range_is_used_up_again_and_again_whoever_frees(leases: Leases) -> None:
    """Another node frees each number: this one learns of it when the range seems exhausted."""
    numbers = VniAllocator()
    for turn in range(20):
        vni = numbers.claim(leases, link(str(turn)))
        del leases.stored[f"vni-{vni}"]
    assert leases.listings == 5


def test_a_lease_without_a_holder_is_in_use_until_a_list_no_longer_has_it(leases: Leases) -> None:
    leases.hold(11, None)
    numbers = VniAllocator()
    assert [numbers.claim(leases, link(uid)) for uid in "abc"] == [12, 13, 14]
    del leases.stored["vni-11"]
    assert numbers.claim(leases, link("d")) == 11


def test_all_are_listed_after_as_many_changes_as_there_are_numbers(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that others free would be kept for ever."""
    monkeypatch.setattr(numbers_module, "LIST_AFTER", 10)
    leases.vni_range = (11, VNI_MAX)
    for vni in range(11, 41):
        leases.hold(vni, "another")
    numbers = VniAllocator()
    for turn in range(31):
        numbers.claim(leases, link(str(turn)))
    leases.stored.clear()
    assert leases.listings == 1
    assert numbers.claim(leases, link("x")) == 11
    assert leases.listings == 2


# Records whose Leases are missing


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any list or lookup is a while ago."""
    monkeypatch.setattr(numbers_module, "RECORDS_SECONDS", -1.0)


@pytest.mark.usefixtures("later")
def test_a_number_that_a_record_has_got_since_the_list_is_not_claimed(leases: Leases) -> None:
    numbers = VniAllocator()
    assert numbers.claim(leases, link("a")) == 11
    leases.recorded = {11: "a", 12: "another", 13: "another"}
    assert numbers.claim(leases, link("b")) == 14
    assert leases.listings == 1
    assert leases.created == 2


@pytest.mark.usefixtures("later")
def test_a_number_that_the_record_has_by_now_is_claimed_for_it(leases: Leases) -> None:
    numbers = VniAllocator()
    numbers.claim(leases, link("a"))
    leases.recorded = {12: "b"}
    assert numbers.claim(leases, link("b")) == 12


def test_records_are_looked_up_for_many_claims_at_once(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    leases.vni_range = (11, VNI_MAX)
    numbers = VniAllocator()
    numbers.claim(leases, link("a"))
    monkeypatch.setattr(numbers, "_listed", float("-inf"))
    for number in range(LOOKED_UP_AT_ONCE):
        numbers.claim(leases, link(str(number)))
    assert [len(vnis) for vnis in leases.looked_up] == [LOOKED_UP_AT_ONCE + 1]


def test_threads_that_need_a_lookup_share_one(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that other threads are trying are in it, found or not."""
    leases.vni_range = (11, VNI_MAX)
    numbers, threads = VniAllocator(), 8
    numbers.claim(leases, link("a"))
    monkeypatch.setattr(numbers, "_listed", float("-inf"))
    leases.recorded = {12: "other", 13: "another"}
    all_wait, proposed = threading.Barrier(threads), numbers._proposed

    def propose(*given: Any) -> int:
        vni = proposed(*given)
        if not leases.looked_up:
            all_wait.wait(10)
        return vni

    monkeypatch.setattr(numbers, "_proposed", propose)
    with ThreadPoolExecutor(threads) as pool:
        claimed = list(pool.map(lambda number: numbers.claim(leases, link(str(number))), range(threads)))
    assert sorted(claimed) == list(range(14, 14 + threads))
    assert len(leases.looked_up) == 1


@pytest.mark.usefixtures("later")
def test_a_lookup_that_failed_says_nothing_and_keeps_no_number(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = VniAllocator()
    numbers.claim(leases, link("a"))
    with monkeypatch.context() as broken:
        broken.setattr(leases, "record_vnis", failing)
        with pytest.raises(ForbiddenError):
            numbers.claim(leases, link("b"))
    assert leases.created == 1
    assert numbers.claim(leases, link("b")) == 12


# Against a model


class Machine(RuleBasedStateMachine):
    """Two agents that claim, free and refuse; Leases that others claim, free or lose. A claim is always a free number.

    The model: a number is in use if a Lease or a record has it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases(11, 18)
        self.agents = [VniAllocator(), VniAllocator()]
        # What was read of records is believed for RECORDS_SECONDS; here for no time.
        self.patched = patch.object(numbers_module, "RECORDS_SECONDS", -1.0)
        self.patched.start()
        self.owners: dict[int, str] = {}
        self.born = 0

    def teardown(self) -> None:
        self.patched.stop()

    @rule(which=st.integers(0, 1), refused=st.sets(st.integers(11, 18), max_size=3))
    def claim(self, which: int, refused: set[int]) -> None:
        self.born += 1
        new = replace(link(f"u{self.born}"), refused_vnis=tuple(refused))
        used = {int(name[4:]) for name in self.leases.stored} | self.owners.keys()
        possible = set(range(11, 19)) - used - refused
        try:
            vni = self.agents[which].claim(self.leases, new)
        except VniExhaustedError:
            assert not possible
        else:
            assert vni in possible
            self.owners[vni] = self.leases.recorded[vni] = new.uid

    @rule(which=st.integers(0, 1), vni=st.integers(11, 18))
    def free(self, which: int, vni: int) -> None:
        """One of the agents deletes the record, then the Lease; only it knows."""
        if self.owners.pop(vni, None) is not None:
            del self.leases.recorded[vni]
            self.leases.stored.pop(f"vni-{vni}", None)
            self.agents[which].freed(vni)

    @rule(vni=st.integers(11, 18))
    def lose(self, vni: int) -> None:
        """Somebody deletes a Lease; its record stays."""
        self.leases.stored.pop(f"vni-{vni}", None)


TestAgainstAModel = Machine.TestCase
TestAgainstAModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
