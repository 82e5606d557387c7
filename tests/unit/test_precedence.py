"""Calls go before what runs in the background, and not for ever."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from ratchet.agent.precedence import Precedence


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def gives_way(precedence: Precedence, seconds: float = 60.0) -> threading.Event:
    """What is set once the background need not wait any more."""
    over = threading.Event()

    def wait() -> None:
        precedence.give_way(seconds)
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    return over


def test_the_background_goes_on_when_no_call_is_at_work() -> None:
    precedence = Precedence()
    assert gives_way(precedence).wait(10)
    with ExitStack() as calls:
        calls.enter_context(precedence.at_work())
        calls.enter_context(precedence.at_work())
        over = gives_way(precedence)
        assert not over.wait(0.05)
    assert over.wait(10)


def test_a_call_that_waits_for_its_peer_holds_nobody_up() -> None:
    precedence = Precedence()
    with precedence.at_work():
        over = gives_way(precedence)
        assert not over.wait(0.05)
        with precedence.waiting():
            assert over.wait(10)
        assert not gives_way(precedence, 0.5).wait(0.05)


def test_calls_that_follow_each_other_without_a_gap_do_not_go_first_for_ever() -> None:
    """However late somebody comes who would give way: it is the calls' time that is limited, and not each wait's."""
    clock = Clock()
    precedence = Precedence(clock)
    with precedence.at_work():
        clock.now = 59.0
        with precedence.at_work():
            assert not gives_way(precedence).wait(0.05)
            clock.now = 60.0
            assert gives_way(precedence).wait(10)
    clock.now = 100.0
    with precedence.at_work():
        assert not gives_way(precedence).wait(0.05)
