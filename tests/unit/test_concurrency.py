"""`map_concurrently`: results in order, or the first failure after all started calls have ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from unittest.mock import patch

import pytest

from ratchet.core.fair_fifo import share_of_one
from ratchet.node import concurrency
from ratchet.node.concurrency import HELPERS, map_concurrently
from ratchet.node.helpers import HelperPool

SECONDS = 20.0
subject: ContextVar[str] = ContextVar("subject", default="nothing")


def test_results_are_in_the_order_of_the_arguments() -> None:
    assert map_concurrently(lambda number: number * 2, range(100)) == [number * 2 for number in range(100)]
    assert map_concurrently(lambda number: number * 2, []) == []


def test_a_tenants_share_of_the_helpers_and_the_caller_work_concurrently() -> None:
    share = share_of_one(HELPERS)
    barrier = threading.Barrier(share + 1, timeout=SECONDS)
    map_concurrently(lambda _: barrier.wait(), range(share + 1))


def test_two_tenants_work_concurrently_although_one_has_more_than_all_helpers_can_do() -> None:
    """The first tenant's calls wait for the second tenant's, which run on two threads of its own."""
    others, started = threading.Barrier(2, timeout=SECONDS), threading.Semaphore(0)
    done = threading.Event()

    def occupy(_: int) -> None:
        started.release()
        assert done.wait(SECONDS)

    hog = threading.Thread(target=map_concurrently, args=(occupy, range(10 * HELPERS), "hog"), daemon=True)
    hog.start()
    for _ in range(share_of_one(HELPERS) + 1):
        assert started.acquire(timeout=SECONDS)
    try:
        map_concurrently(lambda _: others.wait(), range(2), "other")
    finally:
        done.set()
        hog.join(SECONDS)


def test_tenants_take_turns_after_each_thing() -> None:
    """A single helper thread has many things of one tenant first, and does a late tenant's thing second."""
    pool, order, begun, go = HelperPool(1), list[str](), threading.Event(), threading.Event()
    finished = threading.Event()

    def steps(name: str, count: int) -> Callable[[], bool]:
        left = list(range(count))

        def step() -> bool:
            begun.set()
            assert go.wait(SECONDS)
            order.append(f"{name}{left.pop(0)}")
            if len(order) == 4:
                finished.set()
            return bool(left)

        return step

    pool.submit("hog", steps("h", 3))
    assert begun.wait(SECONDS)
    pool.submit("other", steps("o", 1))
    go.set()
    assert finished.wait(SECONDS)
    assert order == ["h0", "o0", "h1", "h2"]


def test_a_single_call_runs_in_the_thread_of_the_caller() -> None:
    assert map_concurrently(lambda _: threading.current_thread(), [1]) == [threading.current_thread()]


def test_helpers_have_the_context_variables_of_the_caller() -> None:
    barrier = threading.Barrier(2, timeout=SECONDS)

    def seen(_: int) -> tuple[str, threading.Thread]:
        barrier.wait()
        return subject.get(), threading.current_thread()

    token = subject.set("a pod")
    try:
        found = map_concurrently(seen, range(2))
    finally:
        subject.reset(token)
    assert {value for value, _ in found} == {"a pod"}
    assert len({thread for _, thread in found}) == 2


def test_a_failure_starts_no_further_call_and_waits_for_the_started_calls() -> None:
    barrier, failed = threading.Barrier(3, timeout=SECONDS), threading.Event()
    started: list[int] = []
    ended: list[int] = []

    def act(number: int) -> None:
        started.append(number)
        barrier.wait()
        if number == 1:
            raise ValueError(number)
        assert failed.wait(SECONDS)
        ended.append(number)

    class SignallingWork(concurrency.Work[int, None]):
        def _process(self, number: int, thing: int) -> None:
            super()._process(number, thing)
            failed.set()  # the call that fails returns first, because the others wait for this event

    with (
        patch.object(concurrency, "HELPERS", 2),
        patch.object(concurrency, "Work", SignallingWork),
        pytest.raises(ValueError, match="1"),
    ):
        map_concurrently(act, range(50))
    assert sorted(started) == [0, 1, 2]
    assert sorted(ended) == [0, 2], "what was begun is over"


def test_the_first_in_order_of_several_failures_is_raised() -> None:
    barrier = threading.Barrier(2, timeout=SECONDS)

    def fail(number: int) -> None:
        barrier.wait()
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        map_concurrently(fail, range(2))


@pytest.fixture
def submitted() -> Iterator[list[Callable[[], bool]]]:
    """Calls that are submitted to helper threads. They start when the test calls them."""
    pending: list[Callable[[], bool]] = []
    with patch.object(concurrency._helpers, "submit", lambda _tenant, task: pending.append(task)):
        yield pending


def test_a_helper_that_starts_late_makes_no_call(submitted: list[Callable[[], bool]]) -> None:
    done: list[int] = []
    map_concurrently(done.append, range(3))
    assert len(submitted) == 2
    for late in submitted:
        late()
    assert done == [0, 1, 2]


def test_a_helper_that_starts_after_a_failure_makes_no_call(submitted: list[Callable[[], bool]]) -> None:
    done: list[int] = []

    def act(number: int) -> None:
        done.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        map_concurrently(act, range(3))
    for late in submitted:
        late()
    assert done == [0]


def test_the_caller_makes_all_calls_if_no_thread_can_start() -> None:
    with patch.object(concurrency._helpers, "submit", side_effect=RuntimeError("can't start new thread")):
        assert map_concurrently(lambda _: threading.current_thread(), range(3)) == [threading.current_thread()] * 3
