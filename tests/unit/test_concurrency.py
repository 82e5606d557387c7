"""Several things at once: all of them, in order, or the first failure once nothing is at work any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from unittest.mock import patch

import pytest

from ratchet.node import concurrency
from ratchet.node.concurrency import HELPERS, map_concurrently

SECONDS = 20.0
subject: ContextVar[str] = ContextVar("subject", default="nothing")


def test_each_is_done_and_told_in_order() -> None:
    assert map_concurrently(lambda number: number * 2, range(100)) == [number * 2 for number in range(100)]
    assert map_concurrently(lambda number: number * 2, []) == []


def test_as_many_are_at_work_as_there_are_helpers_and_the_caller() -> None:
    together = threading.Barrier(HELPERS + 1, timeout=SECONDS)
    map_concurrently(lambda _: together.wait(), range(HELPERS + 1))


def test_one_alone_is_done_by_the_caller() -> None:
    assert map_concurrently(lambda _: threading.current_thread(), [1]) == [threading.current_thread()]


def test_helpers_know_what_the_caller_is_at_work_on() -> None:
    together = threading.Barrier(2, timeout=SECONDS)

    def seen(_: int) -> tuple[str, threading.Thread]:
        together.wait()
        return subject.get(), threading.current_thread()

    token = subject.set("a pod")
    try:
        found = map_concurrently(seen, range(2))
    finally:
        subject.reset(token)
    assert {said for said, _ in found} == {"a pod"}
    assert len({thread for _, thread in found}) == 2


def test_a_failure_is_raised_once_all_that_was_begun_has_ended_and_nothing_more_is_begun() -> None:
    together, told = threading.Barrier(3, timeout=SECONDS), threading.Event()
    begun: list[int] = []
    ended: list[int] = []

    def act(number: int) -> None:
        begun.append(number)
        together.wait()
        if number == 1:
            raise ValueError(number)
        assert told.wait(SECONDS)
        ended.append(number)

    class Told(concurrency.Work[int, None]):
        def do(self) -> None:
            super().do()
            told.set()  # by whoever failed, and went home

    with (
        patch.object(concurrency, "HELPERS", 2),
        patch.object(concurrency, "Work", Told),
        pytest.raises(ValueError, match="1"),
    ):
        map_concurrently(act, range(50))
    assert sorted(begun) == [0, 1, 2]
    assert sorted(ended) == [0, 2], "what was begun is over"


def test_of_several_failures_the_first_in_order_is_raised() -> None:
    together = threading.Barrier(2, timeout=SECONDS)

    def fail(number: int) -> None:
        together.wait()
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        map_concurrently(fail, range(2))


@pytest.fixture
def submitted() -> Iterator[list[Callable[[], None]]]:
    """What helpers were asked for, none of whom has come yet."""
    asked: list[Callable[[], None]] = []
    with patch.object(concurrency._helpers, "submit", lambda run, work: asked.append(lambda: run(work))):
        yield asked


def test_a_helper_who_comes_late_finds_nothing_to_do(submitted: list[Callable[[], None]]) -> None:
    done: list[int] = []
    map_concurrently(done.append, range(3))
    assert len(submitted) == 2
    for late in submitted:
        late()
    assert done == [0, 1, 2]


def test_a_helper_who_comes_after_a_failure_begins_nothing(submitted: list[Callable[[], None]]) -> None:
    done: list[int] = []

    def act(number: int) -> None:
        done.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        map_concurrently(act, range(3))
    for late in submitted:
        late()
    assert done == [0]


def test_without_threads_the_caller_does_all() -> None:
    with patch.object(concurrency._helpers, "submit", side_effect=RuntimeError("can't start new thread")):
        assert map_concurrently(lambda _: threading.current_thread(), range(3)) == [threading.current_thread()] * 3
