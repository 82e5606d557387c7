"""VNI allocation: each VNI is claimed once, with few requests, even if others claim and free VNIs meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from ratchet.core.garbage import Claim
from ratchet.core.model import End, Link
from ratchet.errors import InvalidIntentError, VniExhaustedError
from ratchet.store import vni as vni_module
from ratchet.store.api_errors import AlreadyExistsError, ForbiddenError, NotFoundError
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec.leases import decode_claim
from ratchet.store.vni import CROWD_MAX, LOOKED_UP_AT_ONCE, TAKEN_BEFORE_LIST, VniAllocator
from ratchet.store.vni_holders import VNI_MAX
from tests.support.lines import lines_run


def failing(*_: object) -> Any:
    raise ForbiddenError("cannot list: forbidden")


def link(uid: str) -> Link:
    return Link(f"link-{uid}", "ns", End("a", "in1"), End("b", "in2"), uid=uid)


class Leases:
    """The Leases of an API server by name. Counts the lists and the attempts to create a Lease."""

    path = "/leases"

    def __init__(self, low: int = 11, high: int = 14) -> None:
        self.vni_range = (low, high)
        self.per_namespace = high
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

    def claims(self) -> Sequence[Claim]:
        self.listings += 1
        return [claim for one in self.stored.values() if (claim := decode_claim(one)) is not None]


@pytest.fixture
def leases() -> Leases:
    return Leases()


def test_the_lowest_free_vni_is_claimed_and_leases_are_listed_once(leases: Leases) -> None:
    leases.hold(12, "another")
    allocator = VniAllocator()
    assert [allocator.claim(leases, link(uid)) for uid in ("a", "b")] == [11, 13]
    assert leases.listings == 1


def test_a_vni_whose_lease_the_record_holds_is_claimed_again(leases: Leases) -> None:
    leases.hold(13, "a")
    assert VniAllocator().claim(leases, link("a")) == 13
    assert len(leases.stored) == 1


@pytest.mark.parametrize("holder", ["another", "", None])
def test_a_vni_taken_since_the_list_is_skipped_whatever_its_holder(leases: Leases, holder: str | None) -> None:
    allocator = VniAllocator()
    assert allocator.claim(leases, link("a")) == 11
    leases.hold(12, holder)
    assert allocator.claim(leases, link("b")) in (13, 14)


def test_a_claim_whose_response_was_lost_is_recognized(leases: Leases) -> None:
    allocator = VniAllocator()
    assert allocator.claim(leases, link("a")) == 11
    leases.hold(12, "b")
    assert allocator.claim(leases, link("b")) == 12


def test_leases_are_listed_again_before_the_range_counts_as_exhausted(leases: Leases) -> None:
    allocator = VniAllocator()
    for uid in "abcd":
        allocator.claim(leases, link(uid))
    del leases.stored["vni-12"]
    assert allocator.claim(leases, link("e")) == 12
    with pytest.raises(VniExhaustedError, match=r"all 4 of \[11, 14\] are in use"):
        allocator.claim(leases, link("f"))


def test_a_freed_vni_is_claimed_again_without_a_list(leases: Leases) -> None:
    allocator = VniAllocator()
    allocator.claim(leases, link("a"))
    del leases.stored["vni-11"]
    allocator.freed(11)
    assert allocator.claim(leases, link("b")) == 11
    assert leases.listings == 1


def test_a_vni_that_a_watch_reported_is_not_tried(leases: Leases) -> None:
    allocator = VniAllocator()
    allocator.claim(leases, link("a"))
    leases.hold(12, "another")
    allocator.note(12, "another")
    allocator.note(11, "another")  # outdated: link a has claimed it since
    assert allocator.claim(leases, link("b")) == 13
    assert allocator.claim(leases, link("a")) == 11
    assert leases.created == 3


def test_threads_never_claim_one_vni_twice() -> None:
    leases, allocator = Leases(high=200), VniAllocator()
    with ThreadPoolExecutor(16) as executor:
        claimed = list(executor.map(lambda number: allocator.claim(leases, link(str(number))), range(100)))
    assert len(set(claimed)) == 100


def test_a_thread_that_lists_does_not_try_a_vni_that_another_thread_is_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ends of a pod are created concurrently, in a process that has not listed before."""
    leases, allocator, claimed = Leases(), VniAllocator(), list[int]()
    tried: list[str] = []

    def create(path: str, body: dict[str, Any]) -> dict[str, Any]:
        tried.append(body["metadata"]["name"])
        if len(tried) == 1:
            monkeypatch.setattr(allocator, "_lists", 0)
            claimed.append(allocator.claim(leases, link("b")))
        return Leases.create(leases, path, body)

    monkeypatch.setattr(leases, "create", create)
    claimed.append(allocator.claim(leases, link("a")))
    assert sorted(claimed) == [11, 12]
    assert tried == ["vni-11", "vni-12"]


