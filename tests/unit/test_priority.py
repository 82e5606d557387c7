"""Calls go before what runs in the background, and not for ever."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from ratchet.agent.priority import ForegroundGate


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def gives_way(foreground: ForegroundGate, seconds: float = 60.0) -> threading.Event:
    """What is set once the background need not wait any more."""
    over = threading.Event()

    def wait() -> None:
        foreground.yield_to_calls(seconds)
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    return over


def test_the_background_goes_on_when_no_call_is_at_work() -> None:
    foreground = ForegroundGate()
    assert gives_way(foreground).wait(10)
    with ExitStack() as calls:
        calls.enter_context(foreground.at_work())
        calls.enter_context(foreground.at_work())
        over = gives_way(foreground)
        assert not over.wait(0.05)
    assert over.wait(10)


def test_a_call_that_waits_for_its_peer_holds_nobody_up() -> None:
    foreground = ForegroundGate()
    with foreground.at_work():
        over = gives_way(foreground)
        assert not over.wait(0.05)
        with foreground.waiting():
            assert over.wait(10)
        assert not gives_way(foreground, 0.5).wait(0.05)


def test_calls_that_follow_each_other_without_a_gap_do_not_go_first_for_ever() -> None:
    """However late somebody comes who would give way: it is the calls' time that is limited, and not each wait's."""
    clock = Clock()
    foreground = ForegroundGate(clock)
    with foreground.at_work():
        clock.now = 59.0
        with foreground.at_work():
            assert not gives_way(foreground).wait(0.05)
            clock.now = 60.0
            assert gives_way(foreground).wait(10)
    clock.now = 100.0
    with foreground.at_work():
        assert not gives_way(foreground).wait(0.05)
