"""The priority of CNI calls over background work, and its time limit."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from ratchet.agent.priority import ForegroundGate
from tests.support.manual_clock import Clock


def start_background_work(foreground: ForegroundGate, seconds: float = 60.0) -> threading.Event:
    """Start a thread that yields to calls, and return an event that is set once the thread continues."""
    resumed = threading.Event()

    def wait() -> None:
        foreground.yield_to_calls(seconds)
        resumed.set()

    threading.Thread(target=wait, daemon=True).start()
    return resumed


def test_background_work_continues_when_no_call_is_at_work() -> None:
    foreground = ForegroundGate()
    assert start_background_work(foreground).wait(10)
    with ExitStack() as calls:
        calls.enter_context(foreground.at_work())
        calls.enter_context(foreground.at_work())
        resumed = start_background_work(foreground)
        assert not resumed.wait(0.05)
    assert resumed.wait(10)


def test_a_call_that_waits_for_its_peer_does_not_delay_background_work() -> None:
    foreground = ForegroundGate()
    with foreground.at_work():
        resumed = start_background_work(foreground)
        assert not resumed.wait(0.05)
        with foreground.waiting():
            assert resumed.wait(10)
        assert not start_background_work(foreground, 0.5).wait(0.05)


def test_a_wait_outside_of_a_call_does_not_hide_a_call() -> None:
    foreground = ForegroundGate()
    with foreground.waiting(), ThreadPoolExecutor(1) as pool, ExitStack() as call:
        pool.submit(call.enter_context, foreground.at_work()).result()
        assert not start_background_work(foreground).wait(0.05)
        pool.submit(call.close).result()
        assert start_background_work(foreground).wait(10)


def test_a_call_is_counted_as_waiting_once() -> None:
    foreground = ForegroundGate()
    with foreground.at_work(), foreground.waiting(), foreground.waiting(), ThreadPoolExecutor(1) as other:
        with ExitStack() as call:
            other.submit(call.enter_context, foreground.at_work()).result()
            assert not start_background_work(foreground).wait(0.05)
            other.submit(call.close).result()
        assert start_background_work(foreground).wait(10)


def test_calls_in_a_row_delay_background_work_for_a_limited_time(clock: Clock) -> None:
    """The limit counts from the first call in the row, not from the start of each wait."""
    foreground = ForegroundGate(clock)
    with foreground.at_work():
        clock.now += 59.0
        with foreground.at_work():
            assert not start_background_work(foreground).wait(0.05)
            clock.now += 1.0
            assert start_background_work(foreground).wait(10)
    clock.now += 40.0
    with foreground.at_work():
        assert not start_background_work(foreground).wait(0.05)