def test_a_vni_of_a_record_is_not_claimed_even_without_its_lease(leases: Leases) -> None:
    leases.recorded = {11: "another", 12: "b"}
    assert VniAllocator().claim(leases, link("a")) == 13


def test_a_refused_vni_is_not_claimed_again(leases: Leases) -> None:
    leases.hold(12, "a")
    refusing = replace(link("a"), refused_vnis=(11, 12))
    assert VniAllocator().claim(leases, refusing) == 13


def test_another_vni_is_neither_the_current_one_nor_one_that_the_record_holds(leases: Leases) -> None:
    """Another process that claimed a VNI for this record may be about to free its Lease."""
    leases.hold(12, "a")
    with_vni = replace(link("a"), vni=11)
    assert VniAllocator().claim(leases, with_vni, another=True) == 13


def test_a_records_own_vni_is_claimed_again_unless_another_holds_its_lease(leases: Leases) -> None:
    allocator = VniAllocator()
    assert allocator.claim(leases, link("a")) == 11
    leases.hold(11, "another")
    vni = allocator.claim(leases, link("a"))
    assert vni != 11
    del leases.stored[f"vni-{vni}"]
    assert allocator.claim(leases, link("a")) == vni
    assert f"vni-{vni}" in leases.stored


# The limit of a namespace


def link_in(namespace: str, uid: str) -> Link:
    return Link(f"{namespace}.a.in{uid}.b.in{uid}", namespace, End("a", f"in{uid}"), End("b", f"in{uid}"), uid=uid)


@pytest.fixture
def limited() -> Leases:
    """Leases of which two may belong to one namespace."""
    leases = Leases(high=99)
    leases.per_namespace = 2
    return leases


@pytest.mark.parametrize("fresh", [False, True], ids=["one process", "a process for each claim"])
def test_a_namespace_gets_no_more_vnis_than_its_limit(limited: Leases, fresh: bool) -> None:
    allocator = VniAllocator()
    for number in range(2):
        (VniAllocator() if fresh else allocator).claim(limited, link_in("hog", f"h{number}"))
    with pytest.raises(InvalidIntentError) as caught:
        (VniAllocator() if fresh else allocator).claim(limited, link_in("hog", "h2"))
    assert str(caught.value) == (
        "cannot give the link hog.a.inh2.b.inh2 a VNI: namespace hog has 2 VNIs, and links_per_namespace is 2"
    )
    assert len(limited.stored) == 2
    (VniAllocator() if fresh else allocator).claim(limited, link_in("other", "o"))
    assert len(limited.stored) == 3


def test_a_record_that_holds_a_vni_claims_it_again_at_the_limit(limited: Leases) -> None:
    allocator = VniAllocator()
    first = allocator.claim(limited, link_in("hog", "h0"))
    allocator.claim(limited, link_in("hog", "h1"))
    assert allocator.claim(limited, link_in("hog", "h0")) == first
    assert allocator.claim(limited, link_in("hog", "h0"), another=True) not in (first, first + 1)


def test_a_freed_vni_makes_room_in_the_namespace(limited: Leases) -> None:
    allocator = VniAllocator()
    vni = allocator.claim(limited, link_in("hog", "h0"))
    allocator.claim(limited, link_in("hog", "h1"))
    del limited.stored[f"vni-{vni}"]
    allocator.freed(vni)
    assert allocator.claim(limited, link_in("hog", "h2")) == vni


def test_a_namespace_at_its_limit_causes_no_list_for_each_claim(limited: Leases) -> None:
    allocator = VniAllocator()
    for number in range(2):
        allocator.claim(limited, link_in("hog", f"h{number}"))
    for _ in range(5):
        with pytest.raises(InvalidIntentError):
            allocator.claim(limited, link_in("hog", "h2"))
    assert limited.listings == 1


def test_vnis_that_another_node_has_freed_are_found_by_a_later_list(
    limited: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vni_module, "LIMIT_SECONDS", -1.0)
    allocator = VniAllocator()
    for number in range(2):
        allocator.claim(limited, link_in("hog", f"h{number}"))
    limited.stored.clear()
    assert allocator.claim(limited, link_in("hog", "h2")) == 11


