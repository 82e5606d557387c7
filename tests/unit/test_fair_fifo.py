"""The fair queue: tenants take turns, and the keys of one tenant stay in order."""

from __future__ import annotations

import pytest

from ratchet.core.fair_fifo import FairFifo

Fifo = FairFifo[str, str]


def filled(*keys: str, limit: int | None = None) -> Fifo:
    """A queue with these keys. The tenant of a key is its first letter."""
    fifo = Fifo(limit)
    for key in keys:
        fifo.push(key[0], key)
    return fifo


def taken_in_turn(fifo: Fifo) -> list[str]:
    """Take and release all keys, one by one."""
    keys = []
    while (taken := fifo.pop()) is not None:
        tenant, key = taken
        keys.append(key)
        fifo.release(tenant)
    return keys


@pytest.mark.parametrize(
    ("pushed", "taken"),
    [
        ([], []),
        (["a1", "a2", "a3"], ["a1", "a2", "a3"]),
        (["a1", "a2", "a3", "b1"], ["a1", "b1", "a2", "a3"]),
        (["a1", "a2", "b1", "b2", "c1", "c2"], ["a1", "b1", "c1", "a2", "b2", "c2"]),
        (["a1", "a2", "a1", "b1"], ["a1", "b1", "a2"]),
    ],
    ids=["empty", "one tenant", "a late tenant", "three tenants", "a duplicate"],
)
def test_tenants_take_turns(pushed: list[str], taken: list[str]) -> None:
    assert taken_in_turn(filled(*pushed)) == taken


@pytest.mark.parametrize("count", [1, 10, 10_000])
def test_a_tenants_key_is_among_the_first_two_however_many_another_tenant_has(count: int) -> None:
    fifo = filled(*(f"a{number}" for number in range(count)), "b")
    assert "b" in taken_in_turn(fifo)[:2]


def test_a_tenant_that_comes_back_waits_behind_the_others() -> None:
    fifo = filled("a1", "a2", "b1", "b2")
    assert fifo.pop() == ("a", "a1")
    fifo.push("a", "a3")
    assert taken_in_turn(fifo) == ["b1", "a2", "b2", "a3"]


def test_a_tenant_at_its_limit_is_passed_over_until_a_key_is_released() -> None:
    fifo = filled("a1", "a2", "a3", "b1", limit=2)
    assert [fifo.pop() for _ in range(3)] == [("a", "a1"), ("b", "b1"), ("a", "a2")]
    assert fifo.pop() is None
    assert len(fifo) == 1
    assert fifo.release("b") is False, "it has no key that waits"
    assert fifo.release("a") is True
    assert fifo.pop() == ("a", "a3")


def test_push_reports_a_key_that_waits_already() -> None:
    fifo = Fifo()
    assert fifo.push("a", "a1")
    assert not fifo.push("a", "a1")
    fifo.pop()
    assert "a1" not in fifo
    assert fifo.push("a", "a1")
