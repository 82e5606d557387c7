"""The work queue: one worker at a time has a key, and no key is lost."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest

from ratchet.agent.queue import FIRST_PAUSE, LONGEST_PAUSE, POD_SECONDS, ReconcileQueue, WorkQueue
from tests.support.manual_clock import Clock


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock, jitter=lambda: 1.0)


def take_all(queue: WorkQueue[str]) -> list[str]:
    """Take all keys that are due now."""
    keys = []
    while not queue.is_idle() and len(queue):
        key = queue.take()
        assert key is not None
        keys.append(key)
    return keys


def test_keys_are_taken_once_in_the_order_in_which_they_were_added(queue: WorkQueue[str]) -> None:
    for key in "abcab":
        queue.add(key)
    assert len(queue) == 3
    assert take_all(queue) == ["a", "b", "c"]


def test_a_key_that_is_added_while_a_worker_has_it_is_taken_again_afterwards(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert take_all(queue) == ["a"]
    queue.done("a")
    assert queue.is_idle()


def test_the_longest_work_is_the_key_that_a_worker_took_first(queue: WorkQueue[str], clock: Clock) -> None:
    assert queue.longest_work() is None
    for key in "ab":
        queue.add(key)
        queue.take()
        clock.now += 1
    queue.add("a")
    assert queue.longest_work() == ("a", 2)
    queue.done("a")
    assert queue.longest_work() == ("b", 1)
    assert queue.take() == "a"
    clock.now += 5
    assert queue.longest_work() == ("b", 6)
    queue.failed("b")
    assert queue.longest_work() == ("a", 5)


def test_a_failed_key_is_retried_with_backoff(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a")
    pauses = []
    for _ in range(12):
        assert queue.take() == "a"
        pauses.append(queue.failed("a"))
        assert queue.is_idle()
        clock.now += pauses[-1]
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_a_success_resets_the_backoff_of_a_key(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a")
    for _ in range(3):
        assert queue.take() == "a"
        queue.failed("a")
        clock.now += LONGEST_PAUSE
    assert queue.take() == "a"
    queue.done("a")
    queue.add("a")
    assert queue.take() == "a"
    assert queue.failed("a") == FIRST_PAUSE


def test_a_delayed_key_can_also_be_taken_now_if_it_is_added_again(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a", after=5)
    assert queue.is_idle()
    queue.add("a")
    assert queue.take() == "a"
    queue.done("a")
    clock.now += 5.0
    assert not queue.is_idle()
    assert queue.take() == "a"


def test_a_key_that_is_delayed_repeatedly_is_due_once_at_the_first_time(queue: WorkQueue[str], clock: Clock) -> None:
    start = clock.now
    for moment in range(10):
        clock.now = start + moment / 10
        queue.add("a", after=1.0)
    clock.now = start + 1.0
    assert not queue.is_idle()
    assert queue.take() == "a"
    queue.done("a")
    clock.now = start + 100.0
    assert queue.is_idle()


def test_close_wakes_a_waiting_worker_without_a_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    results: list[str | None] = []
    waiter = threading.Thread(target=lambda: results.append(queue.take()))
    waiter.start()
    queue.close()
    waiter.join(10)
    assert results == [None]


def test_two_workers_never_have_one_key_at_once_and_workers_see_every_addition() -> None:
    queue: WorkQueue[int] = WorkQueue()
    versions, seen, held = Counter[int](), dict[int, int](), Counter[int]()
    guard, clashes = threading.Lock(), list[int]()

    def work() -> None:
        while (key := queue.take()) is not None:
            with guard:
                held[key] += 1
                if held[key] > 1:
                    clashes.append(key)
                seen[key] = versions[key]
            with guard:
                held[key] -= 1
            queue.done(key)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(5000):
        key = random.randrange(20)
        with guard:
            versions[key] += 1
        queue.add(key)
    while not queue.is_idle():
        pass
    queue.close()
    for worker in workers:
        worker.join(10)
    assert clashes == []
    assert seen == dict(versions)


def test_a_link_is_due_at_once_and_a_pod_after_a_delay(clock: Clock) -> None:
    queue = ReconcileQueue(clock)
    queue.enqueue_pod("ns", "p")
    queue.enqueue_link("l")
    assert queue.take() == ("link", "", "l")
    assert queue.is_idle() is False
    clock.now += POD_SECONDS / 2
    queue.enqueue_pod("ns", "p")
    assert len(queue) == 0
    clock.now += POD_SECONDS / 2
    assert queue.take() == ("pod", "ns", "p")
    assert len(queue) == 0


def test_another_namespaces_link_is_taken_second_however_many_links_a_namespace_has_queued(clock: Clock) -> None:
    queue = ReconcileQueue(clock)
    for number in range(5000):
        queue.enqueue_link(f"hog.hub.e{number}.p{number}.in1")
    queue.enqueue_link("other.a.in1.b.in2")
    assert [queue.take(), queue.take()] == [("link", "", "hog.hub.e0.p0.in1"), ("link", "", "other.a.in1.b.in2")]


def test_the_pods_and_links_of_a_namespace_share_its_turns(clock: Clock) -> None:
    queue = ReconcileQueue(clock)
    queue.enqueue_pod("hog", "hub")
    clock.now += POD_SECONDS
    assert not queue.is_idle()  # the pod is due
    for link in ("hog.hub.e0.p0.in1", "hog.hub.e1.p1.in1", "other.a.in1.b.in2"):
        queue.enqueue_link(link)
    names = [taken.name for _ in range(4) if (taken := queue.take()) is not None]
    assert names == ["hub", "other.a.in1.b.in2", "hog.hub.e0.p0.in1", "hog.hub.e1.p1.in1"]


@pytest.mark.parametrize(("workers", "limit"), [(1, 1), (2, 1), (3, 2), (8, 6), (256, 192)])
def test_a_namespace_occupies_a_part_of_the_workers(workers: int, limit: int) -> None:
    queue = ReconcileQueue()
    queue.limit_tenants(workers)
    for number in range(workers):
        queue.enqueue_link(f"hog.hub.e{number}.p{number}.in1")
    taken = [queue.take() for _ in range(limit)]
    queue.enqueue_link("other.a.in1.b.in2")
    assert queue.take() == ("link", "", "other.a.in1.b.in2")
    assert len({key.name for key in taken if key is not None}) == limit


def test_a_worker_that_waits_gets_a_key_of_a_namespace_that_was_at_its_limit() -> None:
    queue = ReconcileQueue()
    queue.limit_tenants(2)
    queue.enqueue_link("hog.a.in1.b.in2")
    queue.enqueue_link("hog.c.in1.d.in2")
    first = queue.take()
    assert first is not None
    second: list[object] = []
    waiter = threading.Thread(target=lambda: second.append(queue.take()), daemon=True)
    waiter.start()
    queue.done(first)
    waiter.join(10)
    assert second == [("link", "", "hog.c.in1.d.in2")]