def test_a_watched_record_counts_to_its_namespace(limited: Leases) -> None:
    allocator = VniAllocator()
    allocator.claim(limited, link_in("hog", "h0"))
    allocator.note(50, "h1", "hog.c.in1.d.in1")
    with pytest.raises(InvalidIntentError):
        allocator.claim(limited, link_in("hog", "h2"))


def test_threads_that_claim_at_the_same_time_keep_to_the_limit() -> None:
    leases, allocator = Leases(high=200), VniAllocator()
    leases.per_namespace = 10

    def claims(number: int) -> bool:
        try:
            allocator.claim(leases, link_in("hog", f"h{number}"))
        except InvalidIntentError:
            return False
        return True

    with ThreadPoolExecutor(8) as executor:
        assert sum(executor.map(claims, range(40))) == 10
    assert len(leases.stored) == 10


# The cost of a claim


@pytest.mark.parametrize("another", [False, True])
def test_the_cost_of_a_claim_does_not_grow_with_the_number_of_leases(another: bool) -> None:
    costs = []
    for held in (50, 5000):
        leases, allocator = Leases(high=VNI_MAX), VniAllocator()
        for vni in range(11, 11 + held):
            leases.hold(vni, f"holder-{vni}")
        allocator.claim(leases, link("first"))
        costs.append(lines_run(partial(allocator.claim, leases, link("second"), another=another)))
    # A binary search takes a few more steps.
    assert costs[1] <= costs[0] + 20


def test_many_claims_list_all_leases_once(leases: Leases) -> None:
    leases.vni_range = (11, VNI_MAX)
    allocator = VniAllocator()
    assert [allocator.claim(leases, link(str(number))) for number in range(500)] == list(range(11, 511))
    assert (leases.listings, leases.created) == (1, 500)
    assert leases.looked_up == []


def test_first_claims_of_several_threads_list_once() -> None:
    leases, allocator = Leases(high=200), VniAllocator()
    barrier = threading.Barrier(8)

    def claim(number: int) -> int:
        barrier.wait(10)
        return allocator.claim(leases, link(str(number)))

    with ThreadPoolExecutor(8) as executor:
        assert len(set(executor.map(claim, range(8)))) == 8
    assert leases.listings == 1


def test_a_failed_list_is_repeated_by_the_next_claim(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    leases.hold(11, "another")
    allocator = VniAllocator()
    with monkeypatch.context() as broken:
        broken.setattr(leases, "claims", failing)
        with pytest.raises(ForbiddenError):
            allocator.claim(leases, link("a"))
    assert leases.created == 0
    assert allocator.claim(leases, link("a")) == 12


def test_leases_are_listed_again_after_several_taken_vnis_in_a_row(leases: Leases) -> None:
    leases.vni_range = (11, VNI_MAX)
    allocator = VniAllocator()
    allocator.claim(leases, link("a"))
    for vni in range(12, 12 + 2 * CROWD_MAX):
        leases.hold(vni, "another")
    claimed = allocator.claim(leases, link("b"))
    assert leases.stored[f"vni-{claimed}"]["spec"]["holderIdentity"] == "b"
    assert (leases.listings, leases.created) == (2, 1 + TAKEN_BEFORE_LIST + 1)


def test_agents_that_claim_in_turn_seldom_try_a_vni_of_another_agent() -> None:
    """Each of twenty agents learns of the others' claims only by trying."""
    leases = Leases(high=VNI_MAX)
    agents = [VniAllocator() for _ in range(20)]
    claimed = [
        agent.claim(leases, link(f"{number}-{turn}")) for turn in range(25) for number, agent in enumerate(agents)
    ]
    assert len(set(claimed)) == 500
    assert leases.created <= 4 * 500
    assert leases.listings <= 4 * len(agents)


def test_a_small_range_is_reused_with_few_lists_if_another_node_frees_its_vnis(leases: Leases) -> None:
    """This node learns of the freed VNIs only when the range seems exhausted."""
    allocator = VniAllocator()
    for turn in range(20):
        vni = allocator.claim(leases, link(str(turn)))
        del leases.stored[f"vni-{vni}"]
    assert leases.listings == 5


def test_a_lease_without_a_holder_is_in_use_until_a_list_no_longer_has_it(leases: Leases) -> None:
    leases.hold(11, None)
    allocator = VniAllocator()
    assert [allocator.claim(leases, link(uid)) for uid in "abc"] == [12, 13, 14]
    del leases.stored["vni-11"]
    assert allocator.claim(leases, link("d")) == 11


def test_leases_are_listed_again_after_as_many_changes_as_there_are_leases(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a VNI that another node frees would count as in use forever."""
    monkeypatch.setattr(vni_module, "LIST_AFTER", 10)
    leases.vni_range = (11, VNI_MAX)
    for vni in range(11, 41):
        leases.hold(vni, "another")
    allocator = VniAllocator()
    for turn in range(31):
        allocator.claim(leases, link(str(turn)))
    leases.stored.clear()
    assert leases.listings == 1
    assert allocator.claim(leases, link("x")) == 11
    assert leases.listings == 2


# Records whose Leases are missing


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each list and lookup outdated at once, so that records are looked up again."""
    monkeypatch.setattr(vni_module, "RECORDS_SECONDS", -1.0)


@pytest.mark.usefixtures("later")
def test_a_vni_that_another_record_got_since_the_list_is_not_claimed(leases: Leases) -> None:
    allocator = VniAllocator()
    assert allocator.claim(leases, link("a")) == 11
    leases.recorded = {11: "a", 12: "another", 13: "another"}
    assert allocator.claim(leases, link("b")) == 14
    assert leases.listings == 1
    assert leases.created == 2


@pytest.mark.usefixtures("later")
def test_a_vni_that_the_record_got_since_the_list_is_claimed_for_it(leases: Leases) -> None:
    allocator = VniAllocator()
    allocator.claim(leases, link("a"))
    leases.recorded = {12: "b"}
    assert allocator.claim(leases, link("b")) == 12


def test_one_lookup_of_records_covers_many_claims(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    leases.vni_range = (11, VNI_MAX)
    allocator = VniAllocator()
    allocator.claim(leases, link("a"))
    monkeypatch.setattr(allocator, "_listed", float("-inf"))
    for number in range(LOOKED_UP_AT_ONCE):
        allocator.claim(leases, link(str(number)))
    assert [len(vnis) for vnis in leases.looked_up] == [LOOKED_UP_AT_ONCE + 1]


def test_threads_that_need_a_lookup_share_one(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lookup includes the VNIs that the other threads are trying."""
    leases.vni_range = (11, VNI_MAX)
    allocator, threads = VniAllocator(), 8
    allocator.claim(leases, link("a"))
    monkeypatch.setattr(allocator, "_listed", float("-inf"))
    leases.recorded = {12: "other", 13: "another"}
    all_wait, proposed = threading.Barrier(threads), allocator._proposed

    def propose(*given: Any) -> int:
        vni = proposed(*given)
        if not leases.looked_up:
            all_wait.wait(10)
        return vni

    monkeypatch.setattr(allocator, "_proposed", propose)
    with ThreadPoolExecutor(threads) as pool:
        claimed = list(pool.map(lambda number: allocator.claim(leases, link(str(number))), range(threads)))
    assert sorted(claimed) == list(range(14, 14 + threads))
    assert len(leases.looked_up) == 1


@pytest.mark.usefixtures("later")
def test_a_failed_lookup_creates_no_lease_and_reserves_no_vni(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = VniAllocator()
    allocator.claim(leases, link("a"))
    with monkeypatch.context() as broken:
        broken.setattr(leases, "record_vnis", failing)
        with pytest.raises(ForbiddenError):
            allocator.claim(leases, link("b"))
    assert leases.created == 1
    assert allocator.claim(leases, link("b")) == 12


# Against a model


class Machine(RuleBasedStateMachine):
    """Two agents that claim and free VNIs, and Leases that get lost. Each claim must get a free VNI.

    In the model, a VNI is in use if a Lease or a record has it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases(11, 18)
        self.agents = [VniAllocator(), VniAllocator()]
        # A lookup of records is valid for RECORDS_SECONDS. Here it is outdated at once.
        self.patched = patch.object(vni_module, "RECORDS_SECONDS", -1.0)
        self.patched.start()
        self.owners: dict[int, str] = {}
        self.links_created = 0

    def teardown(self) -> None:
        self.patched.stop()

    @rule(which=st.integers(0, 1), refused=st.sets(st.integers(11, 18), max_size=3))
    def claim(self, which: int, refused: set[int]) -> None:
        self.links_created += 1
        new = replace(link(f"u{self.links_created}"), refused_vnis=tuple(refused))
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
        """One agent deletes the record, then the Lease. The other agent does not know."""
        if self.owners.pop(vni, None) is not None:
            del self.leases.recorded[vni]
            self.leases.stored.pop(f"vni-{vni}", None)
            self.agents[which].freed(vni)

    @rule(vni=st.integers(11, 18))
    def lose(self, vni: int) -> None:
        """Delete a Lease whose record stays."""
        self.leases.stored.pop(f"vni-{vni}", None)


TestAgainstAModel = Machine.TestCase
TestAgainstAModel.settings = settings(stateful_step_count=30, deadline=None)
